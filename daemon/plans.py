"""What a restore would do, as far as the daemon can tell by itself: under the model that the backup was saved from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import orjson

from ..codec import manifest_file
from ..codec.tree import decode
from ..db.remembered import Remembered
from ..state.errors import BackupNotFound, InvalidManifest, ManifestDamaged
from ..state.fingerprint import Fingerprint
from ..state.manifest import BlobRef, Manifest
from ..state.plan import Conditions, RestorePlan, TargetState, plan_restore, refused
from ..state.rates import KINDS, MACHINE_KINDS, Kind, Observation, Rates, from_rows, rate_key, rates_from
from ..state.switch import same_media, why_apart, with_base
from .catalog import Catalog
from .page_saves import ADAPTER as PAGE

_LOOK_BACK = 512  # saves of a page, one behind the other


class Plans:
    """Plans restores of the backups of one home. `in_bucket` returns those of some digests that the bucket has."""

    def __init__(
        self,
        catalog: Catalog,
        remembered: Remembered,
        in_bucket: Callable[[Iterable[str]], set[str]],
        max_recoverable_tokens: int,
    ) -> None:
        self._catalog, self._remembered, self._in_bucket = catalog, remembered, in_bucket
        self._max_tokens = max_recoverable_tokens

    def as_saved(self, backup_id: str) -> tuple[RestorePlan, Manifest | None]:
        """Return the plan for the model that a backup was saved from, with its manifest.

        None for the manifest where that cannot be read: the plan says why. Raises: BackupNotFound, InvalidId.
        """
        try:
            manifest = manifest_file.load(self._catalog.manifest_json(backup_id))
        except (ManifestDamaged, InvalidManifest) as error:
            return refused(backup_id, error.detail), None
        base = self._base(manifest)
        if base is not None:
            manifest = with_base(manifest, base)
        absent = self._catalog.index.absent_of(manifest.id if base is None else base.id)
        remote = frozenset(self._in_bucket(absent)) if absent else frozenset[str]()
        conditions = Conditions(
            max_recoverable_tokens=self._max_tokens,
            missing=frozenset(absent - remote),
            remote=remote,
            rates=self._rates(manifest.fingerprint),
        )
        target = TargetState(manifest.fingerprint, as_stored=manifest.adapter == "plain")
        if base is None:
            return plan_restore(manifest, target, conditions), manifest
        plan = plan_restore(manifest, target, conditions, at_most="prefix")  # what was said since is prefilled
        return replace(plan, base_id=base.id if plan.reuses("tokens") else None), manifest

    def _base(self, manifest: Manifest) -> Manifest | None:
        """Return the backup whose token ids and KV cache a page's save goes on from, as client/switch.py finds it."""
        parent, at = manifest, manifest.parent_id
        for _ in range(_LOOK_BACK if manifest.adapter == PAGE else 0):
            if at is None:
                return None
            try:
                parent = manifest_file.load(self._catalog.manifest_json(at))
            except (BackupNotFound, ManifestDamaged, InvalidManifest):
                return None
            if parent.adapter != PAGE:
                break
            at = parent.parent_id
        if "tokens" not in parent.layers or parent is manifest or not same_media(parent, manifest):
            return None
        texts = [decode(m.layers.get("text_context"), self._read, lambda leaf: leaf) or {} for m in (parent, manifest)]
        return parent if why_apart(*texts) is None else None

    def _read(self, refs: list[BlobRef]) -> memoryview:
        return memoryview(b"".join(self._catalog.blobs.read(ref) for ref in refs))

    def _rates(self, fingerprint: Fingerprint) -> Rates:
        """Return the rates that were measured with a model, on the device that was used last."""
        found: list[Observation] = []
        for kind in KINDS:
            seen = self._seen(kind, rate_key(kind, fingerprint))
            found += [each for each in seen if kind in MACHINE_KINDS or each.device == seen[-1].device]
        return rates_from(found)

    def _seen(self, kind: Kind, key: str) -> list[Observation]:
        text = self._remembered.get("rate", key, now=self._catalog.now())
        return from_rows(kind, None if text is None else orjson.loads(text))
