"""The file `watch.json`: the folders that the user has added, resolved, in the order of adding."""

from __future__ import annotations

from pathlib import Path

import orjson

from ..state.errors import InvalidSettings
from .files import translated, write_private

_HINT = "Move the file away and add the folders again with `torpor watch add`."


def read_watch_list(path: Path) -> list[str]:
    """Return the folders; none when the file is not there. Raises: InvalidSettings, StoreFailed."""
    with translated("read", path):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return []
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidSettings(f"{path} is not JSON: {error}", hint=_HINT) from error
    folders = value.get("folders") if isinstance(value, dict) else None
    if not isinstance(folders, list) or not all(isinstance(f, str) and f.startswith("/") for f in folders):
        raise InvalidSettings(f"{path} is not a list of folders", hint=_HINT)
    return folders


def write_watch_list(path: Path, folders: list[str]) -> None:
    """Replace the file, durably. Raises: StoreFull, StoreFailed."""
    write_private(path, orjson.dumps({"folders": folders}, option=orjson.OPT_INDENT_2))
