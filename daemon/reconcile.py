"""Make index and manifests agree: at every start, and when the index was lost. Manifests are the truth."""

from __future__ import annotations

from dataclasses import dataclass

from ..codec import manifest_file
from ..state.errors import Conflict, IndexDamaged, TorporError
from ..state.manifest import manifest_blobs
from .catalog import Catalog


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
    on_disk, indexed = set(catalog.manifests.ids()), catalog.index.all_ids()
    if indexed and not on_disk and not indexed <= catalog.manifests.trashed():
        raise IndexDamaged(
            f"the index knows {len(indexed)} backups, but the store holds no manifest",
            hint="Check that the home folder is mounted whole; if the store was emptied, move index.sqlite away.",
        )
    imported = unusable = undone = 0
    pending = catalog.pending_groups.ids()
    for backup_id in sorted(on_disk - indexed):
        try:
            if _import(catalog, backup_id, pending):
                imported += 1
            else:
                undone += 1
        except TorporError as error:
            unusable += 1
            _keep_blobs_of(catalog, backup_id)
            catalog.note("warning", "manifest-unusable", f"{backup_id}: {error.detail}", backup_id)
    lost = indexed - on_disk
    for lost_id in sorted(lost):
        catalog.index.remove_backup(lost_id)
    if lost:
        catalog.note("info", "rows-dropped", f"{len(lost)} removed backups left the index")
    catalog.manifests.empty_trash()
    _end_groups(catalog, pending, undone)
    return Reconciled(imported, len(lost), unusable, undone)


def _import(catalog: Catalog, backup_id: str, pending: set[str]) -> bool:
    """Index a manifest; remove it instead when its group's commit was cut off (then it returns False).

    What is in the index needs no look: a group enters it in one transaction.
    """
    raw = catalog.manifests.read(backup_id)
    manifest = manifest_file.load(raw)
    if manifest.id != backup_id:
        raise Conflict(f"the file of {backup_id} holds the manifest of {manifest.id}")
    if manifest.group is not None and manifest.group.id in pending:
        catalog.manifests.remove(backup_id)
        return False
    absent = catalog.enter(manifest, raw)
    if absent:  # they are in the bucket, or lost: a restore says which
        catalog.note("info", "blobs-absent", f"{backup_id}: {absent} blobs are not on this machine", backup_id)
    return True


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
