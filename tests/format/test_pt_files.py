"""`.pt` files, which are programs: none of them runs, and none takes more than its size allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torpor.codec import pt_worker
from torpor.codec.pt_file import FAILED, NOBODY_READS, open_pt
from torpor.state.errors import FileDamaged, UnsupportedState

CASES = Path(__file__).parents[1] / "support" / "pt_cases.py"
CODES = {
    "plain": None, "legacy": None,
    "evil": "unsupported-state", "evil pickle": "unsupported-state", "other pickle": "unsupported-state",
    "sparse": "unsupported-state", "surrogate": "unsupported-state", "layers that have no place": "invalid-file",
    "expanded": "too-large", "many expanded": "too-large", "views": "too-large", "itself": "too-large", "wide": "too-large",
    "deflated": "file-damaged", "head of a pickle": "file-damaged", "head of a zip": "file-damaged", "flipped": "file-damaged",
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the files, and how loading each of them ended."""
    folder = tmp_path_factory.mktemp("pt")
    done = subprocess.run([sys.executable, CASES, folder], capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return folder, json.loads(done.stdout)


@pytest.fixture
def folder(loaded: tuple[Path, dict[str, Any]]) -> Path:
    return loaded[0]


def test_hostile_files_are_refused_and_nothing_in_them_runs(loaded: tuple[Path, dict[str, Any]]) -> None:
    folder, results = loaded
    assert results == {name: [FAILED if code else 0, code] for name, code in CODES.items()}
    assert not (folder / "made-by-a-pickle").exists()


def test_a_loader_ends_when_nobody_reads_it_any_more(folder: Path) -> None:
    """Its reader may have been killed: then nobody else ends it."""
    with open(folder / "wide.pt", "rb") as file:
        command = [sys.executable, "-P", "-m", pt_worker.__name__, str(file.fileno()), "1000000000"]
        process = subprocess.Popen(command, pass_fds=[file.fileno()], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == NOBODY_READS


def test_no_process_and_no_descriptor_is_left(folder: Path) -> None:
    before, others = len(os.listdir("/proc/self/fd")), psutil.Process().children()
    with open(folder / "evil.pt", "rb") as file, ExitStack() as stack, pytest.raises(UnsupportedState, match="mkdir"):
        stack.enter_context(open_pt(file, os.fstat(file.fileno()).st_size))
    assert not (folder / "made-by-a-pickle").exists()
    assert psutil.Process().children() == others
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_changes_while_it_is_read_is_noticed_at_once(tmp_path: Path) -> None:
    """The loader waits for its reader then, which must not wait for it."""
    path, others = tmp_path / "large.pt", psutil.Process().children()
    torch.save({"a": torch.arange(8 << 20)}, path)
    with (
        open(path, "r+b", buffering=0) as file,
        pytest.raises(FileDamaged, match="digest"),
        ExitStack() as stack,
    ):
        bundle = stack.enter_context(open_pt(file, path.stat().st_size))
        os.pwrite(file.fileno(), b"\xff" * (40 << 20), 16 << 20)
        for _ in bundle.blobs():
            pass
    assert psutil.Process().children() == others
