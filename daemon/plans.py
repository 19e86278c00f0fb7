"""What a restore would do, as far as the daemon can tell by itself: under the model that the backup was saved from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import orjson

from ..codec import manifest_file
from ..db.remembered import Remembered
from ..state.errors import InvalidManifest, ManifestDamaged
from ..state.fingerprint import Fingerprint
from ..state.manifest import Manifest
from ..state.plan import Conditions, RestorePlan, TargetState, plan_restore, refused
from ..state.rates import KINDS, MACHINE_KINDS, Kind, Observation, Rates, from_rows, rate_key, rates_from
from .catalog import Catalog


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
        absent = self._catalog.index.absent_of(manifest.id)
        remote = frozenset(self._in_bucket(absent)) if absent else frozenset[str]()
        conditions = Conditions(
            max_recoverable_tokens=self._max_tokens,
            missing=frozenset(absent - remote),
            remote=remote,
            rates=self._rates(manifest.fingerprint),
        )
        target = TargetState(manifest.fingerprint, as_stored=manifest.adapter == "plain")
        return plan_restore(manifest, target, conditions), manifest

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
