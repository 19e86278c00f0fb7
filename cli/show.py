"""`torpor show`: one backup for a person, or everything about it as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.text import Text

from ..client import Keeper
from ..codec.describe import Description, KVDetail, LayerDetail, describe
from ..codec.messages import Message
from ..codec.nodes import Stored
from ..state.backup import Backup
from ..state.errors import Damaged, NotFound, Unavailable
from ..state.manifest import BlobRef, Manifest
from .output import size, table, when
from .visible import plain, visible

STORED_SHOWN = 20  # without --all
MESSAGES_SHOWN = 20  # without --all, the newest
SHARERS_SHOWN = 5  # without --all
BLOBS_SHOWN = 5  # without --blobs; those that are missing come first
PREFIX_CHARS = 12  # of a digest
HEAD_BYTES = 4096  # of a long message: enough for its first line


@dataclass(frozen=True, slots=True)
class View:
    """All that `show` knows of a backup. `blobs` and `sharing` are as the API gives them."""

    backup: Backup
    manifest: Manifest
    description: Description
    blobs: list[dict[str, Any]]
    sharing: dict[str, Any]


def view(keeper: Keeper, ref: str) -> View:
    """Ask for everything about a backup; of its blobs only those are read with which long messages begin."""
    backup, manifest = keeper.manifest(ref)
    places = keeper.api.backup_blobs(backup.id)
    sizes = {blob["digest"]: blob["size_bytes"] for blob in places["blobs"]}

    def head(text: Stored) -> str | None:
        if not text.blobs:
            return None
        with suppress(NotFound, Damaged, Unavailable):  # what is missing or damaged is said of the blob itself
            raw = keeper.blobs.read(BlobRef(text.blobs[0], sizes[text.blobs[0]]))
            return bytes(raw[:HEAD_BYTES]).decode(errors="ignore")
        return None

    return View(backup, manifest, describe(manifest, head), places["blobs"], places["sharing"])


def as_json(seen: View) -> dict[str, Any]:
    """Return everything, without anything shortened but the lines of messages and values."""
    found = seen.description
    value = {**asdict(seen.backup), "omitted": seen.manifest.omitted}
    value["fingerprint"] = seen.manifest.fingerprint.to_dict()
    if found.kv is not None:
        value["kv_cache"] = {"tokens": found.kv.tokens, "blocks": found.kv.blocks, "dtype": found.kv.dtype}
    kv = [] if found.kv is None else [{"name": "kv_cache", **asdict(found.kv)}]
    value["layers_detail"] = [asdict(layer) for layer in found.layers] + kv
    value["tensors"] = [asdict(leaf) for leaf in found.stored if leaf.kind == "tensor"]
    value["values"] = [asdict(leaf) for leaf in found.stored if leaf.kind != "tensor"]
    value["messages"] = [asdict(message) for message in found.messages]
    value["traces"] = [asdict(trace) for trace in found.traces]
    return value | {"blobs": seen.blobs, "sharing": seen.sharing}


def render(seen: View, *, everything: bool, all_blobs: bool) -> Group:
    """Lay out a backup for a person."""
    parts: list[Any] = [_head(seen), *_layers(seen)]
    parts += _stored(seen.description.stored, everything)
    parts += _messages(seen.description, everything)
    parts += _sharing(seen.sharing, everything)
    parts += _blobs(seen.blobs, everything or all_blobs)
    return Group(*parts)


def _head(seen: View) -> Any:
    b = seen.backup
    rows = table("!", "")
    rows.add_row("id", b.id)
    rows.add_row("session", b.session_id + (f' "{b.title}"' if b.title else ""))
    rows.add_row("parent", b.parent_id or "–")
    rows.add_row("model", b.model_name or "–")
    rows.add_row("adapter", b.adapter)
    rows.add_row("tokens", f"{b.tokens:,}")
    rows.add_row("created", when(b.created_at))
    rows.add_row("expires", "never (pinned)" if b.pinned else when(b.expires_at))
    rows.add_row("used", when(b.used_at))
    rows.add_row("size", f"{size(b.bytes_total)}, {size(b.bytes_written)} of it new")
    if b.dropped_at is not None:
        rows.add_row(
            "let go", f"KV cache and embeddings, {when(b.dropped_at)}; a restore computes or fetches them again"
        )
    if b.absent_bytes:
        rows.add_row("not here", size(b.absent_bytes))
    return rows


def _section(title: str) -> Iterator[Any]:
    yield Text()
    yield plain(title, "bold")


def _layers(seen: View) -> Iterator[Any]:
    yield from _section("layers")
    rows = table("!", "")
    for layer in seen.description.layers:
        rows.add_row(layer.name, _layer_line(layer, seen.description))
    if seen.description.kv is not None:
        rows.add_row("kv_cache", _kv_line(seen.description.kv))
    for name, why in seen.manifest.omitted.items():
        rows.add_row(name, f"not saved: {why}")
    yield rows


def _layer_line(layer: LayerDetail, found: Description) -> str:
    parts = []
    if layer.name == "text_context":
        parts += [count(len(found.messages), "message")] if found.messages else []
        parts += [trace.kind.replace("_", " ") for trace in found.traces]
    parts += [count(n, word) for n, word in ((layer.tensors, "tensor"), (layer.values, "byte string or text")) if n]
    if layer.size_bytes:
        where = f"in {count(layer.blobs, 'blob')}" if layer.blobs else "in manifest"
        parts.append(f"{size(layer.size_bytes)} {where}")
    parts += [f"{name}: {value}" for name, value in (layer.plain or {}).items()]
    return ", ".join(parts) or "empty"


def _kv_line(kv: KVDetail) -> str:
    shape = f"{kv.layers} layers x {', '.join(kv.shapes)}"
    rows = f", {kv.batch} rows" if kv.batch > 1 else ""
    total = f"{size(kv.size_bytes)}, {size(kv.token_bytes)} a token"
    return f"{kv.tokens} tokens in {kv.blocks} blocks, {shape}, {kv.dtype}{rows}, {kv.cache_class}, {total}"


def count(number: int, word: str) -> str:
    """Write a number of things."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _stored(leaves: tuple[Stored, ...], everything: bool) -> Iterator[Any]:
    if not leaves:
        return
    yield from _section("tensors and byte strings")
    shown = leaves if everything else leaves[:STORED_SHOWN]
    rows = table("path", "what", ">size", "where")
    for leaf in shown:
        rows.add_row(leaf.path, leaf.brief(), size(leaf.size_bytes), _where(leaf))
    yield rows
    if len(shown) < len(leaves):
        yield plain(f"and {len(leaves) - len(shown)} more (--all)", "dim")


def _where(leaf: Stored) -> str:
    if leaf.kind == "malformed":
        return "–"
    if not leaf.blobs:
        return "in manifest"
    first = leaf.blobs[0][:PREFIX_CHARS]
    return first if len(leaf.blobs) == 1 else f"{first} and {len(leaf.blobs) - 1} more"


def message_line(message: Message) -> str:
    """Write a message in one line: who, what, and what else it carries."""
    counts = ((message.images, "image"), (message.videos, "video"), (message.tool_calls, "tool call"))
    more = ", ".join(count(n, word) for n, word in counts if n)
    return f"{message.role}: {message.text}" + (f" [{more}]" if more else "")


def _messages(found: Description, everything: bool) -> Iterator[Any]:
    if found.messages:
        yield from _section(count(len(found.messages), "message"))
        shown = found.messages if everything else found.messages[-MESSAGES_SHOWN:]
        earlier = len(found.messages) - len(shown)
        if earlier:
            yield plain(f"{earlier} earlier (--all)", "dim")
        yield from (plain(message_line(message)) for message in shown)
    if found.traces:
        yield from _section("tool calls and thinking")
        rows = table("!", ">", "")
        for trace in found.traces:
            rows.add_row(trace.path, str(trace.steps), trace.newest)
        yield rows


def _sharing(sharing: dict[str, Any], everything: bool) -> Iterator[Any]:
    own = f"{size(sharing['own_bytes'])} of its own"
    if not sharing["others"]:
        yield from _section(f"shares nothing with other backups; {own}")
        return
    others = count(sharing["others"], "other backup")
    yield from _section(f"shares {size(sharing['shared_bytes'])} with {others}; {own}")
    rows = table("!id", "session", ">blobs", ">shared")
    shown = sharing["backups"] if everything else sharing["backups"][:SHARERS_SHOWN]
    for row in shown:
        rows.add_row(row["id"], row["session_id"], str(row["blobs"]), size(row["bytes"]))
    yield rows
    if sharing["others"] > len(shown):
        yield plain(f"and {sharing['others'] - len(shown)} more", "dim")


def _blobs(blobs: list[dict[str, Any]], every: bool) -> Iterator[Any]:
    if not blobs:
        return
    missing = [blob for blob in blobs if not blob["present"]]
    folder = os.path.dirname(os.path.dirname(blobs[0]["path"]))
    afar = sum(blob.get("in_bucket", False) for blob in missing)
    lost = f", {afar} in S3" if afar else ""
    lost += f", {len(missing) - afar} missing" if len(missing) > afar else ""
    yield from _section(f"{count(len(blobs), 'blob')} in {folder}{lost}")
    shown = blobs if every else (missing + [blob for blob in blobs if blob["present"]])[:BLOBS_SHOWN]
    yield from map(_blob_line, shown)
    if len(shown) < len(blobs):
        yield plain(f"and {len(blobs) - len(shown)} more (--blobs)", "dim")


def _blob_line(blob: dict[str, Any]) -> Text:
    """Write a blob in one line that is never broken, so that its path can be copied."""
    state, lost = f"shared with {blob['shared_with']}" if blob["shared_with"] else "", False
    if not blob["present"]:
        lost = not blob.get("in_bucket")
        state = "MISSING" if lost else "in S3"
    line = f"{size(blob['size_bytes']):>10}  {blob['layer']:<15}  {state:<16}  {blob['path']}"
    return Text(visible(line), style="red" if lost else "", no_wrap=True, overflow="ignore")
