"""A session begins with the KV that another one left behind: same tokens, same images, same model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from support.daemon import Daemon
from support.pictures import film_session, mixed_session, png, text
from torpor.adapters.demo_model import Loaded, small_model
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.client import Keeper, medium
from torpor.state.errors import BackupNotFound, BadInput, BlobDamaged, RestoreRefused

SETTINGS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
TOLERANCE = 1e-3  # see test_partial_cache.py


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so small a model, threads only wait for each other
    yield small_model(dtype=torch.float32)
    torch.set_num_threads(threads)


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as opened:
        yield opened


Words = Callable[..., list[int]]
_seeds = count(1000, 100)


@pytest.fixture
def own() -> Words:
    """Text ids that no other test has saved."""
    first = next(_seeds)
    return lambda length, number=0: text(length, first + number)


def target_of(loaded: Loaded) -> TransformersTarget:
    return TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)


def logits(session: TransformersSession) -> torch.Tensor:
    return torch.stack(session.generate(max_new_tokens=2, output_logits=True, **SETTINGS).logits)


def saved(keeper: Keeper, session: TransformersSession, name: str = "first") -> str:
    logits(session)
    return keeper.save(name, session).wait(60).id


def kv(cache: Any, tokens: int) -> list[torch.Tensor]:
    return [t[:, :, :tokens] for layer in cache.layers for t in (layer.keys, layer.values)]


def test_the_same_system_prompt_in_another_session(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    first = mixed_session(loaded, own(200), own(40, 1))
    backup_id = saved(keeper, first)
    expected = logits(mixed_session(loaded, own(200), own(70, 2)))
    loaded.model.model.rope_deltas = torch.tensor([[-50]])  # of whoever used the model last
    second = mixed_session(loaded, own(200), own(70, 2))
    hit = keeper.reuse_prefix(second)
    assert (hit.tokens, hit.backup_id) == (192, backup_id)
    assert hit.bytes_read == 192 * 4 * 2 * 2 * 64 * 4
    assert second.cache.get_seq_length() == 192
    assert all(torch.equal(a, b) for a, b in zip(kv(second.cache, 192), kv(first.cache, 192), strict=True))
    assert torch.allclose(logits(second), expected, atol=TOLERANCE)
    again = keeper.save("second", second).wait(60)
    blocks = [keeper.manifest(ref)[1].kv_cache.blocks for ref in (backup_id, again.id)]  # type: ignore[union-attr]
    assert blocks[0][:3] == blocks[1][:3]


def test_the_same_image_in_another_session(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    saved(keeper, mixed_session(loaded, own(200), png(1), own(60, 1)))
    parts = own(200), png(1), own(10, 1), png(2), own(9, 3)
    expected = logits(mixed_session(loaded, *parts))
    loaded.model.model.rope_deltas = None
    second = mixed_session(loaded, *parts)
    hit = keeper.reuse_prefix(second)
    assert hit.tokens == 192
    longer = mixed_session(loaded, own(200), png(1), own(60, 1), png(2), own(9, 3))
    whole = logits(mixed_session(loaded, own(200), png(1), own(60, 1), png(2), own(9, 3)))
    assert keeper.reuse_prefix(longer).tokens == 256  # behind the first image, before the second
    assert torch.allclose(logits(second), expected, atol=TOLERANCE)
    assert torch.allclose(logits(longer), whole, atol=TOLERANCE)


def test_another_image_of_the_same_size_ends_the_prefix_before_it(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    saved(keeper, mixed_session(loaded, own(100), png(1), own(100, 1)))
    second = mixed_session(loaded, own(100), png(2), own(100, 1))
    same = mixed_session(loaded, own(100), png(1), own(100, 1))
    assert torch.equal(second.token_ids, same.token_ids)
    assert torch.equal(second.image_grid_thw, same.image_grid_thw)  # type: ignore[arg-type]
    expected = logits(mixed_session(loaded, own(100), png(2), own(100, 1)))
    assert keeper.reuse_prefix(same).tokens == 192
    assert keeper.reuse_prefix(second).tokens == 64
    assert torch.allclose(logits(second), expected, atol=TOLERANCE)


def test_a_prefix_never_ends_inside_an_image(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    """The blocks agree up to the middle of the image, where the first one that differs begins."""
    parts = own(60), png(1, 280)  # 100 placeholders from token 61 on
    saved(keeper, mixed_session(loaded, *parts, own(90, 1)))
    expected = logits(mixed_session(loaded, *parts, own(90, 2)))
    second = mixed_session(loaded, *parts, own(90, 2))
    hit = keeper.reuse_prefix(second)
    assert (hit.tokens, second.cache.get_seq_length()) == (61, 61)
    assert hit.bytes_read == 64 * 4 * 2 * 2 * 64 * 4
    assert torch.allclose(logits(second), expected, atol=TOLERANCE)


def test_a_film(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    saved(keeper, film_session(loaded, own(50), own(4, 1), own(90, 2)))
    expected = logits(film_session(loaded, own(50), own(4, 1), own(80, 3)))
    second = film_session(loaded, own(50), own(4, 1), own(80, 3))
    hit = keeper.reuse_prefix(second)
    assert hit.tokens == 61  # the first frame, and all before the second
    assert torch.allclose(logits(second), expected, atol=TOLERANCE)


def test_one_id_is_left_to_be_fed(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    saved(keeper, mixed_session(loaded, own(150)))
    expected = logits(mixed_session(loaded, own(128)))
    second = mixed_session(loaded, own(128))
    assert keeper.reuse_prefix(second).tokens == 127
    assert torch.allclose(logits(second), expected, atol=TOLERANCE)


def test_ids_and_images_without_a_session(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    first = mixed_session(loaded, own(20), png(1), own(100, 1))
    saved(keeper, first)
    grid = tuple(first.image_grid_thw[0].tolist())  # type: ignore[index]
    target, ids = target_of(loaded), first.token_ids[0].tolist()
    hit = keeper.find_prefix(target, ids, [medium(png(1), grid)])
    assert hit.tokens == 128
    assert keeper.restore_prefix(hit, target).get_seq_length() == 128
    other = keeper.find_prefix(target, ids, [medium(png(2), grid)])
    assert (other.tokens, other.backup_id) == (0, None)
    unknown = keeper.find_prefix(target, first.token_ids)
    assert "from token 21 on is not known" in unknown.reason
    with pytest.raises(BadInput, match="no prefix to restore"):
        keeper.restore_prefix(unknown, target)


def test_another_model_gets_nothing(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    parts = own(70), png(1), own(70, 1)
    first = mixed_session(loaded, *parts)
    saved(keeper, first)
    hit = keeper.find_prefix(target_of(loaded), first.token_ids)
    assert hit.tokens == 64
    other = small_model(seed=1, dtype=torch.float32)
    assert keeper.reuse_prefix(mixed_session(other, *parts)).tokens == 0
    with pytest.raises(RestoreRefused, match="another model: weights"):
        keeper.restore_prefix(hit, target_of(other))
    tower = small_model(dtype=torch.float32)
    with torch.no_grad():
        tower.model.model.visual.blocks[0].mlp.linear_fc1.weight.mul_(1.01)
    assert keeper.reuse_prefix(mixed_session(tower, *parts)).tokens == 64  # of the text before the image
    whole = keeper.reuse_prefix(mixed_session(loaded, *parts))
    assert whole.tokens == 128
    with pytest.raises(RestoreRefused, match="another model: vision_weights"):
        keeper.restore_prefix(whole, target_of(tower))


def test_an_unknown_processor_ends_the_prefix_before_the_image(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    first = mixed_session(loaded, own(70), png(1), own(70, 1))
    saved(keeper, first)
    blind = mixed_session(loaded, own(70), png(1), own(70, 1))
    blind.processor = None
    hit = keeper.reuse_prefix(blind)
    assert hit.tokens == 64
    assert hit.reason == "the image encoder is not known: processor"


@pytest.mark.parametrize("change", ["a batch", "a padded row", "foreign token types"])
def test_rows_whose_positions_do_not_follow_from_their_ids(
    loaded: Loaded, keeper: Keeper, own: Words, change: str
) -> None:
    def changed() -> TransformersSession:
        session = mixed_session(loaded, own(100))
        if change == "a batch":
            session.token_ids = session.token_ids.expand(2, -1).clone()
            session.attention_mask = session.mm_token_type_ids = None
        elif change == "a padded row":
            session.attention_mask[0, :3] = 0  # type: ignore[index]
        else:
            session.mm_token_type_ids[0, 5] = 1  # type: ignore[index]
        return session

    if change != "foreign token types":  # the model itself refuses these
        backup_id = saved(keeper, changed())
        assert keeper.manifest(backup_id)[1].kv_cache.keys == ()  # type: ignore[union-attr]
    saved(keeper, mixed_session(loaded, own(100)), "second")
    hit = keeper.reuse_prefix(changed())
    assert (hit.tokens, hit.reason) == (0, "prefixes are found for one row of ids, without padding")


def test_a_removed_backup_gives_nothing_and_a_rebuilt_index_the_same(loaded: Loaded, home: Path, own: Words) -> None:
    target = target_of(loaded)
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        gone, kept = (saved(keeper, mixed_session(loaded, own(100, n)), f"s{n}") for n in (1, 2))
        hit = keeper.find_prefix(target, own(100, 1))
        assert daemon.request("DELETE", f"/v1/backups/{gone}").status_code == 204
        assert keeper.find_prefix(target, own(100, 1)).tokens == 0
        with pytest.raises(BackupNotFound):
            keeper.restore_prefix(hit, target)
        daemon.stop()
    for path in home.glob("index.sqlite*"):
        path.unlink()
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        assert keeper.find_prefix(target, own(100, 1)).tokens == 0
        assert keeper.find_prefix(target, own(100, 2)).backup_id == kept


def test_a_damaged_block_changes_nothing(loaded: Loaded, shared_daemon: Daemon, keeper: Keeper, own: Words) -> None:
    backup_id = saved(keeper, mixed_session(loaded, own(100)))
    block = keeper.manifest(backup_id)[1].kv_cache.blocks[0]  # type: ignore[union-attr]
    path = shared_daemon.home / "store" / "blobs" / block.digest[:2] / block.digest
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    session = mixed_session(loaded, own(100))
    with pytest.raises(BlobDamaged):
        keeper.reuse_prefix(session)
    assert session.cache is None
    path.unlink()
    assert keeper.reuse_prefix(session).tokens == 0


def test_a_session_with_a_cache_is_refused(loaded: Loaded, keeper: Keeper, own: Words) -> None:
    session = mixed_session(loaded, own(100))
    saved(keeper, session)
    with pytest.raises(BadInput, match="has a cache already"):
        keeper.reuse_prefix(session)


def test_without_shared_files(loaded: Loaded, shared_daemon: Daemon, own: Words) -> None:
    with shared_daemon.remote_keeper() as keeper:
        saved(keeper, mixed_session(loaded, own(100)))
        session = mixed_session(loaded, own(100))
        assert keeper.reuse_prefix(session).tokens == 64
        assert session.cache.get_seq_length() == 64


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"keys": []}', 200),
        (b'{"keys": ["' + b"0" * 64 + b'"]}', 200),
        (b'{"keys": [' + b",".join([b'"' + b"0" * 64 + b'"'] * 65_536) + b"]}", 200),
        (b'{"keys": [' + b",".join([b'"' + b"0" * 64 + b'"'] * 65_537) + b"]}", 422),
        (b'{"keys": ["' + b"0" * 63 + b'"]}', 422),
        (b'{"keys": ["' + b"G" * 64 + b'"]}', 422),
        (b'{"keys": ["' + b"0" * 64 + b'\\n"]}', 422),
        (b'{"keys": [1]}', 422),
        (b'{"keys": [null]}', 422),
        (b'{"keys": "' + b"0" * 64 + b'"}', 422),
        (b'{"keys": {}, "more": 1}', 422),
        (b'{"keys": [], "more": 1}', 422),
        (b"{}", 422),
        (b"[]", 422),
        (b"", 422),
        (b"\xff", 422),
        (b"[" * 100_000, 422),
        (b'{"keys": ["' + b"0" * (17 << 20) + b'"]}', 413),
    ],
    ids=range(18),
)
def test_odd_questions(shared_daemon: Daemon, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    answer = shared_daemon.request("POST", "/v1/prefix", content=body, headers=headers, timeout=30)
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"backup_id": None, "blocks": 0}
