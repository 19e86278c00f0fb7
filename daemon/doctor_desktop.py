"""The doctor's look at the desktop: the service, what starts at a login, the menu, the tray.

None of it has to be there. What is there has to work, and to start one daemon, not two.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..desktop import autostart, registration, service
from ..desktop.entry_text import command_in
from ..desktop.own_command import own_command
from .checkup import Check, Patient

TRAY_WATCHER = "org.kde.StatusNotifierWatcher"
_ENTRIES = {autostart.DAEMON_FILE: "daemon", autostart.TRAY_FILE: "tray"}


def check_service(patient: Patient) -> Iterator[Check]:
    """Look whether the service that is installed runs, and is the one that answers."""
    home = str(patient.home.root)
    found = service.status(patient.environment, own_command("serve"), home)
    if not found.installed:
        if found.reason is not None:
            yield Check("service", "ok", f"none: {found.reason}")
        else:
            yield Check(
                "service", "ok", "none: the daemon is started by hand; `torpor service install` starts it at login"
            )
    elif found.reason is not None:
        yield Check("service", "ok", f"installed; nobody can be asked: {found.reason}")
    elif found.home not in (None, home):
        yield Check("service", "ok", f"it is of another home, {found.home}")
    else:
        yield judge_service(found, None if patient.ask is None else patient.ask("/v1/status", None).get("pid"), patient)


def judge_service(found: service.Service, answers: int | None, patient: Patient) -> Check:
    """Say how a service of this home is; `answers` is the process of the daemon that answers."""
    name = "service"
    if found.failure is not None:
        hint = "`torpor service status` and `journalctl --user -u torpor` say more."
        return Check(name, "error", f"it does not run: {found.failure}", hint)
    if not found.runs:
        if answers is not None:
            return Check(name, "warning", "it is installed, and another daemon runs", "`torpor init --service`")
        return Check(
            name,
            "warning",
            "it is installed and does not run",
            "`systemctl --user start torpor`",
            partial(_start, patient),
        )
    if answers is not None and found.pid is not None and answers != found.pid:
        detail = f"it is process {found.pid}, and process {answers} answers"
        return Check(name, "warning", detail, "`torpor init --service` leaves one of them.")
    if not found.current:
        return Check(name, "warning", "its unit was written by another installation", "`torpor service install`")
    if not found.enabled:
        return Check(name, "ok", f"{found.state}; it is off at the next login")
    stays = "also without a login" if found.lingers else "from login to logout"
    return Check(name, "ok", f"{found.state}, {stays}; started again {found.restarts} times")


def _start(patient: Patient) -> str:
    return f"started: {service.start(patient.environment).state}"


def check_autostart(patient: Patient) -> Iterator[Check]:
    """Look whether what starts at a login is still there."""
    on = [file for file in _ENTRIES if autostart.enabled(file, patient.environment)]
    for file in on:
        program = _program(autostart.place(file, patient.environment))
        if not _is_there(program, patient):
            hint = "Remove the entry, or write it again: `torpor init`."
            fix = partial(_switch_off, patient, file)
            yield Check(
                "autostart", "error", f"the {_ENTRIES[file]}'s entry starts {program}, which is gone", hint, fix
            )
            return
    twice = autostart.DAEMON_FILE in on and service.status(patient.environment).enabled
    if twice:
        detail = "an autostart entry and the service both start the daemon"
        fix = partial(_switch_off, patient, autostart.DAEMON_FILE)
        yield Check("autostart", "warning", detail, "Remove the entry.", fix)
        return
    names = " and ".join(_ENTRIES[file] for file in on)
    yield Check("autostart", "ok", f"at login: {names}" if on else "no entry of ours")


def _switch_off(patient: Patient, file: str) -> str:
    autostart.disable(file, patient.environment)
    return f"removed {autostart.place(file, patient.environment)}"


def check_menu(patient: Patient) -> Iterator[Check]:
    """Look whether the menu's entry, which double clicks use, calls what is there."""
    if not _has_desktop(patient):
        yield Check("menu", "ok", "no desktop here")
        return
    found = registration.registered(patient.environment)
    if found.entry is None:
        yield Check(
            "menu", "ok", "not in it; `torpor desktop install` adds it, and opens .qwnbak files by a double click"
        )
        return
    program = _program(found.entry)
    if not _is_there(program, patient):
        yield Check("menu", "error", f"its entry starts {program}, which is gone", "`torpor desktop install`")
        return
    opens = f"; .qwnbak files open with {found.opens_files}" if found.opens_files else ""
    yield Check("menu", "ok", f"{found.entry}{opens}")


def _program(entry: Path) -> str:
    """Return the program that a desktop entry starts, nothing where it names none."""
    lines = entry.read_text(encoding="utf-8", errors="replace").splitlines()
    value = next((line.removeprefix("Exec=") for line in lines if line.startswith("Exec=")), "")
    words = command_in(value)
    if words[:1] == ["env"]:
        words = [word for word in words[1:] if "=" not in word]
    return words[0] if words else ""


def _is_there(program: str, patient: Patient) -> bool:
    return bool(program) and shutil.which(program, path=patient.environment.get("PATH")) is not None


def _has_desktop(patient: Patient) -> bool:
    return bool(patient.environment.get("DISPLAY") or patient.environment.get("WAYLAND_DISPLAY"))


def check_tray(patient: Patient) -> Iterator[Check]:
    """Look whether a tray icon would be shown; that none is matters to who asked for one."""
    wanted = autostart.enabled(autostart.TRAY_FILE, patient.environment)
    if not _has_desktop(patient):
        yield Check("tray", "ok", "no desktop here; the command line serves")
        return
    answer = _has_tray(patient)
    if answer:
        yield Check("tray", "ok", f"this desktop shows tray icons; ours {'starts at login' if wanted else 'is off'}")
        return
    said = "the session bus does not answer" if answer is None else "this desktop shows no tray icons"
    if not wanted:
        yield Check("tray", "ok", f"{said}; none is asked for, the dashboard serves")
    elif answer is None:
        yield Check(
            "tray", "warning", said, "Without a session bus nobody can tell; `torpor open` shows the dashboard."
        )
    else:
        hint = "GNOME: install the extension AppIndicator. `torpor open` shows the dashboard; the icon waits."
        yield Check("tray", "warning", said, hint)


def _has_tray(patient: Patient) -> bool | None:
    """Ask the session bus whether somebody shows tray icons. None: it does not answer."""
    bus = "org.freedesktop.DBus"
    for tool, words in (
        ("busctl", ["--user", "call", bus, "/", bus, "NameHasOwner", "s", TRAY_WATCHER]),
        (
            "dbus-send",
            ["--session", "--print-reply", f"--dest={bus}", "/", f"{bus}.NameHasOwner", f"string:{TRAY_WATCHER}"],
        ),
    ):
        if found := shutil.which(tool, path=patient.environment.get("PATH")):
            try:
                done = subprocess.run(
                    [found, *words],
                    env=dict(patient.environment),
                    capture_output=True,
                    text=True,
                    timeout=3,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired):
                continue
            if done.returncode == 0:
                return "true" in done.stdout
    return None


LOOKS = [check_service, check_autostart, check_menu, check_tray]
