"""Paths that are no files: refused at once, without waiting for a writer or reading for ever."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torpor.client.importing import Importer
from torpor.state.errors import BadInput, FileDamaged, NewerFormat, TorporError, UnknownFormat


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def run(path: Path, **options: Any) -> None:
    nobody: Any = None
    Importer(nobody, nobody, nobody).run(path, **options)


PLACES: dict[str, Callable[[Path], Path]] = {"fifo": fifo, "folder": folder, "device": lambda _: Path("/dev/zero")}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_what_is_no_file_is_refused_at_once(place: Callable[[Path], Path], tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BadInput, match="is not a file"):
        run(place(tmp_path / "x.qwnbak"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_are_followed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"no state")
    link.symlink_to(target)
    with pytest.raises(UnknownFormat):
        run(link)
    with pytest.raises(BadInput, match="is a symbolic link"):
        run(link, follow=False)


@pytest.mark.parametrize("name", ["missing.qwnbak", "file/below", "nul\0"])
def test_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match="there is no file"):
        run(tmp_path / name)


HEADS: dict[str, tuple[bytes, type[TorporError]]] = {
    "empty": (b"", FileDamaged),
    "one byte of a frame": (b"\x04", UnknownFormat),
    "skippable frame": (b"\x50\x2a\x4d\x18\x00\x00\x00\x00", UnknownFormat),
    "legacy LZ4": (b"\x02\x21\x4c\x18\x00\x00\x00\x00", UnknownFormat),
    "ELF": (b"\x7fELF" + bytes(100), UnknownFormat),
    "a tar": (b"a.txt" + bytes(252) + b"ustar\x00" + bytes(300), UnknownFormat),
    "a later bundle": (b"qwen-state-v3/manifest" + bytes(235) + b"ustar\x00" + bytes(300), NewerFormat),
    "plain JSON": (b'{"metadata":{"format":"qwen-state/v1"}}', UnknownFormat),
    "a zip under our name": (b"PK\x03\x04" + bytes(100), UnknownFormat),
}


@pytest.mark.parametrize(("head", "error"), HEADS.values(), ids=HEADS.keys())
def test_files_of_other_kinds_are_told_apart(head: bytes, error: type[TorporError], tmp_path: Path) -> None:
    path = tmp_path / "x.qwnbak"
    path.write_bytes(head)
    with pytest.raises(TorporError) as caught:
        run(path)
    assert caught.type is error
