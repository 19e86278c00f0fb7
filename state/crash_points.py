"""The named points between the steps of a durable save, in the order in which they are passed.

A test kills the process at each of them (see store/crash.py); code reaches a point through a `Checkpoint` that was
handed in, so nothing here has an effect by itself.
"""

from __future__ import annotations

from collections.abc import Callable

Checkpoint = Callable[[str], None]

SDK_POINTS = (
    "save.captured",
    "blob.created",
    "blob.written",
    "blob.synced",
    "blob.replaced",
    "blob.directory-synced",
    "save.blobs-done",
    "save.acknowledged",
)
DAEMON_POINTS = (
    "commit.received",
    "manifest.created",
    "manifest.written",
    "manifest.synced",
    "manifest.replaced",
    "manifest.directory-synced",
    "index.begun",
    "index.inserted",
    "index.committed",
)
REMOVAL_POINTS = ("remove.trashed", "remove.unindexed")
GROUP_POINTS = ("group.noted", "group.indexed", "group.settled")  # of a commit; between the first two, DAEMON_POINTS
UNDO_POINTS = ("group.undone",)  # at start-up, after a crash in a group's commit
SYNC_POINTS = (
    "outbox.leased",
    "push.blob-sent",
    "push.blob-noted",
    "push.record-sent",
    "push.record-noted",
    "push.checked",
    "push.superseded",  # the earlier record of this machine is deleted
    "push.done",
    "outbox.finished",
)
LETTING_GO_POINTS = ("letting-go.noted", "letting-go.unlinked")  # of each batch of blobs that leave this machine
MOVE_POINTS = (  # of a home: the first two on one disk, the others between disks
    "move.noted",
    "move.exchanged",
    "move.marked",
    "move.copied",
    "move.committed",
)
CRASH_POINTS = (
    *SDK_POINTS,
    *DAEMON_POINTS,
    *REMOVAL_POINTS,
    *GROUP_POINTS,
    *UNDO_POINTS,
    *SYNC_POINTS,
    *LETTING_GO_POINTS,
    *MOVE_POINTS,
)


def no_checkpoint(name: str) -> None:
    """Pass a crash point without effect."""
