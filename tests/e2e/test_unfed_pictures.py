"""Placeholders that are fed without their embeddings are read as words: no error, wrong text. So it must not happen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.daemon import Daemon
from support.pictures import film_session, mixed_session, png, text
from torpor.adapters.demo_model import Loaded, small_model
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.adapters.vision import _output
from torpor.client import Keeper
from torpor.client.capture import Woken
from torpor.state.errors import UnsupportedState

SETTINGS: dict[str, Any] = {
    "do_sample": False, "pad_token_id": 0, "eos_token_id": None, "suppress_tokens": [260, 261],
}  # fmt: skip
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return small_model(dtype=torch.float32)


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as keeper:
        keeper.max_recoverable_tokens = 140
        yield keeper


def target_of(loaded: Loaded) -> TransformersTarget:
    return TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)


def answer(session: TransformersSession) -> torch.Tensor:
    return torch.stack(session.generate(max_new_tokens=3, output_logits=True, **SETTINGS).logits)


def batch(loaded: Loaded) -> TransformersSession:
    """Two rows with an image each, the second one padded on the left."""
    rows = [mixed_session(loaded, text(n, n), png(n), text(60, n + 1)) for n in (150, 120)]
    length = rows[0].token_ids.shape[-1]
    ids = torch.zeros((2, length), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, length - row.token_ids.shape[-1] :] = row.token_ids[0]
        mask[i, length - row.token_ids.shape[-1] :] = 1
    outputs = [row.vision["image"] for row in rows]
    levels = [list(pair) for pair in zip(*(x.deepstack_features for x in outputs), strict=True)]
    return TransformersSession(
        loaded.model,
        ids,
        loaded.tokenizer,
        loaded.image_processor,
        attention_mask=mask,
        mm_token_type_ids=(ids == loaded.model.config.image_token_id).long(),
        image_grid_thw=torch.cat([row.image_grid_thw for row in rows if row.image_grid_thw is not None]),
        vision={
            "image": _output(
                [t for x in outputs for t in x.pooler_output], [[t for x in level for t in x] for level in levels]
            )
        },
        media=[medium for row in rows for medium in row.media],
    )


def image_and_film(loaded: Loaded) -> TransformersSession:
    session, film = mixed_session(loaded, text(20), png(1), text(100)), film_session(loaded, text(40), text(3), text(9))
    assert session.mm_token_type_ids is not None
    assert film.mm_token_type_ids is not None
    session.token_ids = torch.cat([session.token_ids, film.token_ids], 1)
    session.attention_mask = torch.ones_like(session.token_ids)
    session.mm_token_type_ids = torch.cat([session.mm_token_type_ids, film.mm_token_type_ids], 1)
    session.video_grid_thw, session.vision = film.video_grid_thw, {**session.vision, **film.vision}
    session.media = [*session.media, *film.media]
    return session


SESSIONS = {"batch": batch, "image and film": image_and_film}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_cut_session_is_fed_what_it_lacks(keeper: Keeper, loaded: Loaded, name: str) -> None:
    session = SESSIONS[name](loaded)
    session.generate(max_new_tokens=2, **SETTINGS)
    backup = keeper.save("cut", session).wait(60)
    expected = answer(session)
    woken = keeper.restore(backup.id, target_of(loaded))
    assert (woken.mode, woken.plan.tokens_reused) == ("prefix", 128)
    assert torch.allclose(answer(woken.session), expected, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "kind"), [("batch", "image"), ("image and film", "video")])
def test_a_session_without_all_embeddings_is_not_cut_before_them(
    keeper: Keeper, loaded: Loaded, name: str, kind: str
) -> None:
    """The caller fed pixels by themselves and gave the session nothing to feed again."""
    session = SESSIONS[name](loaded)
    session.generate(max_new_tokens=2, **SETTINGS)
    del session.vision[kind]
    backup = keeper.save("without", session).wait(60)
    manifest = keeper.manifest(backup.id)[1]
    assert "vision_cache" not in manifest.layers
    if session.vision:
        assert manifest.omitted["vision_cache"] == "0 video embeddings for 8 placeholders"
    plan = keeper.plan(backup.id, target_of(loaded))
    assert (plan.mode, plan.tokens_reused) == ("media", 0)
    assert "pictures behind the ids cannot be fed" in plan.layers["tokens"][1]
    expected = answer(session)
    keeper.max_recoverable_tokens = 1000
    whole = keeper.restore(backup.id, target_of(loaded), require="full").session
    assert torch.equal(answer(whole), expected)


def test_placeholders_are_never_read_as_words(loaded: Loaded) -> None:
    session = image_and_film(loaded)
    film = session.vision.pop("video")
    with pytest.raises(UnsupportedState, match="8 video placeholders are not in the cache"):
        session.generate(max_new_tokens=1, **SETTINGS)
    with pytest.raises(UnsupportedState, match="8 video placeholders are not in the cache"):
        session.prefill()
    assert session.cache is None
    session.vision["video"] = film
    session.prefill()
    session.vision = {}
    session.generate(max_new_tokens=1, **SETTINGS)  # all are in the cache


def test_a_placeholder_that_was_sampled_is_a_word(keeper: Keeper, loaded: Loaded) -> None:
    session = mixed_session(loaded, text(20))
    session.extend(torch.tensor([[loaded.model.config.image_token_id, 7]]))
    session.generate(max_new_tokens=1, **SETTINGS)
    session = mixed_session(loaded, text(70), png(1), text(9))
    session.generate(max_new_tokens=1, **SETTINGS)
    session.extend(torch.tensor([[loaded.model.config.image_token_id, *text(70, 2)]]))
    session.generate(max_new_tokens=1, **SETTINGS)
    backup = keeper.save("sampled", session).wait(60)
    expected = answer(session)
    keeper.max_recoverable_tokens = 1000
    woken = keeper.restore(backup.id, target_of(loaded), require="full").session
    assert woken.vision.keys() == {"image"}
    assert torch.equal(answer(woken), expected)


def test_rope_deltas_of_another_session_are_not_taken(keeper: Keeper, loaded: Loaded) -> None:
    """A loop of one's own over text leaves none; a session that used the model in between did."""
    session = mixed_session(loaded, text(100))
    loaded.model.model.rope_deltas = None
    with torch.no_grad():
        out = loaded.model(input_ids=session.token_ids, use_cache=True)
    session.cache = out.past_key_values
    session.extend(out.logits[:, -1].argmax(-1, keepdim=True))
    backup = keeper.save("own-loop", session).wait(60)
    expected = answer(session)
    woken = keeper.restore(backup.id, target_of(loaded)).session
    mixed_session(loaded, png(3, 224), text(9)).generate(max_new_tokens=2, **SETTINGS)
    assert int(loaded.model.model.rope_deltas) != 0
    assert torch.equal(answer(woken), expected)


def test_a_beam_search_leaves_the_embeddings_as_they_are(loaded: Loaded) -> None:
    session = mixed_session(loaded, text(9), png(1))
    before = [t.shape for t in session.vision["image"].pooler_output]
    session.generate(num_beams=2, max_new_tokens=2, **SETTINGS)
    assert [t.shape for t in session.vision["image"].pooler_output] == before
    assert len(session.vision["image"].deepstack_features[0]) == len(before)


@pytest.mark.parametrize(("ids", "reason"), [((1, 90), "it must be one short"), ((2, 200), "1 rows, the session 2")])
def test_a_cache_that_is_not_that_of_the_ids_is_refused(
    keeper: Keeper, loaded: Loaded, ids: tuple[int, int], reason: str
) -> None:
    """A manifest that lies: its blobs are whole, and not of one session."""
    session = mixed_session(loaded, text(90))
    session.generate(max_new_tokens=2, **SETTINGS)
    kv = keeper.manifest(keeper.save("lies", session).wait(60).id)[1].kv_cache
    assert kv is not None
    target, plan = target_of(loaded), keeper.plan("lies", target_of(loaded))
    woken = Woken(plan, {"tokens": {"ids": torch.ones(ids, dtype=torch.int32)}}, ids[1], kv, target.allocate(kv))
    loaded.model.model.rope_deltas = None
    with pytest.raises(UnsupportedState, match=reason):
        target.adopt(woken)
    assert loaded.model.model.rope_deltas is None
