"""A checkup: checks over a home, its daemon and the machine, each with what to do, and some with a fix.

It works whether the daemon runs or not. A check never raises, and a fix never deletes what somebody may want back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..state.errors import TorporError, UnsafeHome
from ..store.home import Home

Status = Literal["ok", "warning", "error"]
Fix = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and how it is. `fix` does what the hint says, and tells what it did."""

    name: str
    status: Status
    detail: str
    hint: str = ""
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """What checks may look at. `ask` calls the daemon that runs (path, and a body to post); None while none does.

    `now` is in seconds since the epoch; `system` is the root of /proc and /sys, which a test may make up.
    """

    home: Home
    environment: Mapping[str, str]
    now: float
    ask: Callable[[str, dict[str, Any] | None], dict[str, Any]] | None = None
    working: Path | None = None
    system: Path = field(default_factory=lambda: Path("/"))

    @property
    def running(self) -> bool:
        """Tell whether the daemon answers."""
        return self.ask is not None


Look = Callable[[Patient], Iterable[Check]]


def examine(patient: Patient, looks: Sequence[Look]) -> list[Check]:
    """Run checks one after the other; one that fails is a finding itself."""
    found: list[Check] = []
    for look in looks:
        try:
            found += look(patient)
        except TorporError as error:
            found.append(Check(_name(look), "error", error.detail, error.hint))
        except OSError as error:
            found.append(Check(_name(look), "error", f"cannot be looked at: {error}", "Check the permissions."))
    return found


def _name(look: Look) -> str:
    return getattr(look, "__name__", "check").replace("check_", "").replace("_", " ")


def refuse_to_fix(home: Home) -> None:
    """Refuse a home that is somebody else's: root would follow its links, and leave files that shut the owner out.

    Raises: UnsafeHome.
    """
    with suppress(FileNotFoundError):
        status = os.lstat(home.root)
        if status.st_uid != os.geteuid():
            raise UnsafeHome(
                f"{home.root} belongs to user {status.st_uid}: nothing in it is changed by user {os.geteuid()}",
                hint="Let that user run `torpor doctor --fix`.",
            )


def fix_all(checks: Iterable[Check]) -> dict[str, str]:
    """Run the fixes of what is not well; return by name what each did, or why it did not."""
    done: dict[str, str] = {}
    for check in checks:
        if check.status == "ok" or check.fix is None:
            continue
        try:
            done[check.name] = check.fix()
        except (TorporError, OSError) as error:
            done[check.name] = f"not fixed: {error.detail if isinstance(error, TorporError) else error}"
    return done
