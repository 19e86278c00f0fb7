"""Values of desktop entries: how texts and command lines are written there.

Source: the Desktop Entry Specification 1.5, "Possible value types" and "The Exec key".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD, _ESCAPED = re.compile(r'"(?:\\.|[^"\\])*"|[^ "]+'), re.compile(r"\\(.)")
_FIELD_CODES = frozenset({"%f", "%F", "%u", "%U", "%i", "%c", "%k"})
_RESERVED = frozenset(" \t\n\"'\\><~|&;$*?#()`")


def string_value(text: str) -> str:
    """Escape a value of type string."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def exec_value(command: Sequence[str], field_code: str = "") -> str:
    """Write a command line for the key Exec. `field_code` (`%F`) comes last, and stands for what is opened."""
    return " ".join([*(_quoted(part) for part in command), *([field_code] if field_code else [])])


def _quoted(argument: str) -> str:
    """Quote one argument of Exec: first as an argument, then as a value of type string."""
    escaped = argument.replace("%", "%%")
    if not escaped or _RESERVED & set(escaped):
        for char in ("\\", '"', "`", "$"):
            escaped = escaped.replace(char, "\\" + char)
        escaped = f'"{escaped}"'
    return string_value(escaped)


def command_in(value: str) -> list[str]:
    """Return the command line that a value of Exec is, without its field codes. The inverse of `exec_value`."""
    words = _WORD.findall(value.replace("\\\\", "\\"))
    plain = [_ESCAPED.sub(r"\1", word[1:-1]) if word.startswith('"') else word for word in words]
    return [each.replace("%%", "%") for word, each in zip(words, plain, strict=True) if word not in _FIELD_CODES]
