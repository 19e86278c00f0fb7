"""Values of desktop entries: how texts and command lines are written there.

Source: the Desktop Entry Specification 1.5, "Possible value types" and "The Exec key".
"""

from __future__ import annotations

from collections.abc import Sequence

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
