"""Hand a file to the daemon, which looks at it and waits for a word: named where both see it, else byte by byte."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ..state.errors import BadInput, NotFound, ScopeDenied
from ..state.watching import is_utf8, printable
from .api import Api
from .opened_file import reading
from .transfer import signature_of


def hand_over(api: Api, path: Path, session_id: str | None = None) -> dict[str, Any]:
    """Have the daemon look at a file, and return the import that it waits as. The file stays as it is.

    The daemon may see other folders than this process: a service with its own `/tmp`, a container.
    Raises: BadInput (no such file, or no file), StoreFailed (it cannot be read), and what the daemon answers.
    """
    real = os.path.realpath(path)
    with reading(real):
        try:
            status = os.stat(real)
        except (FileNotFoundError, NotADirectoryError):
            raise BadInput(f"there is no file {printable(str(path))}", hint="Check its name.") from None
        if not stat.S_ISREG(status.st_mode):
            raise BadInput(f"{printable(str(path))} is not a file", hint="Name a file.")
        with open(real, "rb"):  # who may not read it, learns so here
            pass
    wanted = {} if session_id is None else {"session_id": session_id}
    if api.endpoint.home is not None and is_utf8(real):
        seen = signature_of(status)
        body = {"path": real, "size_bytes": seen.size_bytes, "mtime_ns": seen.mtime_ns, "inode": seen.inode}
        try:
            return api.json("POST", "/v1/imports/local", json=body | wanted)
        except (NotFound, ScopeDenied):  # it sees no such file, or the token is not its owner's
            pass
    return _send(api, real, {"name": printable(path.name)[-255:], "hold": "true"} | wanted)


def _send(api: Api, real: str, query: dict[str, str]) -> dict[str, Any]:
    with reading(real), open(real, "rb") as file:
        headers = {"Content-Type": "application/octet-stream"}
        return api.json("POST", "/v1/imports", params=query, content=file, headers=headers)
