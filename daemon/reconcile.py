"""Make index and manifests agree: at every start, and when the index was lost. Manifests are the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..codec import manifest_file
from ..db import marks
from ..state.errors import Conflict, IndexDamaged, TorporError
from ..state.manifest import Manifest, manifest_blobs
from ..state.ordered import differences
from .catalog import Catalog

NAMED = 10  # backups in an event
_AT_ONCE, _BYTES_AT_ONCE = 100, 8 << 20  # backups of one transaction, and the bytes of their manifests


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What start-up found: manifests imported, rows without a manifest dropped, manifests that cannot be used.

    `undone` counts manifests of groups whose commit was cut off.
    """

    imported: int
    dropped: int
    unusable: int
    undone: int


def reconcile(catalog: Catalog) -> Reconciled:
    """Make the index agree with the manifests on disk. Raises: IndexDamaged when all manifests are gone."""
    catalog.manifests.settle()
    on_disk, pending = sorted(catalog.manifests.ids()), catalog.pending_groups.ids()
    with catalog.index.reading() as connection:
        differing = list(differences(on_disk, marks.backup_ids(connection)))
    lost = [backup_id for backup_id, is_file in differing if not is_file]
    vanished = sorted(set(lost) - catalog.manifests.trashed())
    if vanished and not on_disk:
        raise IndexDamaged(
            f"the index knows {len(lost)} backups, but the store holds no manifest",
            hint="Check that the home folder is mounted whole; if the store was emptied, move index.sqlite away.",
        )
    imports = _Imports(catalog, pending)
    imports.run(backup_id for backup_id, is_file in differing if is_file)
    for at in range(0, len(lost), _AT_ONCE):
        catalog.index.forget_backups(lost[at : at + _AT_ONCE])
    if lost:
        catalog.note("info", "rows-dropped", f"{len(lost)} removed backups left the index")
    if vanished:
        named = ", ".join(vanished[:NAMED]) + (f" and {len(vanished) - NAMED} more" if len(vanished) > NAMED else "")
        detail = f"{len(vanished)} backups lost their manifest while no daemon ran, and nobody removed them: {named}"
        catalog.note("error", "manifests-gone", detail)
    catalog.manifests.empty_trash()
    _end_groups(catalog, pending, imports.undone)
    return Reconciled(imports.imported, len(lost), imports.unusable, imports.undone)


class _Imports:
    """Manifests that the index does not know, on their way into it, some in one transaction."""

    def __init__(self, catalog: Catalog, pending: set[str]) -> None:
        self._catalog, self._pending = catalog, pending
        self.imported = self.undone = self.unusable = 0

    def run(self, backup_ids: Iterable[str]) -> None:
        """Index manifests; one whose group's commit was cut off is removed instead.

        What is in the index needs no such look: a group enters it in one transaction.
        """
        ready: list[tuple[Manifest, bytes]] = []
        for backup_id in backup_ids:
            with self._noting(backup_id):
                manifest, raw = self._read(backup_id)
                if manifest.group is not None and manifest.group.id in self._pending:
                    self._catalog.manifests.remove(backup_id)
                    self.undone += 1
                    continue
                ready.append((manifest, raw))
            if len(ready) >= _AT_ONCE or sum(len(raw) for _, raw in ready) >= _BYTES_AT_ONCE:
                self._enter(ready)
                ready = []
        if ready:
            self._enter(ready)

    def _read(self, backup_id: str) -> tuple[Manifest, bytes]:
        raw = self._catalog.manifests.read(backup_id)
        manifest = manifest_file.load(raw)
        if manifest.id != backup_id:
            raise Conflict(f"the file of {backup_id} holds the manifest of {manifest.id}")
        return manifest, raw

    def _enter(self, ready: Sequence[tuple[Manifest, bytes]]) -> None:
        """Enter backups together, or one by one where that fails, so that one which cannot be used stops no other."""
        try:
            self._enter_all(ready)
        except TorporError:
            for each in ready:
                with self._noting(each[0].id):
                    self._enter_all([each])

    def _enter_all(self, ready: Sequence[tuple[Manifest, bytes]]) -> None:
        absent = self._catalog.enter(ready)  # they are in the bucket, or lost: a restore says which
        self.imported += len(ready)
        for backup_id, count in absent.items():
            detail = f"{backup_id}: {count} blobs are not on this machine"
            self._catalog.note("info", "blobs-absent", detail, backup_id)

    @contextmanager
    def _noting(self, backup_id: str) -> Iterator[None]:
        """Count and note what cannot be used, and spare its blobs."""
        try:
            yield
        except TorporError as error:
            self.unusable += 1
            _keep_blobs_of(self._catalog, backup_id)
            self._catalog.note("warning", "manifest-unusable", f"{backup_id}: {error.detail}", backup_id)


def _keep_blobs_of(catalog: Catalog, backup_id: str) -> None:
    """Spare what an unusable manifest names, which may heal; of an unreadable one spare everything."""
    try:
        catalog.spared.add(manifest_blobs(manifest_file.load(catalog.manifests.read(backup_id))))
    except TorporError:
        catalog.spared.add_all()


def _end_groups(catalog: Catalog, pending: set[str], undone: int) -> None:
    """Forget the commits of groups that were cut off, now that nothing is left of them, or all is there."""
    if undone:
        catalog.note("info", "group-undone", f"{undone} backups of {len(pending)} groups that were not whole")
    catalog.checkpoint("group.undone")
    for group_id in pending:
        catalog.pending_groups.end(group_id)
    catalog.pending_groups.sweep()
