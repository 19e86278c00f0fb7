"""Backup programs as the benches run them: what they add is counted, and those that fail or are not there are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torpor.measure.backup_tools import TOOLS, Repository, Tool, ToolError, installed

COPY = Tool("cp", {"LEVEL": "{folder}"}, (), ("cp", "{source}", "{folder}/repository/{number}"))


def test_what_a_tool_adds_is_counted_without_its_cache(tmp_path: Path) -> None:
    source = tmp_path / "state"
    repository = Repository(COPY, tmp_path / "cp")
    (tmp_path / "cp" / "cache" / "index").write_bytes(bytes(99))
    for number, size in enumerate((1_000, 1_064), 1):
        source.write_bytes(bytes(size))
        before_bytes = repository.size_bytes()
        assert repository.backup(source) > 0
        assert repository.size_bytes() - before_bytes == size
        assert (tmp_path / "cp" / "repository" / str(number)).stat().st_size == size


def test_a_tool_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"`cp .*` failed: cp: .*No such file"):
        Repository(COPY, tmp_path / "cp").backup(tmp_path / "nothing")
    odd = Tool("odd", {}, (("sh", "-c", "exit 3"),), ())
    with pytest.raises(ToolError, match="status 3"):
        Repository(odd, tmp_path / "odd")


def test_nothing_is_installed_on_an_empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert installed() == ([], list(TOOLS))


def test_those_that_are_here_take_a_file(tmp_path: Path) -> None:
    """On a machine without any of them there is nothing to see."""
    source = tmp_path / "state"
    source.write_bytes(os.urandom(1 << 20))
    for tool in installed()[0]:
        repository = Repository(tool, tmp_path / tool.name)
        before_bytes = repository.size_bytes()
        repository.backup(source)
        assert 0 <= repository.size_bytes() - before_bytes - (1 << 20) < 64 << 10  # nothing of it was compressed
