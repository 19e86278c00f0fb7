"""What happened at a backup, against the one that it goes on from: it grew, was edited, forked, switched its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .backup import Backup

Kind = Literal["save", "edit", "fork", "switch", "import", "reuse"]

# Without the KV cache's own parts, which follow from the model and from how it was run.
MODEL_PARTS = (
    "weights", "quantization", "adapters", "text_config", "rope_config",
    "vision_weights", "processor", "tokenizer", "chat_template",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """What two manifests say of a backup and its parent. Counts of the parent are 0 where there is none.

    `ids_same` counts the leading token ids that both have, None where they cannot be compared. `changed` are the parts
    of the fingerprint that are known of both and differ.
    """

    messages: int = 0
    messages_before: int = 0
    messages_same: int = 0
    ids: int = 0
    ids_before: int = 0
    ids_same: int | None = None
    changed: tuple[str, ...] = ()
    imported: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, in a few words; names in them come from others."""

    kind: Kind
    text: str


def happened(backup: Backup, parent: Backup | None, facts: Facts | None) -> tuple[Event, ...]:
    """Tell what happened at a backup. Without facts (a manifest that cannot be read) the index alone is asked."""
    events = list(_beside_growth(backup, parent, facts))
    if parent is not None and facts is not None and is_edit(facts):
        events.append(Event("edit", _edited(facts)))
    else:
        grown = _grown(backup, parent, facts)
        if grown or not events:
            events.append(Event("save", grown or "nothing new"))
    shared = shared_bytes(backup)
    if shared:
        events.append(Event("reuse", f"{100 * shared // backup.bytes_total}% shared"))
    return tuple(events)


def shared_bytes(backup: Backup) -> int:
    """Return how many of a backup's bytes were there before it."""
    return max(backup.bytes_total - backup.bytes_written, 0)


def _beside_growth(backup: Backup, parent: Backup | None, facts: Facts | None) -> Iterator[Event]:
    if facts is not None and facts.imported:
        yield Event("import", "from a file")
    if parent is None:
        return
    if parent.session_id != backup.session_id:
        yield Event("fork", f"of {parent.session_id}")
    switched = _switched(backup, parent, facts)
    if switched:
        yield Event("switch", switched)


def _switched(backup: Backup, parent: Backup, facts: Facts | None) -> str:
    """Say how the model changed: names are only told, digests decide; unknown ones leave it to the names."""
    parts = _changed_parts(backup, parent, facts)
    before, after = parent.model_name or "?", backup.model_name or "?"
    unknown = parent.weights_hash is None or backup.weights_hash is None
    named = parent.model_name is not None and backup.model_name is not None and before != after
    if not parts and not (named and unknown):
        return ""
    what = ", ".join(part.replace("_", " ") for part in parts) or "weights unknown"
    return f"{before} -> {after} ({what})" if before != after else f"{after} ({what})"


def _changed_parts(backup: Backup, parent: Backup, facts: Facts | None) -> tuple[str, ...]:
    if facts is not None:
        return tuple(part for part in MODEL_PARTS if part in facts.changed)
    known = backup.weights_hash is not None and parent.weights_hash is not None
    return ("weights",) if known and backup.weights_hash != parent.weights_hash else ()


def is_edit(facts: Facts) -> bool:
    """Tell whether a session went back behind its parent.

    Token ids are what the model has seen, so they decide where they can be compared: an answer that is still being
    written changes its message, but no id. Another model writes the same messages as other ids: then messages decide.
    """
    return _ids_part(facts) if _ids_decide(facts) else _messages_part(facts)


def _ids_decide(facts: Facts) -> bool:
    if facts.ids_same is None or {"tokenizer", "chat_template"} & set(facts.changed):
        return False
    return not (facts.messages_before and set(MODEL_PARTS) & set(facts.changed))


def _ids_part(facts: Facts) -> bool:
    return facts.ids_same is not None and facts.ids_same < facts.ids_before


def _messages_part(facts: Facts) -> bool:
    return facts.messages_same < facts.messages_before


def _edited(facts: Facts) -> str:
    """Say where the two part, in messages and in tokens, as far as each shows it."""
    parts = []
    if _messages_part(facts):
        parts.append(_kept(facts.messages_same, facts.messages_before, facts.messages, "messages"))
    if _ids_decide(facts) and _ids_part(facts):
        parts.append(_kept(facts.ids_same or 0, facts.ids_before, facts.ids, "tokens"))
    return "; ".join(parts)


def _kept(same: int, before: int, after: int, what: str) -> str:
    return f"kept {same:,} of {before:,} {what}" + (f", {after - same:,} new" if after > same else "")


def _grown(backup: Backup, parent: Backup | None, facts: Facts | None) -> str:
    before = 0 if parent is None else parent.tokens
    counts = [(backup.tokens - before, "token")]
    if facts is not None:
        counts.append((facts.messages - facts.messages_before, "message"))
    sign = "" if parent is None else "+"
    return ", ".join(f"{n:{sign},} {what}" + ("" if abs(n) == 1 else "s") for n, what in counts if n)
