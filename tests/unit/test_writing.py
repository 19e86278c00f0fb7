"""How blobs are written: when the disk is asked to begin, and by threads that let a model go first."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torpor.client.save import NICENESS, step_back
from torpor.store import files
from torpor.store.files import WRITE_BYTES, Appending


def test_the_disk_is_asked_to_begin_once_for_each_mebibyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(files, "start_writeback", lambda _, offset, size: asked.append((offset, size)))
    piece = os.urandom(WRITE_BYTES // 2 + 1)
    fd = files.create_exclusive(tmp_path / "blob")
    file = Appending(fd)
    for _ in range(5):
        file.write([memoryview(piece[:1]), memoryview(piece[1:])])
    os.close(fd)
    assert (tmp_path / "blob").read_bytes() == piece * 5
    assert file.end == len(piece) * 5
    assert asked == [(0, 2 * len(piece)), (2 * len(piece), 2 * len(piece))]


def test_threads_that_write_step_back_and_the_others_do_not() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    with ThreadPoolExecutor(1, initializer=step_back) as writers:
        assert writers.submit(priority).result() == max(before, NICENESS)
    assert priority() == before
