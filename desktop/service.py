"""The daemon as a service of the user's own systemd: installed, removed, started, stopped, looked at.

Two units may be there. A package brings one for everybody, on each user's default home; what is installed for another
home, or from another place than the package, is a file of the user's own, which systemd prefers.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..state.errors import NoServiceManager, ServiceFailed
from .systemctl import call, properties, why_not
from .unit import DEFAULT_HOME, UNIT, unit_text

PACKAGED = tuple(Path(folder) / UNIT for folder in ("/etc/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user"))
START_S = 60.0  # a home whose index is made again takes longer; then it goes on by itself
STOP_S = 120.0
TRIAL_S = 10.0
_NAMESPACES = (217, 218, 226)  # as which a service ends that did not get what it asked for
_LINGER = Path("/var/lib/systemd/linger")
_ASKED = (
    "ActiveState",
    "SubState",
    "UnitFileState",
    "MainPID",
    "NRestarts",
    "Result",
    "ExecMainStatus",
    "StatusText",
    "Environment",
    "FragmentPath",
    "NeedDaemonReload",
)
TAKEN = "another daemon owns its home already"
_WHY = {
    2: "its settings are not valid",
    4: "its home is refused",
    6: TAKEN,
    9: "part of its installation is missing",
    203: "its program is not where it was",
    226: "its folders could not be arranged",
}

State = Literal["active", "activating", "deactivating", "inactive", "failed", "reloading", "unknown"]


@dataclass(frozen=True, slots=True)
class Service:
    """How the service is. `state` is systemd's word, "unknown" without one; `reason` says why nothing can be asked."""

    installed: bool
    unit: str | None = None
    home: str | None = None
    enabled: bool = False
    state: State = "unknown"
    pid: int | None = None
    restarts: int = 0
    said: str | None = None
    failure: str | None = None
    isolated: bool = False  # it can write nowhere but in its home
    current: bool = True  # it is what `install` would write now
    lingers: bool = False  # it goes on when the user is not logged in
    reason: str | None = None

    @property
    def runs(self) -> bool:
        """Whether the daemon runs under it, or is about to."""
        return self.state in ("active", "activating", "reloading")

    def to_dict(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return asdict(self) | {"runs": self.runs}


def own_unit(environ: Mapping[str, str]) -> Path:
    """Return where the user's own unit lies, or would."""
    return _folder(environ) / UNIT


def install(command: Sequence[str], home: str, environ: Mapping[str, str], *, start_now: bool = True) -> Service:
    """Have a command (`torpor serve`) run on a home from now on, and at each login. Again, it changes what is new.

    A service that runs is started again only where its unit changed. Where it does not start for want of namespaces,
    it goes without.
    Raises: NoServiceManager, ServiceFailed, BadInput for a path that no unit can hold, OSError for a file.
    """
    if (reason := why_not(environ)) is not None:
        raise NoServiceManager(reason)
    isolated = namespaces(environ)
    try:
        return _install(command, home, environ, isolated=isolated, start_now=start_now)
    except ServiceFailed:
        if (
            not isolated
            or int(properties(environ, UNIT, "ExecMainStatus").get("ExecMainStatus") or 0) not in _NAMESPACES
        ):
            raise
    return _install(command, home, environ, isolated=False, start_now=start_now)


def _install(
    command: Sequence[str], home: str, environ: Mapping[str, str], *, isolated: bool, start_now: bool
) -> Service:
    before = status(environ)
    changed = _write(own_unit(environ), _wanted(command, home, environ, isolated=isolated))
    call(environ, "daemon-reload")
    call(environ, "enable", UNIT)
    if start_now:
        return restart(environ) if before.runs and changed else start(environ)
    return status(environ, command, home)


def remove(environ: Mapping[str, str]) -> bool:
    """Stop it, and let no login start it again; tell whether there was one. A package's unit stays, and is off.

    Raises: ServiceFailed, OSError for a file.
    """
    before = status(environ)
    reachable = before.reason is None
    if reachable and (before.installed or before.runs):
        with suppress(ServiceFailed):  # of a unit that systemd has never read
            call(environ, "disable", UNIT)
        call(environ, "stop", UNIT, limit_s=STOP_S)
    own_unit(environ).unlink(missing_ok=True)
    _wanted_by(environ).unlink(missing_ok=True)
    if reachable:
        call(environ, "daemon-reload")
        with suppress(ServiceFailed):  # nothing is known of it any more, as it should be
            call(environ, "reset-failed", UNIT)
    return before.enabled or own_unit(environ).as_posix() == before.unit


def start(environ: Mapping[str, str]) -> Service:
    """Start it, and wait until it is ready or that takes long. Raises: NoServiceManager, ServiceFailed."""
    return _bring_up("start", environ)


def restart(environ: Mapping[str, str]) -> Service:
    """Start it again. Raises: as `start`."""
    return _bring_up("restart", environ)


def stop(environ: Mapping[str, str]) -> Service:
    """Stop it until the next login. Raises: NoServiceManager, ServiceFailed."""
    call(environ, "stop", UNIT, limit_s=STOP_S)
    return status(environ)


def status(environ: Mapping[str, str], command: Sequence[str] = (), home: str = "") -> Service:
    """Say how it is; with a command and a home also whether the unit is of these. Raises: ServiceFailed."""
    unit = _unit_file(environ)
    lingers, text = (_LINGER / _user(environ)).exists(), None if unit is None else _text(unit)
    isolated = text is not None and "\nPrivateUsers=yes\n" in text
    current = not command or text is None or text == (_wanted(command, home, environ, isolated=isolated) or text)
    if (reason := why_not(environ)) is not None:
        return Service(
            installed=unit is not None,
            unit=None if unit is None else str(unit),
            home=None if text is None else _home_written(text, environ),
            enabled=os.path.lexists(_wanted_by(environ)),
            isolated=isolated,
            current=current,
            lingers=lingers,
            reason=reason,
        )
    found = properties(environ, UNIT, *_ASKED)
    current = current and found.get("NeedDaemonReload") != "yes"
    return replace(_described(found, unit), isolated=isolated, current=current, lingers=lingers)


def _described(found: Mapping[str, str], unit: Path | None) -> Service:
    state, number = found.get("ActiveState", "unknown"), int(found.get("ExecMainStatus") or 0)
    result = found.get("Result", "success")
    failed = state == "failed" or (state == "activating" and result != "success")
    return Service(
        installed=unit is not None,
        unit=None if unit is None else found.get("FragmentPath") or str(unit),
        home=_home_in(found.get("Environment", "")),
        enabled=found.get("UnitFileState", "").startswith("enabled"),
        state=state,  # type: ignore[arg-type]  # systemd has no other words
        pid=int(found.get("MainPID") or 0) or None,
        restarts=int(found.get("NRestarts") or 0),
        said=found.get("StatusText") or None,
        failure=_failure(result, number) if failed else None,
    )


def _failure(result: str, number: int) -> str:
    """Say why it ended."""
    if result == "exit-code":
        return _WHY.get(number, f"it ended with status {number}")
    said = {"watchdog": "it did not answer any more", "oom-kill": "it took more memory than it may"}
    return said.get(result, f"it ended ({result})")


def _bring_up(verb: Literal["start", "restart"], environ: Mapping[str, str]) -> Service:
    with suppress(ServiceFailed):  # it has not failed: nothing to forget
        call(environ, "reset-failed", UNIT)
    try:
        call(environ, verb, UNIT, limit_s=START_S)
    except ServiceFailed as error:
        found = status(environ)
        if found.failure is not None:
            raise ServiceFailed(f"the service does not start: {found.failure}") from error
        if not found.runs:
            raise
    return status(environ)


def namespaces(environ: Mapping[str, str]) -> bool:
    """Tell whether users may have namespaces here, with a mount of their own in it, as far as a trial shows."""
    try:
        trial = ("unshare", "--user", "--map-root-user", "--mount", "true")
        return subprocess.run(trial, env=dict(environ), capture_output=True, timeout=TRIAL_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _wanted(command: Sequence[str], home: str, environ: Mapping[str, str], *, isolated: bool) -> str | None:
    """Return the unit for a command and a home; None where the package's does just that."""
    default = home == DEFAULT_HOME.replace("%h", environ.get("HOME") or os.path.expanduser("~"))
    packaged = unit_text(command)
    if not isolated and default and any(_text(each) == packaged for each in PACKAGED):
        return None
    return unit_text(command, home, isolated=isolated)


def _write(file: Path, text: str | None) -> bool:
    """Make the user's unit be that text, or be away; whole or not at all. Tell whether that changed anything."""
    if _text(file) == text:
        return False
    if text is None:
        file.unlink()
        return True
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(file)
    finally:
        staged.unlink(missing_ok=True)
    return True


def _text(file: Path) -> str | None:
    """Return what a file holds; None where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _unit_file(environ: Mapping[str, str]) -> Path | None:
    """Return the unit that systemd would read."""
    return next((each for each in (own_unit(environ), *PACKAGED) if each.is_file()), None)


def _folder(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(base) / "systemd" / "user"


def _wanted_by(environ: Mapping[str, str]) -> Path:
    """Return the link by which a login starts it."""
    return _folder(environ) / "default.target.wants" / UNIT


def _home_in(environment: str) -> str | None:
    """Return the home that a unit's environment names."""
    with suppress(ValueError):
        for word in shlex.split(environment):
            name, _, value = word.partition("=")
            if name == "TORPOR_HOME":
                return value
    return None


def _home_written(text: str, environ: Mapping[str, str]) -> str | None:
    """Return the home that a unit's text names, as systemd would read it."""
    line = next((each for each in text.splitlines() if each.startswith("Environment=")), "")
    specifiers = {"%%": "%", "%h": environ.get("HOME") or os.path.expanduser("~")}
    value = re.sub("%.", lambda found: specifiers.get(found[0], found[0]), line.removeprefix("Environment="))
    return _home_in(value)


def _user(environ: Mapping[str, str]) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return environ.get("USER", "") or str(os.getuid())
