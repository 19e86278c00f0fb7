"""The doctor in the running daemon: the same checks as `torpor doctor`, in a thread, one examination at a time.

What a check would ask the daemon for is answered from its parts. Checks that only make sense while no daemon runs know
that it does (`Patient.running`); a fix that a running daemon forbids is not offered by them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from ..state.errors import Conflict, Unavailable
from .checkup import Check, Look, Patient, examine, fix_all, refuse_to_fix
from .parts import Parts
from .remote_settings import working_directory
from .sync_report import report

log = logging.getLogger("torpor.doctor")
State = Literal["never", "running", "fixing", "done"]
STATUSES = ("ok", "warning", "error")


class Examination:
    """The newest examination of one home. Safe to use from several threads."""

    def __init__(self, patient: Callable[[], Patient], looks: Sequence[Look]) -> None:
        self._patient, self._looks = patient, looks
        self._lock = threading.Lock()
        self._state: State = "never"
        self._began_at: float | None = None
        self._ended_at: float | None = None
        self._checks: list[Check] = []
        self._done, self._fixed = 0, dict[str, str]()

    def begin(self) -> bool:
        """Begin to look at everything; False while that is going on already."""
        return self._start("running", self._look)

    def fix(self, names: Collection[str] | None) -> None:
        """Do what the hints of some findings say, or of all, and look at everything again.

        Raises: Conflict while something is being looked at, UnsafeHome.
        """
        refuse_to_fix(self._patient().home)
        with self._lock:
            wanted = [check for check in self._checks if names is None or check.name in names]
        if not self._start("fixing", lambda: self._mend(wanted)):
            raise Conflict("everything is being looked at just now", hint="Try again when that is done.")

    def describe(self) -> dict[str, Any]:
        """Tell what was found, as far as it is known by now."""
        with self._lock:
            return {
                "state": self._state,
                "started_at": self._began_at,
                "ended_at": self._ended_at,
                "done": self._done,
                "total": len(self._looks),
                "counts": {each: sum(check.status == each for check in self._checks) for each in STATUSES},
                "checks": [_described(check) for check in self._checks],
                "fixed": dict(self._fixed),
            }

    def _start(self, state: State, work: Callable[[], None]) -> bool:
        with self._lock:
            if self._state in ("running", "fixing"):
                return False
            before, self._state = self._state, state
            self._ended_at = None
            try:
                threading.Thread(target=self._run, args=(work,), name="doctor", daemon=True).start()
            except RuntimeError as error:
                self._state = before
                raise Unavailable(f"no thread for it can be had: {error}") from error
        return True

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            log.exception("a check failed for a reason that is a defect of ours")
        finally:
            with self._lock:
                self._state, self._ended_at = "done", self._patient().now

    def _look(self) -> None:
        patient = self._patient()
        with self._lock:
            self._checks, self._done, self._began_at, self._fixed = [], 0, patient.now, {}
        self._look_at_all(patient)

    def _look_at_all(self, patient: Patient) -> None:
        for look in self._looks:
            found = examine(patient, [look])
            with self._lock:
                self._checks, self._done = [*self._checks, *found], self._done + 1

    def _mend(self, wanted: Sequence[Check]) -> None:
        fixed = fix_all(wanted)
        patient = self._patient()
        with self._lock:
            self._fixed, self._state = fixed, "running"
            self._checks, self._done, self._began_at = [], 0, patient.now
        self._look_at_all(patient)


def _described(check: Check) -> dict[str, Any]:
    said = {"name": check.name, "status": check.status, "detail": check.detail, "hint": check.hint}
    return said | {"fixable": check.fix is not None and check.status != "ok"}


def patient_of(parts: Parts, version: str, clock: Callable[[], float]) -> Patient:
    """Return the home of a running daemon, as the doctor looks at it."""

    def ask(path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        match path, body is None:
            case "/v1/status", True:
                return {"version": version, "pid": os.getpid(), "watches": parts.watches.describe()}
            case "/v1/sync", True:
                return report(parts.side)
            case "/v1/scrub", True:
                return parts.care.scrub.describe()
            case "/v1/scrub", False:
                return parts.care.scrub.describe() | {"began": parts.care.scrub.begin()}
            case "/v1/sync/retry", False:
                return {"retried": parts.side.retry(None)}
        raise AssertionError(path)

    return Patient(parts.home, os.environ, clock(), ask, working_directory())
