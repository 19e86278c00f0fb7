"""Verification on demand: read every blob of a backup, or of all, at full speed, and say what can be restored."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Literal

from ..codec import manifest_file
from ..db.damage import incomplete_backups, present_after, present_bytes
from ..state.errors import BackupNotFound, Conflict, Damaged, InvalidManifest, NotFound, TorporError
from ..state.manifest import BlobRef, Manifest, manifest_blobs
from ..state.plan import Conditions, TargetState, plan_restore
from ..state.problems import to_problem
from ..store.gentle_reads import GentleReader
from .catalog import Catalog
from .manifest_care import ManifestCare
from .repair import Repair
from .scrub import FIRST, IN_A_ROW, PAGE

log = logging.getLogger("torpor.verify")
State = Literal["running", "done", "failed", "cancelled"]
KEPT, LISTED = 8, 1000  # verifications of which somebody may still ask; backups that are not whole, in one answer


class _Cancelled(Exception):  # noqa: N818  (somebody's wish)
    pass


class Verification:
    """One run. `backup_id` is None when everything is read."""

    def __init__(self, run_id: str, backup_id: str | None) -> None:
        self.id, self.backup_id, self.state = run_id, backup_id, "running"
        self.bytes = self.bytes_done = self.blobs = self.healed = self.damaged = self.unsure = 0
        self.backups: list[dict[str, Any]] = []
        self.problem: TorporError | None = None
        self.cancel = threading.Event()

    def describe(self) -> dict[str, Any]:
        """Tell how far it is, and of backups that are not whole what can be restored."""
        names = ("id", "backup_id", "state", "bytes", "bytes_done", "blobs", "healed", "damaged", "unsure", "backups")
        problem = None if self.problem is None else to_problem(self.problem)
        return {name: getattr(self, name) for name in names} | {"problem": problem}


class Verifier:
    """Runs verifications, one at a time."""

    def __init__(
        self,
        catalog: Catalog,
        repair: Repair,
        manifests: ManifestCare,
        new_id: Callable[[], str],
        in_bucket: Callable[[list[str]], set[str]] = lambda digests: set(),
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._catalog, self._repair, self._manifests = catalog, repair, manifests
        self._new_id, self._in_bucket = new_id, in_bucket
        self._sleep, self._lock = sleep, threading.Lock()
        self._runs: OrderedDict[str, Verification] = OrderedDict()
        self._thread: threading.Thread | None = None

    def start(self, backup_id: str | None) -> Verification:
        """Begin to verify a backup, or all. Raises: BackupNotFound, Conflict while another one runs."""
        if backup_id is not None:
            self._catalog.index.backup(backup_id)
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise Conflict("something is being verified already", hint="Try again when that is done.")
            run = Verification(self._new_id(), backup_id)
            self._runs[run.id] = run
            while len(self._runs) > KEPT:
                self._runs.popitem(last=False)
            self._thread = threading.Thread(target=self._run, args=(run,), name="verify", daemon=True)
            self._thread.start()
        return run

    def run(self, run_id: str) -> Verification:
        """Return a verification. Raises: NotFound."""
        with self._lock:
            found = self._runs.get(run_id)
        if found is None:
            raise NotFound(f"there is no verification {run_id[:40]}", hint="`torpor verify` begins another one.")
        return found

    def stop(self) -> None:
        """End what runs."""
        with self._lock:
            thread, runs = self._thread, list(self._runs.values())
        for run in runs:
            run.cancel.set()
        if thread is not None:
            thread.join(10.0)

    def _run(self, run: Verification) -> None:
        try:
            self._verify(run)
            run.state = "done"
        except _Cancelled:
            run.state = "cancelled"
        except TorporError as error:
            run.problem, run.state = error, "failed"
        except Exception as error:
            log.exception("a verification failed for a reason that is a defect of ours")
            run.problem, run.state = TorporError(f"{type(error).__name__}: {error}"), "failed"

    def _verify(self, run: Verification) -> None:
        def told(count: int) -> None:
            run.bytes_done += count
            if run.cancel.is_set():
                raise _Cancelled

        reader = GentleReader(told, self._sleep)
        self._repair.try_again(GentleReader(lambda count: None, self._sleep), lambda: not run.cancel.is_set())
        one = None if run.backup_id is None else self._manifest(run.backup_id, run)
        if run.backup_id is not None and one is None:
            return
        in_a_row = 0
        for ref in self._every(run) if one is None else self._of(one, run):
            sound = self._look(run, ref, reader)
            in_a_row = 0 if sound else in_a_row + 1
            if in_a_row >= IN_A_ROW:
                raise Damaged(
                    f"{in_a_row} blobs in a row could not be read: look at the disk, not at the blobs",
                    hint="`dmesg` and `smartctl -a` say how the disk is; `torpor doctor` how the store is.",
                )
        self._report(run, one)

    def _every(self, run: Verification) -> Iterator[BlobRef]:
        for backup_id in sorted(self._catalog.index.all_ids(), reverse=True):
            self._manifest(backup_id, run)
            if run.cancel.is_set():
                raise _Cancelled
        at = FIRST
        with self._catalog.index.reading() as connection:
            run.bytes = present_bytes(connection, at)
        while True:
            with self._catalog.index.reading() as connection:
                refs = present_after(connection, at, PAGE)
            if not refs:
                return
            yield from refs
            at = refs[-1].digest

    def _of(self, manifest: Manifest, run: Verification) -> list[BlobRef]:
        refs = [BlobRef(digest, size) for digest, (size, _) in manifest_blobs(manifest).items()]
        absent = self._catalog.index.absent_of(manifest.id)
        here = [ref for ref in refs if ref.digest not in absent]
        run.bytes = sum(ref.size_bytes for ref in here)
        return here

    def _manifest(self, backup_id: str, run: Verification) -> Manifest | None:
        """Read a manifest, checked and healed if need be; one that cannot be read is reported."""
        try:
            run.healed += self._manifests.look(backup_id) == "healed"
            return manifest_file.load(self._catalog.manifest_json(backup_id))
        except (BackupNotFound, Damaged, InvalidManifest) as error:
            if not self._catalog.index.has_backup(backup_id):
                return None  # removed meanwhile
            if len(run.backups) < LISTED:
                said = {"id": backup_id, "state": "damaged", "mode": "refuse", "layers": {}, "notes": [error.detail]}
                run.backups.append(said | {"missing": 0})
            return None

    def _look(self, run: Verification, ref: BlobRef, reader: GentleReader) -> bool:
        seen = reader.examine(self._catalog.blobs.path(ref.digest), ref)
        run.blobs += 1
        if seen.verdict == "sound":
            run.unsure += seen.doubt is not None
            return True
        outcome = self._repair.put_right(ref, seen, reader)
        run.healed += outcome == "healed"
        run.damaged += outcome == "damaged"
        return outcome == "healed"

    def _report(self, run: Verification, one: Manifest | None) -> None:
        if one is not None:
            run.backups.append(self._restorable(one))
            return
        with self._catalog.index.reading() as connection:
            ids = incomplete_backups(connection, LISTED)
        told = {each["id"] for each in run.backups}
        for backup_id in ids:
            manifest = self._manifest(backup_id, run) if backup_id not in told else None
            if manifest is not None:
                run.backups.append(self._restorable(manifest))

    def _restorable(self, manifest: Manifest) -> dict[str, Any]:
        """Say what of a backup comes back into the model that it was saved from."""
        absent = self._catalog.index.absent_of(manifest.id)
        missing = frozenset(absent - self._in_bucket(sorted(absent)))
        target = TargetState(manifest.fingerprint, as_stored=manifest.adapter == "plain")
        plan = plan_restore(manifest, target, Conditions(missing=missing, max_recoverable_tokens=1 << 62))
        layers = {name: [what, why] for name, (what, why) in plan.layers.items()}
        state = "sound" if not absent else "in-bucket" if not missing else "damaged"
        said = {"id": manifest.id, "session_id": manifest.session_id, "state": state, "mode": plan.mode}
        return said | {"layers": layers, "notes": list(plan.notes), "missing": len(missing)}
