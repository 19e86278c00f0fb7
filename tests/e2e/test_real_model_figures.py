"""The figures of a model that generates, with a small real one: what they compare must be equal, whatever it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.model_folders import save_folder
from torpor.adapters.demo_model import Loaded, small_model
from torpor.client import Keeper
from torpor.measure import live, llama, wake
from torpor.measure.rig import keeper_in
from torpor.measure.smol import prompt_ids


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


def test_our_side_of_the_slots_saves_all_of_it_each_time(loaded: Loaded, keeper: Keeper) -> None:
    own = llama.own_side(loaded, keeper, prompt_ids(loaded, 201))
    assert own.kv_bytes == 200 * 4 * 2 * 2 * 64 * 2
    own.prepare_save()()
    own.prepare_save()()  # raises if a block was there already
