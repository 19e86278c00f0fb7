"""The way back to a model: find the earlier backup whose token ids and KV cache a session can go on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..codec import manifest_file, tree
from ..state.backup import Backup
from ..state.errors import BackupNotFound, Damaged, InvalidManifest, NotFound, StoreFailed
from ..state.fingerprint import TOKEN_PARTS
from ..state.manifest import Manifest
from ..state.plan import MODES, Mode, RestorePlan, TargetState, plan_restore
from ..state.switch import same_media, why_apart, with_base
from .api import Api
from .blob_access import BlobAccess

_LOOK_BACK = 512  # backups along the line of parents
_LOOK_INTO = 16  # of them, manifests of the same model


@dataclass(frozen=True, slots=True)
class Source:
    """What is restored: a backup's manifest, with token ids and KV cache of an earlier one where that was found."""

    manifest: Manifest
    base_id: str | None = None
    notes: tuple[str, ...] = ()

    def at_most(self, mode: Mode) -> Mode:
        """Return the best mode: with new turns to prefill, it is not `full`."""
        return "prefix" if self.base_id is not None and mode == "full" else mode

    def label(self, plan: RestorePlan) -> RestorePlan:
        """Add to a plan where its token ids come from."""
        if self.base_id is None or not plan.reuses("tokens"):
            return replace(plan, notes=(*self.notes, *plan.notes))
        note = f"goes on from backup {self.base_id}, the last one under this model; later turns are appended to its ids"
        layers = {
            name: (what, f"{why}; of backup {self.base_id}" if name in _TAKEN and what == "reuse" else why)
            for name, (what, why) in plan.layers.items()
        }
        return replace(plan, base_id=self.base_id, layers=layers, notes=(note, *self.notes, *plan.notes))


_TAKEN = ("tokens", "vision_cache", "kv_cache")


class WayBack:
    """Looks along the line of parents, the nearest first, and where that ends, at the session's earlier backups."""

    def __init__(self, api: Api, blobs: BlobAccess) -> None:
        self._api, self._blobs = api, blobs

    def source(self, manifest: Manifest, state: TargetState, at_most: Mode) -> Source:
        """Return what to restore a backup from in a target: itself, or itself on an earlier one's token ids."""
        alone = Source(manifest)
        if state.as_stored or MODES.index(at_most) > MODES.index("prefix") or manifest.parent_id is None:
            return alone
        if _opens(manifest, state):
            return alone
        notes, looked = list[str](), 0
        for parent in self._parents(manifest, notes):
            if not _may_open(parent, state):
                continue
            looked += 1
            found = self._manifest(parent, notes)
            if found is not None and _opens(found, state):
                why = self._why_apart(found, manifest)
                if why is None:
                    return Source(with_base(manifest, found), found.id, tuple(notes))
                notes.append(f"backup {found.id} is of this model, but cannot be gone on from: {why}")
            if looked == _LOOK_INTO:
                break
        return Source(manifest, notes=tuple(notes))

    def _parents(self, manifest: Manifest, notes: list[str]) -> Iterator[Backup]:
        backup_id = manifest.parent_id
        for _ in range(_LOOK_BACK):
            if backup_id is None:
                return
            try:
                parent = self._api.backup(backup_id, ask=False)
            except BackupNotFound:
                notes.append(f"the earlier backup {backup_id} is gone; others of the session are looked at")
                yield from self._earlier(manifest)
                return
            yield parent
            backup_id = parent.parent_id

    def _earlier(self, manifest: Manifest) -> Iterator[Backup]:
        """Yield the backups of a session that are older than one, newest first: saves of pages come and go."""
        for each in self._api.backups(session_id=manifest.session_id, limit=_LOOK_BACK):
            if each.created_at < manifest.created_at:
                yield each

    def _manifest(self, backup: Backup, notes: list[str]) -> Manifest | None:
        try:
            return manifest_file.load(self._api.manifest(backup.id))
        except (Damaged, InvalidManifest, NotFound) as error:
            notes.append(f"the earlier backup {backup.id} cannot be read: {error.detail}")
            return None

    def _why_apart(self, earlier: Manifest, later: Manifest) -> str | None:
        if not same_media(earlier, later):
            return "its pictures are others by now"
        try:
            return why_apart(*(read_small(m, "text_context", self._blobs) or {} for m in (earlier, later)))
        except (Damaged, InvalidManifest, NotFound, StoreFailed) as error:
            return error.detail


def read_small(manifest: Manifest, layer: str, blobs: BlobAccess, from_leaf: Callable[[Any], Any] | None = None) -> Any:
    """Read a small layer; without `from_leaf`, tensors are their shape, dtype and bytes, so that they compare."""

    def joined(refs: list[Any]) -> memoryview:
        return memoryview(b"".join(bytes(blobs.read(ref)) for ref in refs))

    build = from_leaf if from_leaf is not None else (lambda leaf: (leaf.spec, bytes(leaf.data)))
    return tree.decode(manifest.layers.get(layer), joined, build)


def _opens(manifest: Manifest, state: TargetState) -> bool:
    return plan_restore(manifest, state).mode in ("full", "prefix")


def _may_open(backup: Backup, state: TargetState) -> bool:
    """Tell from a row of the index whether its KV cache can be of the target's model."""
    wanted = state.fingerprint
    tokens = wanted.key(TOKEN_PARTS)
    same = wanted.weights is not None and backup.weights_hash == wanted.weights
    return same and "kv_cache" in backup.layers and (tokens is None or backup.tokenizer_hash in (tokens, None))
