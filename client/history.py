"""A session's history: its drawing from the index, and what happened at each backup from the manifests, one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..codec import manifest_file
from ..codec.compare import compare_messages
from ..codec.token_ids import compare_ids
from ..state.backup import Backup
from ..state.errors import BadInput, BlobDamaged, ManifestDamaged, NotFound, StoreFailed
from ..state.happenings import MODEL_PARTS, Event, Facts, happened
from ..state.manifest import BlobRef, Manifest
from ..state.timeline import Drawing, Node, Row, draw
from .api import Api
from .blob_access import BlobAccess

PAGE = 5000  # backups a request
MANIFESTS_KEPT = 3  # a chain needs each one twice in a row
# What is damaged, or was removed meanwhile, does not keep the rest from being told.
_UNREADABLE = (BadInput, NotFound, BlobDamaged, ManifestDamaged, StoreFailed)
_EMPTY = Manifest(id="0" * 26, session_id="none", created_at=0.0, adapter="none", layers={})


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a history. `backup` is None for one that is gone; `forks` are the sessions that began here."""

    row: Row
    backup: Backup | None
    parent: Backup | None = None
    facts: Facts | None = None
    events: tuple[Event, ...] = ()
    forks: tuple[str, ...] = ()


@dataclass(slots=True)
class History:
    """A session's history. Iterating reads one manifest after the other and keeps next to none of them."""

    session_id: str
    title: str | None
    total: int
    drawing: Drawing
    backups: dict[str, Backup]  # those of this session that are drawn
    parents: dict[str, Backup]  # those that are not among them: older, or of other sessions
    forks: dict[str, list[str]]  # backup -> sessions that were forked from it
    _api: Api
    _blobs: BlobAccess
    _manifests: OrderedDict[str, Manifest | None] = field(default_factory=OrderedDict)

    @property
    def more(self) -> int:
        """Return how many older backups are not drawn."""
        return max(self.total - len(self.backups), 0)

    def backup(self, row: Row) -> Backup | None:
        """Return the backup of a row, None where it is gone."""
        return self.backups.get(row.id) or self.parents.get(row.id)

    def parent(self, row: Row) -> Backup | None:
        """Return the parent of a backup of this session, as far as it is there."""
        backup = self.backups.get(row.id)
        if backup is None or backup.parent_id is None or row.circular:
            return None
        return self.backups.get(backup.parent_id) or self.parents.get(backup.parent_id)

    def __iter__(self) -> Iterator[Point]:
        for row in self.drawing.rows:
            backup, parent = self.backup(row), self.parent(row)
            if backup is None or row.place != "here":
                yield Point(row, backup)
                continue
            facts = self._facts(backup, parent)
            forks = tuple(dict.fromkeys(self.forks.get(backup.id, ())))
            yield Point(row, backup, parent, facts, happened(backup, parent, facts), forks)

    def _facts(self, backup: Backup, parent: Backup | None) -> Facts | None:
        """Compare a backup with its parent; None where a manifest cannot be read."""
        manifest = self._manifest(backup.id)
        before = _EMPTY if parent is None else self._manifest(parent.id)
        if manifest is None or before is None:
            return None
        try:
            messages = compare_messages(before, manifest)
        except BadInput:
            return None
        facts = Facts(
            messages=messages.b,
            messages_before=messages.a,
            messages_same=messages.kept,
            changed=_changed(before, manifest),
            imported=manifest.imported,
        )
        return self._with_ids(facts, before, manifest)

    def _with_ids(self, facts: Facts, before: Manifest, manifest: Manifest) -> Facts:
        try:
            ids = compare_ids(before, manifest, self._read)
        except _UNREADABLE:  # messages tell then
            ids = None
        if ids is None:
            return facts
        return replace(facts, ids=ids.b, ids_before=ids.a, ids_same=ids.same)

    def _read(self, refs: list[BlobRef]) -> memoryview:
        return memoryview(b"".join(self._blobs.read(ref) for ref in refs))

    def _manifest(self, backup_id: str) -> Manifest | None:
        if backup_id not in self._manifests:
            self._manifests[backup_id] = self._load(backup_id)
            if len(self._manifests) > MANIFESTS_KEPT:
                self._manifests.popitem(last=False)
        return self._manifests[backup_id]

    def _load(self, backup_id: str) -> Manifest | None:
        try:
            return manifest_file.load(self._api.manifest(backup_id))
        except _UNREADABLE:
            return None


def _changed(before: Manifest, manifest: Manifest) -> tuple[str, ...]:
    pairs = ((part, before.fingerprint.part(part), manifest.fingerprint.part(part)) for part in MODEL_PARTS)
    return tuple(part for part, a, b in pairs if a is not None and b is not None and a != b)


def read_history(api: Api, blobs: BlobAccess, session_id: str, limit: int | None = None) -> History:
    """Ask the index for a session's newest backups, or for all of them. Raises: InvalidId, SessionNotFound."""
    backups: dict[str, Backup] = {}
    parents: dict[str, Backup] = {}
    before = None
    while True:
        wanted = PAGE if limit is None else min(limit - len(backups), PAGE)
        page = api.timeline(session_id, limit=wanted, before=before)
        rows = [Backup.from_dict(row) for row in page["backups"]]
        backups |= {row.id: row for row in rows}
        parents |= {row["id"]: Backup.from_dict(row) for row in page["parents"]}
        if len(rows) < wanted or len(backups) == limit:
            break
        before = rows[-1].id
    drawing = draw(
        (Node(b.id, b.parent_id, b.created_at) for b in backups.values()),
        elsewhere={b.id for b in parents.values() if b.session_id != session_id},
        older={b.id for b in parents.values() if b.session_id == session_id},
    )
    forks: dict[str, list[str]] = {}
    for link in reversed(page["forks"]):
        forks.setdefault(link["parent_id"], []).append(link["session_id"])
    return History(session_id, page["title"], page["total"], drawing, backups, parents, forks, api, blobs)
