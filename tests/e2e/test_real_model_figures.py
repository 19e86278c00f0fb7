"""The figures of a model that generates, with a small real one: what they compare must be equal, whatever it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.llama_stand_in import StandIn, slot_file
from support.model_folders import save_folder
from torpor.adapters.demo_model import Loaded, small_model
from torpor.adapters.transformers import TransformersSession
from torpor.client import Keeper
from torpor.measure import live, llama, wake
from torpor.measure.rig import keeper_in
from torpor.measure.save import saver
from torpor.measure.settings import Settings
from torpor.measure.smol import prompt_ids, session_of
from torpor.measure.workload import BLOCK_TOKENS, HEAD_DIM, HEADS, LAYERS, TOKEN_BYTES


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return small_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="module")
def keeper(folder: Path) -> Iterator[Keeper]:
    with keeper_in(folder) as found:
        yield found


def test_a_wake_goes_on_as_the_session_did(
    loaded: Loaded, keeper: Keeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wake, "WAKES", 1)
    monkeypatch.setattr(wake, "PROCESS_BYTES", 1 << 20)  # what is had at hand for the clock alone takes seconds
    saved = wake.save_one(loaded, keeper, 120)
    assert len(saved.ids) == 120 + wake.CHECKED_TOKENS
    assert len(saved.expected) == wake.CHECKED_TOKENS
    whole, restore = wake.in_process(loaded, keeper, saved)
    assert whole.baseline == [saved.prefill_s]
    assert whole.ours[0] > restore.ours[0] > 0
    with pytest.raises(RuntimeError, match="went on with"):
        wake.in_process(loaded, keeper, replace(saved, expected=[0] * wake.CHECKED_TOKENS))

    model, ids_file = save_folder(loaded, folder / "model"), folder / "ids.json"
    ids_file.write_text(json.dumps(saved.ids))
    woken = wake.run_process("wake", model, ids_file, folder / "home", saved.name)
    assert woken.tokens == saved.expected
    assert {*wake.PARTS, "restore, of it describe", "restore, of it adopt"} == woken.parts_s.keys()
    assert sum(woken.parts_s[part] for part in wake.PARTS) == pytest.approx(woken.took_s)
    anew = wake.Process(60.0, saved.expected[:1])
    figures = list(wake._process_figures("process", [woken], anew))
    assert figures[0].baseline == [60.0]
    assert len(figures) == 3 + len(wake.PARTS)


def test_chats_are_held_with_saves_and_without(loaded: Loaded, keeper: Keeper) -> None:
    speed, held = live.live_figures(loaded, keeper, 2, live.Plan(48, 3, 2))
    assert len(speed.ours) == len(speed.baseline) == 2
    assert speed.at_least_ratio == live.AT_LEAST
    assert len(held.ours) == 2 * 2
    saved = {backup.session_id for backup in keeper.api.backups()}
    assert {"live-first", "live-0", "live-1"} <= saved


def test_every_turn_of_a_full_save_writes_all_of_it(loaded: Loaded, folder: Path) -> None:
    def prefilled(tokens: int) -> TransformersSession:
        session = session_of(loaded, prompt_ids(loaded, tokens + 1))
        session.prefill()
        return session

    with ExitStack() as stack:
        prepare = saver(stack, prefilled(200), folder / "full", lambda: prefilled(64))
        prepare()()
        prepare()()  # raises if a block was there already


def test_slots_are_compared_with_the_same_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def server(model: Path, slots: Path, context_tokens: int) -> Iterator[StandIn]:
        assert model.stat().st_size < 64 << 20
        assert context_tokens >= 3 * BLOCK_TOKENS
        yield StandIn(0, slots, partial(slot_file, tensors=2 * LAYERS, row_bytes=2 * HEADS * HEAD_DIM))

    monkeypatch.setattr(llama, "llama_server", server)
    monkeypatch.setattr(llama, "find_server", lambda: None)
    monkeypatch.setattr(llama, "LARGE_BYTES", 1)  # so that rounds are few
    found = {figure.name: figure for figure in llama.measure(Settings(tmp_path, quick=True, sizes=(128,)))}
    assert len(found) == 4
    later = found["later save, +64 at 128 tokens: bytes"]
    assert all(96 * TOKEN_BYTES < each < 96 * TOKEN_BYTES + (128 << 10) for each in later.ours)
    tokens = [128 + 32 + 64 * number for number in (2, 3)]
    assert all(0 < each - count * TOKEN_BYTES < 1 << 14 for each, count in zip(later.baseline, tokens, strict=True))
    assert list(tmp_path.iterdir()) == []
