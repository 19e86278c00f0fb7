"""What export and import have in common: formats, progress, and what is known of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, get_args

from ..codec import bundle, lz4_stream
from ..codec.safetensors_file import MAX_HEADER_BYTES
from ..state.errors import BadInput, FileDamaged, UnknownFormat
from ..state.watching import Signature

ExportFormat = Literal["bundle", "v1", "safetensors"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
FileFormat = Literal["bundle", "v1", "safetensors", "pt"]
SUFFIXES = (".qwnbak", ".bundle", ".safetensors", ".pt", ".pth")

# Told the bytes done and the bytes there are to do.
Progress = Callable[[int, int], object]


def no_progress(done_bytes: int, total_bytes: int) -> None:
    """Show nothing."""


def check_format(name: str) -> ExportFormat:
    """Check the name of an export format. Raises: BadInput."""
    for known in EXPORT_FORMATS:
        if known == name:
            return known
    raise BadInput(f"{name[:40]!r} is not a format", hint=f"Formats: {', '.join(EXPORT_FORMATS)}.")


def format_of(head: bytes, name: str) -> FileFormat:
    """Tell a file's format by its first bytes. Raises: UnknownFormat, NewerFormat, FileDamaged.

    Torch is asked only about files that are not called something else: it takes seconds to start.
    """
    if not head:
        raise FileDamaged("the file is empty")
    if head.startswith(lz4_stream.MAGIC):
        return "v1"
    if bundle.is_bundle(head):
        return "bundle"
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")) and not name.endswith((".qwnbak", ".safetensors")):
        return "pt"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES:
        return "safetensors"
    raise UnknownFormat("the file is none of qwen-state/v1, bundle, safetensors and .pt")


def signature_of(status: os.stat_result) -> Signature:
    """Return what a file looks like: if any of it differs later, somebody wrote to it."""
    return Signature.of(status.st_size, status.st_mtime_ns, status.st_ino)


class Counted:
    """A binary file that tells how much of it has been read, over all passes."""

    def __init__(self, file: BinaryIO, total_bytes: int, progress: Progress) -> None:
        self._file, self._total, self._progress, self._done = file, total_bytes, progress, 0

    def read(self, count: int = -1) -> bytes:
        """Read as the file does."""
        data = self._file.read(count)
        self._done += len(data)
        self._progress(min(self._done, self._total), self._total)
        return data

    def __getattr__(self, name: str) -> Any:
        """Everything else is the file's."""
        return getattr(self._file, name)
