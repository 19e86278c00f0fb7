"""Read `.pt` files: a process of its own loads them (codec/pt_worker.py) and sends a bundle."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import BinaryIO

import orjson

from ..state.errors import FileDamaged, InvalidFile, MissingExtra, TorporError
from ..state.problems import from_problem
from .bundle import Bundle

_MAX_MESSAGE_BYTES = 64 << 10
FAILED, NOBODY_READS = 3, 4  # exit statuses of the process
_HINT = "pip install 'torpor[transformers]' (the CPU build of torch is enough) where the import runs."


@contextmanager
def open_pt(file: BinaryIO, size_bytes: int) -> Iterator[Bundle]:
    """Load a `.pt` file as a bundle of a plain state.

    Raises: MissingExtra without torch, UnsupportedState, FileDamaged, InvalidFile, TooLarge.
    """
    if find_spec("torch") is None:
        raise MissingExtra("a .pt file is read by torch, which is not installed", hint=_HINT)
    file.seek(0)
    if file.read(2) == b"PK" and not zipfile.is_zipfile(file):
        raise FileDamaged("the file begins as a zip and does not end as one")
    command = [sys.executable, "-P", "-m", "torpor.codec.pt_worker", str(file.fileno()), str(size_bytes)]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, pass_fds=[file.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages
        )
        assert process.stdout is not None
        try:
            yield Bundle(process.stdout, sys.maxsize)  # type: ignore[arg-type]
        except FileDamaged as error:
            process.stdout.close()  # it may be waiting for a reader
            raise _why(process, messages) or error from error
        finally:
            process.kill()
            process.stdout.close()
            process.wait()


def _why(process: subprocess.Popen[bytes], messages: BinaryIO) -> TorporError | None:
    """Return what ended the process, None when it ended well."""
    status = process.wait()
    messages.seek(0)
    last = messages.read(_MAX_MESSAGE_BYTES).strip().rpartition(b"\n")[2]
    if status == FAILED and last.startswith(b"{"):
        return from_problem(orjson.loads(last))
    if status in (0, NOBODY_READS):
        return None
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return InvalidFile(
        f"loading it ended the process that did so ({how}); it may take more memory than its size allows"
    )
