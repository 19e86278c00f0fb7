"""Write single settings into `config.toml` and `.env` of a home: all other lines stay as they are.

Both may be links to where somebody keeps settings; nothing is written through those. What comes out is read again
before it replaces anything: a file that is written in a way that an edit by lines does not fit is left alone.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from ..state.errors import BadInput, InvalidSettings, UnsafeHome
from ..store.files import translated, write_private

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%,-]+\Z")


def set_in_toml(file: Path, name: str, value: str) -> bool:
    """Give a setting at the top of `config.toml` a text as value, durably; tell whether that changed anything.

    Raises: InvalidSettings, UnsafeHome, StoreFull, StoreFailed.
    """
    text = _read(file)
    changed = with_toml(text, name, value)
    if changed == text:
        return False
    _write(file, changed)
    return True


def set_in_env(file: Path, values: Mapping[str, str | None]) -> bool:
    """Give variables in a `.env` their values, and take out those that are None; tell whether that changed anything.

    Raises: InvalidSettings, UnsafeHome, StoreFull, StoreFailed.
    """
    text = _read(file)
    changed = with_env(text, values)
    if changed == text:
        return False
    _write(file, changed)
    return True


def with_toml(text: str, name: str, value: str) -> str:
    """Return the text of a TOML file with another value at its top. Raises: InvalidSettings."""
    hint = f'Write `{name} = "{value}"` at the top of config.toml yourself.'
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(f"config.toml cannot be read: {error}") from error
    if before.get(name) == value:
        return text
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    changed = _with_line(text.splitlines(), re.compile(rf"\s*{re.escape(name)}\s*="), f'{name} = "{escaped}"')
    try:
        after = tomllib.loads(changed)
    except tomllib.TOMLDecodeError:
        after = {}
    if after != before | {name: value}:
        raise InvalidSettings(f"config.toml says {name} in a way that is not changed safely by itself", hint=hint)
    return changed


def _with_line(lines: list[str], sign: re.Pattern[str], line: str) -> str:
    """Replace the line that a pattern finds before the first table, or put one there."""
    end = next((at for at, each in enumerate(lines) if each.lstrip().startswith("[")), len(lines))
    found = next((at for at in range(end) if sign.match(lines[at])), None)
    if found is not None:
        lines[found] = line
    else:
        while end and not lines[end - 1].strip():
            end -= 1
        lines.insert(end, line)
    return "\n".join(lines) + "\n"


def with_env(text: str, values: Mapping[str, str | None]) -> str:
    """Return the text of a `.env` with other values; the names with `TORPOR_` before them go with theirs.

    Raises: InvalidSettings.
    """
    from dotenv.parser import parse_stream

    if wrong := [name for name, value in values.items() if value is not None and not value.isprintable()]:
        raise InvalidSettings(f"{wrong[0]} holds a line break or a control character")
    kept, left = "", dict(values)
    for binding in parse_stream(StringIO(text)):
        name = (binding.key or "").removeprefix("TORPOR_")
        if binding.error or name not in values:
            kept += binding.original.string
            continue
        value = left.pop(name, None)  # a second line of the same name, which would win, goes
        if value is not None:
            unchanged = binding.key == name and binding.value == value
            kept += binding.original.string if unchanged else _line(name, value)
    if kept and not kept.endswith("\n"):
        kept += "\n"
    changed = kept + "".join(_line(name, value) for name, value in left.items() if value is not None)
    after = {each.key: each.value for each in parse_stream(StringIO(changed)) if not each.error}
    if any(after.get(name) != value for name, value in values.items()):
        raise InvalidSettings(".env is not changed safely by itself", hint="Write the five lines into it yourself.")
    return changed


def _line(name: str, value: str) -> str:
    if not _PLAIN.match(value):
        value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{name}={value}\n"


def _read(file: Path) -> str:
    with translated("read", file):
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError as error:
            raise BadInput(f"{file} is not text in UTF-8") from error


def _write(file: Path, text: str) -> None:
    with translated("look at", file):
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            status = None
    if status is not None and (file.is_symlink() or status.st_uid != os.geteuid()):
        raise UnsafeHome(
            f"{file} is a symbolic link, or not yours: it is not written", hint="Change the file that it stands for."
        )
    write_private(file, text.encode())
