"""`torpor diff`: what changed between two backups, for a person or as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.text import Text

from ..codec.compare import Change, Comparison, KVComparison
from ..state.backup import Backup
from .output import size, table, when
from .show import count, message_line
from .visible import plain

LINES_SHOWN = 40  # of one kind, without --all
PART_CHARS = 16  # of a digest in the fingerprint
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_STYLES = {"+": "green", "-": "red", "~": "yellow"}


def as_json(found: Comparison) -> dict[str, Any]:
    """Return everything that differs."""
    return {**asdict(found), "same": found.same}


def render(found: Comparison, a: Backup, b: Backup, *, everything: bool) -> Group:
    """Lay out a comparison, one change a line: `+` only in B, `-` only in A, `~` in both and different."""
    limit = None if everything else LINES_SHOWN
    parts: list[Any] = [_heads(a, b), Text()]
    if found.same:
        parts.append(Text("Both hold the same."))
    parts += [_line("-", f"layer {name}") for name in found.layers_removed]
    parts += [_line("+", f"layer {name}") for name in found.layers_added]
    parts += _some([_line(_SIGNS[c.kind], _change(c)) for c in found.changes], limit)
    if found.messages_same and (found.messages_removed or found.messages_added):
        parts.append(plain(f"{count(found.messages_same, 'message')} at the head the same", "dim"))
    parts += _some([_line("-", f"message {message_line(m)}") for m in found.messages_removed], limit)
    parts += _some([_line("+", f"message {message_line(m)}") for m in found.messages_added], limit)
    if found.tokens_a != found.tokens_b:
        parts.append(_line("~", f"tokens {found.tokens_a:,} -> {found.tokens_b:,}"))
    parts += [] if found.kv is None else _kv(found.kv)
    for name, (before, after) in found.fingerprint.items():
        parts.append(_line("~", f"fingerprint {name} {_part(before)} -> {_part(after)}"))
    own = f"{size(found.only_a_bytes)} only in A, {size(found.only_b_bytes)} only in B"
    parts.append(plain(f"blobs: {size(found.shared_bytes)} in both, {own}"))
    return Group(*parts)


def _heads(a: Backup, b: Backup) -> Any:
    rows = table("", "!id", "session", "saved", ">tokens", ">size")
    for name, backup in (("A", a), ("B", b)):
        total = size(backup.bytes_total)
        rows.add_row(name, backup.id, backup.session_id, when(backup.created_at), f"{backup.tokens:,}", total)
    return rows


def _line(sign: str, text: str) -> Text:
    return plain(f"{sign} {text}", _STYLES[sign])


def _some(lines: Sequence[Text], limit: int | None) -> Iterator[Text]:
    yield from lines[:limit]
    if limit is not None and len(lines) > limit:
        yield plain(f"and {len(lines) - limit} more (--all)", "dim")


def _change(change: Change) -> str:
    note = f" ({change.note})" if change.note else ""
    if change.kind != "changed":
        return f"{change.path} {change.before or change.after}"
    if change.before == change.after:
        return f"{change.path} {change.after}{note}"
    return f"{change.path} {change.before} -> {change.after}{note}"


def _kv(kv: KVComparison) -> Iterator[Text]:
    tokens = f"{kv.tokens_a:,}" if kv.tokens_a == kv.tokens_b else f"{kv.tokens_a:,} -> {kv.tokens_b:,}"
    yield plain(f"KV: {kv.tokens_same:,} of {tokens} tokens ({count(kv.blocks_same, 'block')}) the same")
    if kv.layout_a != kv.layout_b:
        yield _line("~", f"KV layout {kv.layout_a} -> {kv.layout_b}")


def _part(value: str | None) -> str:
    if value is None:
        return "unknown"
    return value if len(value) <= PART_CHARS else value[:PART_CHARS] + "…"
