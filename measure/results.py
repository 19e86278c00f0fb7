"""Results on the disk: JSON lines, one figure a line, each with what it was taken on; and read back for a comparison.

A file is one run. A line is written as soon as its group is done, so that a run that was cut short leaves what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from ..state.errors import BadInput, InvalidFile, NotFound
from ..store.files import make_private_folder, translated
from .figures import Figure, text_of

SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one file, and what they were taken on (`machine`, `versions`, `commit`, `at`)."""

    path: Path
    figures: list[Figure]
    about: dict[str, Any]


def new_file(folder: Path) -> Path:
    """Return where a run that begins now is written to, in a folder that is made if need be."""
    make_private_folder(folder)
    return folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{SUFFIX}"  # another may begin in the same second


def append(path: Path, figures: Sequence[Figure], about: dict[str, Any]) -> None:
    """Write figures behind those that are there; without any there is no file. Raises: StoreFailed, StoreFull."""
    if not figures:
        return
    stamped = {"at": datetime.now(UTC).isoformat(timespec="seconds")}
    lines = [orjson.dumps({**stamped, **each.to_dict(), **about}, option=orjson.OPT_APPEND_NEWLINE) for each in figures]
    with translated("write", path), path.open("ab") as file:
        file.write(b"".join(lines))


def read(path: Path) -> Run:
    """Return the run of a file. Raises: NotFound, InvalidFile, StoreFailed."""
    with translated("read", path):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}", hint="`torpor bench` writes one, and says where.") from None
    figures, about = [], dict[str, Any]()
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            found = orjson.loads(line)
            figures.append(Figure.from_dict(found))
            about = _about(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidFile(f"{path}, line {number}: this is no figure of a bench", hint=_HINT) from error
    if not figures:
        raise InvalidFile(f"{path} holds no figures", hint=_HINT)
    return Run(path, figures, about)


def _about(found: dict[str, Any]) -> dict[str, Any]:
    """Return what a figure was taken on; other versions may know less. Raises: ValueError, AttributeError."""
    about = {name: found.get(name) for name in ("machine", "versions", "commit", "at", "quick")}
    for part in ("machine", "versions"):
        for name, value in (about[part] or {}).items():
            text_of(name), text_of(str(value))
    for name in ("commit", "at"):
        text_of(about[name] or "")
    return about


_HINT = "Name a file that `torpor bench` or `make bench` has written."


def newest(folder: Path, count: int) -> list[Path]:
    """Return the newest files of a folder, the oldest of them first. Raises: BadInput when there are fewer."""
    found = sorted(path for path in folder.glob(f"*{SUFFIX}") if path.stat().st_size)
    if len(found) < count:
        raise BadInput(
            f"{folder} holds {len(found)} of the {count} runs that a comparison takes",
            hint="Run the bench again, or name the files.",
        )
    return found[-count:]
