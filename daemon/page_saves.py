"""Saves of web pages: their text as a backup that goes on from an earlier one, without any inference process.

Such a backup holds its base's images, settings and fingerprint by reference, so it costs its text alone and nothing is
asked for again. It has no token ids and no KV cache of its own: a restore finds those of its base (client/switch.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..codec import manifest_file, tree
from ..codec.source_media import sources
from ..state.conversation import read_talk, settled
from ..state.errors import (
    BackupNotFound,
    BadInput,
    Conflict,
    Damaged,
    InvalidManifest,
    MissingBlobs,
    NotFound,
    SessionNotFound,
    StoreFailed,
    Timeout,
    TooLarge,
    TorporError,
)
from ..state.fingerprint import Fingerprint
from ..state.manifest import Manifest, layer_blobs
from ..state.page_items import Message, PageItem, id_of, read_item
from ..state.page_view import Layout, View, drafts_more, holds, lay_out, shared, whole
from ..state.quota import on_disk
from .blob_reads import BlobReads
from .catalog import Catalog
from .page_looks import Looks, Seen
from .room import Room

ADAPTER = "page"
MAX_ITEMS = 1_000  # of one drain
MAX_MANIFEST_BYTES = 64 << 20  # of a conversation that grew by many items
_LOOK_BACK = 64  # backups, for images that were away
_ITEM_KEY = "page_item"  # in the metadata: the digest of the item that a backup was made of
_OWN_KEYS = ("conversation", "messages", "conversation_history", "covered", "pending", "draft")
_AWAY = "its images are only in the bucket, which does not give them now"

Kind = Literal["full", "small", "unchanged"]


@dataclass(frozen=True, slots=True)
class PageSaved:
    """What became of a page's item: the backup that has all of it. `kind` is `unchanged` where that was there."""

    backup_id: str
    session_id: str
    created_at: float
    messages: int
    tokens: int
    bytes_written: int
    kind: Kind


class PageSaves:
    """Makes backups of what pages say. Safe to call from several threads."""

    def __init__(self, catalog: Catalog, reads: BlobReads, room: Room) -> None:
        self._catalog, self._reads, self._room = catalog, reads, room
        self._looks = Looks(catalog, reads)
        self.look = self._looks.look

    def drain(self, pending: Sequence[Any]) -> dict[str, Any]:
        """Save what a page could not send earlier, in its order; one that is refused stops no other.

        Raises: TooLarge.
        """
        if len(pending) > MAX_ITEMS:
            raise TooLarge(
                f"{len(pending)} items at once (at most {MAX_ITEMS})", hint="Send the rest in a second request."
            )
        drained, refused, waited = [], [], dict[str, Timeout]()
        for value in pending:
            try:
                item = read_item(value)
                saved = self._save_soon(item, waited)
                drained.append({"id": item.id, "backup_id": saved.backup_id, "kind": saved.kind})
            except TorporError as error:
                told = {"code": error.code, "detail": error.detail, "hint": error.hint, "retryable": error.retryable}
                refused.append({"id": id_of(value)} | told)
        return {"success": True, "drained": drained, "refused": refused}

    def _save_soon(self, item: PageItem, waited: dict[str, Timeout]) -> PageSaved:
        """Save an item; of a session that the bucket was awaited for in vain, it is not awaited again for each."""
        if item.session_id in waited:
            raise waited[item.session_id]
        try:
            return self.save(item)
        except Timeout as error:
            waited[item.session_id] = error
            raise

    def save(self, item: PageItem) -> PageSaved:
        """Save an item under its own id. The same one again changes nothing.

        Durability: as a commit. Raises: BadInput, BackupNotFound (its base), Conflict, TooLarge, QuotaFull, StoreFull,
        StoreFailed.
        """
        try:
            return self._save(item)
        except MissingBlobs:  # what is kept in memory names blobs that have left the disk since
            self._looks.forget(item.session_id)
            return self._save(item)

    def _save(self, item: PageItem) -> PageSaved:
        if (known := self._known(item)) is not None:
            return known
        said, newest = item.digest(), self._newest(item.session_id)
        item = item.by_clock(self._catalog.now())
        if newest is not None and item.base is None and not item.messages:  # a draft before anything came back
            keep, partial = len(newest.view.conversation), newest.view.partial
            item = replace(item, base=newest.backup.id, keep=keep, partial=partial, bare=False)
        base = self._base(item, newest)
        under = base or newest
        conversation = whole(item, under.view if under is not None else View())
        if newest is not None and holds(newest.view, item, conversation):
            there = newest.view
            if base is not None and (newest is base or len(conversation) < len(base.view.conversation)):
                # What a page leaves out of what it knew, it means.
                nothing_new = len(conversation) == len(there.conversation) and item.draft == there.draft
            else:
                nothing_new = not drafts_more(there, item, conversation)
                item, base, conversation = replace(item, partial=there.partial), newest, [*there.conversation]
            if nothing_new:
                return self._saved(newest.manifest, len(there.conversation), "unchanged")
        if not conversation and item.draft is None:
            raise BadInput("the item holds neither a message nor a draft")
        on = _under(item, base, newest, conversation)
        try:
            made = self._commit(item, said, on, conversation)
        except Conflict:  # another tab has sent it in the same moment
            if (known := self._known(item)) is None:
                raise
            return known
        finally:
            self._room.end(item.id)
        if item.title is not None and (newest is None or newest.backup.title is None):
            with suppress(TorporError):  # the backup is there; a title can be given again
                self._catalog.set_title(item.session_id, item.title)
        return self._saved(made, len(conversation), "small")

    def _known(self, item: PageItem) -> PageSaved | None:
        """Return what was saved of an item before. Raises: Conflict where something else has its id."""
        if not self._catalog.index.has_backup(item.id):
            return None
        seen = self.look(self._catalog.index.backup(item.id))
        metadata = self._looks.decoded(seen.manifest, "metadata")
        if seen.backup.session_id == item.session_id and metadata.get(_ITEM_KEY) == item.digest():
            return self._saved(seen.manifest, len(seen.view.conversation), "small")
        raise Conflict(f"backup {item.id} exists with other content", hint="Make a new id for each state.")

    def _saved(self, made: Manifest, messages: int, kind: Kind) -> PageSaved:
        written = 0 if kind == "unchanged" else made.bytes_written + self._catalog.manifests.size_bytes(made.id)
        return PageSaved(made.id, made.session_id, made.created_at, messages, made.tokens, written, kind)

    def _newest(self, session_id: str) -> Seen | None:
        """Return the newest backup of a session, where there is one that can be read."""
        try:
            return self.look(self._catalog.index.newest(session_id))
        except (SessionNotFound, Damaged, InvalidManifest, NotFound, StoreFailed):
            return None

    def _base(self, item: PageItem, newest: Seen | None) -> Seen | None:
        if item.base is None:
            return None
        if newest is not None and newest.backup.id == item.base:
            return newest
        hint = "Send all messages with base null and keep 0."
        try:
            backup = self._catalog.index.backup(item.base)
            if backup.session_id != item.session_id:
                raise BackupNotFound(f"backup {item.base} is one of another session", hint=hint)
            return self.look(backup)
        except (Damaged, InvalidManifest, NotFound) as error:
            raise BackupNotFound(f"the base of the item cannot be read: {error.detail}", hint=hint) from error

    def _commit(self, item: PageItem, said: str, on: Seen | None, conversation: Sequence[Message]) -> Manifest:
        on = None if on is None else self._with_images(on)
        layout = lay_out(item, conversation, on.view if on is not None else View(), _pictures(on))
        metadata = ({} if on is None else self._looks.decoded(on.manifest, "metadata")) | {_ITEM_KEY: said}
        text = _text_layer(item, on, layout)
        values = {"metadata": metadata, "text_context": _as_encoded(text, on, layout.shared)}
        layers, written = self._written({name: tree.encode(value, _to_leaf) for name, value in values.items()}, item)
        media = _media(on, layout)
        omitted = {}
        if on is not None and (on.manifest.kv_cache is not None or "kv_cache" in on.manifest.omitted):
            omitted["kv_cache"] = f"a page saved its text alone; it goes on from {on.backup.id}"
        if media and self._reads.missing(list(layer_blobs(media))):
            media, omitted["media"] = [], _AWAY
        if on is not None and "config_snapshot" in on.manifest.layers:
            layers["config_snapshot"] = on.manifest.layers["config_snapshot"]
        manifest = Manifest(
            id=item.id,
            session_id=item.session_id,
            created_at=self._created_at(item, on),
            adapter=ADAPTER,
            layers=layers | ({"media": media} if media else {}),
            parent_id=None if on is None else on.backup.id,
            fingerprint=Fingerprint() if on is None else on.manifest.fingerprint,
            omitted=omitted,
            bytes_written=written,
        )
        raw = manifest_file.dump(manifest)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise TooLarge("the conversation is too long for one manifest")
        self._catalog.commit_all([manifest])
        self._looks.keep(manifest, raw, text)
        return manifest

    def _with_images(self, on: Seen) -> Seen:
        """Return a backup with the images that could not be had when it was saved: those that it went on from."""
        holder = on
        for _ in range(_LOOK_BACK):
            if holder.manifest.omitted.get("media") != _AWAY or holder.backup.parent_id is None:
                break
            try:
                holder = self.look(self._catalog.index.backup(holder.backup.parent_id))
            except (Damaged, InvalidManifest, NotFound, StoreFailed):
                return on
        known = holder.view.conversation
        if holder is on or shared(known, on.view) < len(known) - holder.view.partial:
            return on
        layers = on.manifest.layers | {"media": holder.manifest.layers.get("media", [])}
        return replace(on, manifest=replace(on.manifest, layers=layers))

    def _created_at(self, item: PageItem, on: Seen | None) -> float:
        """Return when it was said: never in the future, whatever the page's clock says, and behind what it adds to."""
        at = min(item.created_at, self._catalog.now())
        return at if on is None else max(at, math.nextafter(on.backup.created_at, math.inf))

    def _written(self, trees: dict[str, tree.EncodedTree], item: PageItem) -> tuple[dict[str, Any], int]:
        """Store what is too long for a manifest, in the room that is kept for text; return the layers, and new bytes.

        Raises: QuotaFull, StoreFull, StoreFailed.
        """
        pending = [(tree.chunks(leaf), body) for encoded in trees.values() for leaf, body in encoded.pending]
        if pending:  # promised under the id, for which the commit will look
            size = sum(on_disk(chunk.nbytes) for chunks, _ in pending for chunk in chunks)
            self._room.ask(item.id, size, text=True, session_id=item.session_id)
        unsynced: set[Path] = set()
        written = 0
        for chunks, body in pending:
            put = [self._catalog.blobs.put(self._catalog.staging, [chunk], unsynced) for chunk in chunks]
            written += sum(result.ref.size_bytes for result in put if result.written)
            tree.fill(body, [result.ref for result in put])
        self._catalog.blobs.sync_folders(unsynced)
        return {name: encoded.value for name, encoded in trees.items()}, written


def _to_leaf(value: Any) -> tree.Leaf | tree.Encoded | None:
    """Take back a tensor that `decode` gave as a leaf, and what is encoded already."""
    return value if isinstance(value, (tree.Leaf, tree.Encoded)) else None


def _text_layer(item: PageItem, on: Seen | None, layout: Layout) -> dict[str, Any]:
    """Return the text layer: the base's, with the conversation that the page says in place of its own."""
    rest = {} if on is None else {key: value for key, value in on.text.items() if key not in _OWN_KEYS}
    there: list[Any] = [] if on is None or not layout.shared else settled(read_talk(on.text)).messages
    messages = [*there[: layout.shared], *layout.messages]
    begun = layout.begun
    pending = None if begun is None or begun.is_empty else asdict(begun)
    own = {on.view.key if on is not None else "conversation": messages, "covered": len(messages), "pending": pending}
    return rest | own | ({} if item.draft is None else {"draft": item.draft})


def _as_encoded(text: dict[str, Any], on: Seen | None, count: int) -> dict[str, Any]:
    """Return a text layer with what stays in the form in which it is encoded already, where that is plain."""
    nodes = None if on is None else on.manifest.layers.get("text_context")
    if on is None or not isinstance(nodes, dict) or nodes.keys() != on.text.keys():
        return text
    stays = {key: tree.Encoded(nodes[key]) for key in text if key in nodes and key not in _OWN_KEYS}
    key, there = on.view.key, nodes.get(on.view.key)
    if not isinstance(there, list) or (count and len(there) != len(settled(read_talk(on.text)).messages)):
        return text | stays
    return text | stays | {key: [*map(tree.Encoded, there[:count]), *text[key][count:]]}


def _under(item: PageItem, base: Seen | None, newest: Seen | None, conversation: Sequence[Message]) -> Seen | None:
    """Return what an item is saved on: the backup that has the most of it, or its base where that was long ago."""
    late = newest is not None and item.created_at < newest.backup.created_at
    if base is newest or (base is not None and late):
        return base
    candidates = [seen for seen in (base, newest) if seen is not None]
    return max(candidates, key=lambda seen: shared(conversation, seen.view), default=None)


def _pictures(on: Seen | None) -> list[int]:
    """Return which media of a backup are images; the i-th belongs to the i-th image part."""
    found = [] if on is None else [each.medium for each in sources(on.manifest)]
    return [medium.index for medium in found if not medium.media_type.startswith("video/")]


def _media(on: Seen | None, layout: Layout) -> list[Any]:
    """Return the media layer: the images of the parts in order; with all of the base's messages, all of its media."""
    nodes = None if on is None else on.manifest.layers.get("media")
    if on is None or not isinstance(nodes, list):
        return []
    images = len(_pictures(on))
    if layout.shared == len(on.view.conversation) - on.view.partial and len(layout.images) >= images:
        return [*nodes, *(nodes[n] for n in layout.images[images:])]
    return [nodes[n] for n in layout.images]
