"""A live cache that is copied while its session goes on: every block as it was, or an error."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from support.caches import CacheSession
from torch import nn
from torpor.adapters import dynamic_cache
from torpor.adapters.demo_model import small_model
from torpor.adapters.dynamic_cache import LiveCache
from torpor.adapters.model_contents import contents_of
from torpor.adapters.model_identity import fingerprint_of
from torpor.client.kv_save import LastRows
from torpor.codec.kv_blocks import tensor_runs
from torpor.state.errors import SnapshotLost

TOKENS = 200


def blocks(live: LiveCache) -> list[tuple[int, int, memoryview]]:
    size, width = live.layout.block_tokens, live.layout.token_bytes()
    spans = [(at, min(at + size, live.tokens)) for at in range(0, live.tokens, size)]
    return [(start, stop, memoryview(bytearray((stop - start) * width))) for start, stop in spans]


@pytest.fixture
def session() -> CacheSession:
    session = CacheSession()
    session.grow(TOKENS, 1)
    return session


def test_what_was_captured_is_copied_while_the_session_appends_and_crops(session: CacheSession) -> None:
    live = LiveCache(session.cache)
    wanted = [image for *_, image in blocks(live)]
    for (start, stop, _), image in zip(blocks(live), wanted, strict=True):
        live.copy(start, stop, image)
    followers, failed = [live.follow() for _ in range(3)], list[BaseException]()

    def read(follower: Any) -> None:
        try:
            for _ in range(100):
                for (start, stop, into), image in zip(blocks(live), wanted, strict=True):
                    follower.copy(start, stop, into)
                    assert into == image
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read, args=(each,)) for each in followers]
    for thread in threads:
        thread.start()
    for step in range(1000):
        if not any(thread.is_alive() for thread in threads):
            break
        session.grow(3, step)
        if step >= 100 and step % 10 == 0:  # for a time it only grows
            session.crop_to(100 + step % 90)
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_tensor_in_a_writers_hand_is_copied_though_another_writer_comes_when_it_has_grown(
    session: CacheSession,
) -> None:
    live = LiveCache(session.cache)
    follower, (first, second, *_) = live.follow(), blocks(live)
    wanted = [memoryview(bytearray(each[2].nbytes)) for each in (first, second)]
    for (start, stop, _), image in zip((first, second), wanted, strict=True):
        live.copy(start, stop, image)
    layer, failed = session.cache.layers[1], list[Exception]()

    def copy() -> None:
        try:
            follower.copy(*second)
        except Exception as error:
            failed.append(error)

    other = threading.Thread(target=copy)

    class Slow:
        """The layer, for a writer that is kept waiting with its keys in hand."""

        def __getattr__(self, name: str) -> Any:
            found = getattr(layer, name)
            if name == "keys":
                session.cache.layers[1] = layer
                session.grow(1, 2)
                other.start()
                other.join(0.2)
            return found

    session.cache.layers[1] = Slow()
    follower.copy(*first)
    other.join()
    assert failed == []
    assert [first[2], second[2]] == wanted


def test_a_reset_cache_is_copied_as_it_was(session: CacheSession) -> None:
    live = LiveCache(session.cache)
    follower, (start, stop, wanted) = live.follow(), blocks(live)[1]
    live.copy(start, stop, wanted)
    session.cache.reset()
    into = memoryview(bytearray(wanted.nbytes))
    follower.copy(start, stop, into)
    assert into == wanted


def test_a_cache_that_grew_to_the_same_end_in_the_middle_of_a_copy_is_copied_as_it_was(
    session: CacheSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveCache(session.cache)
    follower, (start, stop, wanted) = live.follow(), blocks(live)[1]
    live.copy(start, stop, wanted)
    copy_bytes, lasts = (
        dynamic_cache._copy_bytes,
        [(t.keys[:, :, -1], t.values[:, :, -1]) for t in session.cache.layers],
    )

    def regrow(*arguments: Any) -> int:
        at = copy_bytes(*arguments)
        if session.cache.get_seq_length() == TOKENS and not regrown:
            regrown.append(at)
            session.crop_to(start)
            session.grow(TOKENS, 2)
            for layer, (key, value) in zip(session.cache.layers, lasts, strict=True):
                layer.keys[:, :, TOKENS - 1], layer.values[:, :, TOKENS - 1] = key, value
        return at

    regrown: list[int] = []
    monkeypatch.setattr(dynamic_cache, "_copy_bytes", regrow)
    into = memoryview(bytearray(wanted.nbytes))
    follower.copy(start, stop, into)
    assert regrown
    assert into == wanted


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", ["keys", "values"])
def test_tensors_that_are_put_in_by_hand_are_noticed(session: CacheSession, layer: int, name: str) -> None:
    live = LiveCache(session.cache)
    follower = live.follow()
    setattr(session.cache.layers[layer], name, torch.randn(1, 2, TOKENS + 9, 8).bfloat16())
    for start, stop, into in blocks(live):
        with pytest.raises(SnapshotLost):
            follower.copy(start, stop, into)


@pytest.mark.parametrize("replaced", [False, True], ids=["in place", "replaced"])
def test_tokens_that_are_changed_by_hand_are_noticed_though_the_last_is_not(
    session: CacheSession, replaced: bool
) -> None:
    live = LiveCache(session.cache)
    follower, (first, second, *_) = live.follow(), blocks(live)
    follower.copy(*first)
    layer = session.cache.layers[1]
    if replaced:
        layer.keys = layer.keys.clone()
    layer.keys[:, :, 100] = 0
    with pytest.raises(SnapshotLost):
        follower.copy(*second)


def test_layers_that_are_taken_away_are_noticed(session: CacheSession) -> None:
    live = LiveCache(session.cache)
    follower = live.follow()
    del session.cache.layers[2:]
    with pytest.raises(SnapshotLost):
        follower.copy(*blocks(live)[0])


@pytest.mark.parametrize("piece_bytes", [1, 40_000, 1 << 20])  # a tensor each, some, all at once
def test_a_block_that_was_read_in_pieces_has_the_witness_of_the_live_cache(
    session: CacheSession, piece_bytes: int
) -> None:
    live = LiveCache(session.cache)
    follower = live.follow()
    for number, (start, stop, image) in enumerate(blocks(live)[: TOKENS // live.layout.block_tokens]):
        live.copy(start, stop, image)
        rows, read = LastRows(live.layout, stop - start), bytearray()
        for first, size in tensor_runs(live.layout.tensor_bytes(), stop - start, piece_bytes):
            piece = memoryview(bytearray(size))
            follower.copy(start, stop, piece, first)
            rows.note(first, piece)
            read += piece
        assert read == image
        assert [rows.digest()] == live.witnesses(number, number + 1)


def replaced(model: nn.Module) -> None:
    model[1][0] = nn.Linear(4, 4)  # type: ignore[index]


def added(model: nn.Module) -> None:
    model[1].append(nn.Linear(4, 4))  # type: ignore[index,operator]


def taken_away(model: nn.Module) -> None:
    del model[1][1]  # type: ignore[index]


def without_bias(model: nn.Module) -> None:
    model[0].bias = None  # type: ignore[index,union-attr]


def new_weight(model: nn.Module) -> None:
    model[0].weight = nn.Parameter(torch.zeros(4, 4))  # type: ignore[index,union-attr]


def hooked(model: nn.Module) -> None:
    model[0].register_forward_hook(print)  # type: ignore[index,operator,union-attr]


def names_exchanged(model: nn.Module) -> None:
    inner = model[1]  # type: ignore[index]
    inner._modules = dict(zip(["1", "0"], inner._modules.values(), strict=True))


@pytest.mark.parametrize("change", [replaced, names_exchanged, added, taken_away, without_bias, new_weight, hooked])
def test_a_model_that_was_walked_before_is_seen_as_it_is_now(change: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    for _ in range(2):
        contents_of(model)
    change(model)
    found = contents_of(model)
    assert [name for name, _ in found.tensors] == list(dict(model.named_parameters()))
    assert all(a is b for (_, a), b in zip(found.tensors, model.parameters(), strict=True))
    assert (found.adapter_problem is not None) == (change is hooked)


def test_a_tensor_that_is_a_passing_buffer_too_is_seen_as_it_is_now() -> None:
    layer, shared = nn.LayerNorm(4), torch.ones(3)
    layer.register_buffer("passing", shared, persistent=False)
    layer.register_buffer("kept", shared)
    for _ in range(2):
        contents_of(layer)
    layer.kept = torch.zeros(3)
    assert dict(contents_of(layer).tensors)["kept"] is layer.kept


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_a_buffer_that_was_quantised_since_is_noticed() -> None:
    layer = nn.LayerNorm(4)
    layer.register_buffer("kept", torch.ones(3))
    for _ in range(2):
        contents_of(layer)
    layer.kept = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)
    assert contents_of(layer).quantizers == {"Tensor"}


def test_modules_that_changed_places_make_other_weights() -> None:
    model = small_model().model
    known = fingerprint_of(model).weights
    norms = model.model.language_model.layers[0]
    names = list(norms._modules)
    first, second = names.index("input_layernorm"), names.index("post_attention_layernorm")
    names[first], names[second] = names[second], names[first]
    norms.input_layernorm.weight.data.mul_(3)
    changed = fingerprint_of(model).weights
    norms._modules = dict(zip(names, norms._modules.values(), strict=True))
    assert len({known, changed, fingerprint_of(model).weights}) == 3
