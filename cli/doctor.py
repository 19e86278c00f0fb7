"""`torpor doctor`: look at everything that may go wrong, say what to do, and do it with --fix."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..client.api import Api
from ..client.discover import find_endpoint
from ..state.errors import MissingExtra, TorporError
from ..store.home import Home
from .output import show, table
from .visible import plain

if TYPE_CHECKING:
    from ..daemon.checkup import Check, Patient

_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}
DEADLINE_S = 10.0


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Do what can be done without losing anything.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Look at home, disk, index, blobs, clock, keys, bucket and versions. Works while no daemon runs, too.

    Ends with status 7 when something is wrong; warnings alone are no error.
    """
    try:
        from ..daemon.checkup import examine, fix_all, refuse_to_fix
        from ..daemon.doctor import all_looks
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[daemon]'") from error
    patient = _patient()
    if fix:
        refuse_to_fix(patient.home)
    checks = examine(patient, all_looks())
    done: dict[str, str] = {}
    if fix:
        done = fix_all(checks)
        if done:
            checks = examine(patient, all_looks())
    found = [_described(check, done) for check in checks]
    counts = {status: sum(check.status == status for check in checks) for status in _STYLES}
    show({"checks": found, "fixed": done, "counts": counts}, as_json, lambda: _page(found, done))
    if counts["error"]:
        raise typer.Exit(7)


def _patient() -> Patient:
    from ..daemon.checkup import Patient
    from ..daemon.remote_settings import working_directory

    home = Home.from_environment(os.environ)
    return Patient(home, os.environ, time.time(), _asker(home), working_directory())


def _asker(home: Home) -> Any:
    """Return what asks the daemon of this home; None while none answers."""
    try:
        api = Api(lambda: find_endpoint({}, home=home.root))
        api.status()
    except TorporError:
        return None

    def ask(path: str, body: dict[str, Any] | None) -> Any:
        if body is None:
            return api.json("GET", path, timeout=DEADLINE_S)
        return api.json("POST", path, json=body, timeout=DEADLINE_S)

    return ask


def _described(check: Check, done: dict[str, str]) -> dict[str, Any]:
    said = {"name": check.name, "status": check.status, "detail": check.detail, "hint": check.hint}
    return said | {"fixable": check.fix is not None and check.status != "ok", "fixed": done.get(check.name)}


def _page(found: list[dict[str, Any]], done: dict[str, str]) -> Any:
    rows = table("!", "!", "")
    for each in found:
        rows.add_row(each["name"], plain(each["status"], _STYLES[each["status"]]), each["detail"])
        if each["status"] != "ok":
            rows.add_row("", "", plain(each["hint"] + (" (or --fix)" if each["fixable"] else ""), "dim"))
    for name, what in done.items():
        rows.add_row(name, plain("fix", "bold"), what)
    return rows
