"""`torpor service`: the daemon as a service of your own systemd, and the tray at login."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from ..desktop import autostart, service
from ..desktop.login_entries import command_for
from ..desktop.own_command import own_command
from ..desktop.systemctl import why_not
from ..state.errors import BadInput, MissingExtra, ServiceFailed
from ..store.home import Home
from .output import show
from .visible import visible

app = typer.Typer(help="Have the daemon start by itself.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
_OURS = ("TORPOR_", "S3_", "PERSISTENCE_BACKEND")
_SEEN = ("TORPOR_HOME", "TORPOR_URL", "TORPOR_TOKEN", "TORPOR_DEBUG")  # in the unit, or none of the daemon's business
_STOP_HINT = "Stop the daemon that runs (Ctrl-C in its terminal), and try again; the service is installed."


@app.command()
def install(
    tray: Annotated[
        bool | None, typer.Option("--tray/--no-tray", help="Show the tray at each login; left as it is by default.")
    ] = None,
    at_login: Annotated[
        bool, typer.Option("--autostart", help="Without systemd: start the daemon when the desktop starts.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the daemon now and at each login, as a systemd user service; or change one that is installed.

    It may write in its home and nowhere else, where the system allows users to arrange that; it gives way to other
    programs, and starts again when it fails or hangs.
    """
    home, environ = Home.from_environment(os.environ), os.environ
    if tray and find_spec("pystray") is None:
        raise MissingExtra("pystray is not installed: pip install 'torpor[tray]'")
    if at_login and why_not(environ) is None:
        raise BadInput("there is a systemd of your own here", hint="Leave --autostart out: the service does more.")
    if at_login:
        autostart.enable(autostart.daemon_entry(command_for(home, "serve", environ)), environ)
    else:
        _install(str(home.root), environ)
    if tray:
        autostart.enable(autostart.tray_entry(command_for(home, "tray", environ)), environ)
    elif tray is False:
        autostart.disable(autostart.TRAY_FILE, environ)
    report = described(str(home.root), environ)
    show(report | {"unseen": unseen(environ)}, as_json, lambda: "\n".join(_lines(report, unseen(environ))))


@app.command()
def remove(as_json: Json = False) -> None:
    """Stop the service, and start nothing at login any more, the tray neither. Backups and settings stay."""
    environ = os.environ
    removed = {
        "service": service.remove(environ),
        "autostart": autostart.disable(autostart.DAEMON_FILE, environ),
        "tray": autostart.disable(autostart.TRAY_FILE, environ),
    }
    names = {"service": "the service", "autostart": "the daemon's start at login", "tray": "the tray's start at login"}
    done = ", ".join(names[name] for name, there in removed.items() if there)
    said = f"removed: {done}; backups and settings stay" if done else "nothing was installed"
    show({"removed": [name for name, there in removed.items() if there]}, as_json, lambda: said)


@app.command()
def status(as_json: Json = False) -> None:
    """Say whether the service is installed, runs, and is as this version would install it."""
    report = described(str(Home.from_environment(os.environ).root), os.environ)
    show(report, as_json, lambda: "\n".join(_lines(report, [])))


def described(home: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return how the service is, and what starts at login. Raises: ServiceFailed."""
    found = service.status(environ, own_command("serve"), home)
    starts = {"autostart": autostart.DAEMON_FILE, "tray": autostart.TRAY_FILE}
    return found.to_dict() | {name: autostart.enabled(file, environ) for name, file in starts.items()}


def unseen(environ: Mapping[str, str]) -> list[str]:
    """Name the settings of this terminal that a service does not get: its unit holds no secrets, so none are put in."""
    return sorted(name for name in environ if name.startswith(_OURS) and name not in _SEEN and environ[name])


def _install(home: str, environ: Mapping[str, str]) -> None:
    try:
        service.install(own_command("serve"), home, environ)
    except ServiceFailed as error:
        if service.TAKEN in error.detail:
            raise ServiceFailed(error.detail, hint=_STOP_HINT) from error
        raise


def _lines(report: Mapping[str, Any], left_out: list[str]) -> list[str]:
    """Say it in words."""
    lines = [_state(report)]
    if report["said"] and report["runs"]:
        lines.append(f"  {visible(report['said'])} (as it told systemd, once a minute)")
    if report["unit"]:
        lines.append(f"unit: {visible(report['unit'])}" + (f", home: {visible(report['home'])}" * bool(report["home"])))
        lines.append("at login: starts" if report["enabled"] else "at login: does not start")
        if not report["current"]:
            lines.append("The unit is not as this version writes it: `torpor service install` writes it again.")
        if not report["isolated"]:
            own = report["unit"] == str(service.own_unit(os.environ))
            why = "users may have no namespaces here" if own else "`torpor service install` keeps it to its home"
            lines.append(f"It may write wherever you may: {why}.")
        if not report["lingers"]:
            lines.append("It ends when you log out; `loginctl enable-linger` lets it go on.")
    elif report["autostart"]:
        lines.append("The daemon starts with the desktop.")
    lines.append("The tray starts with the desktop." if report["tray"] else "The tray does not start by itself.")
    if left_out:
        lines.append(f"The service does not see what only this terminal has set: {', '.join(left_out)}.")
        lines.append("Write it into config.toml, or into .env (both in the home folder, for you alone).")
    return lines


def _state(report: Mapping[str, Any]) -> str:
    if report["reason"]:
        said = "The service is installed, and cannot be asked" if report["installed"] else "There is no service"
        return f"{said}: {report['reason']}"
    if not report["installed"]:
        return "The service is not installed: `torpor service install`"
    words = {"active": "runs", "activating": "is starting", "failed": "has failed", "inactive": "is stopped"}
    said = f"The service {words.get(report['state'], report['state'])}"
    said += f" (process {report['pid']})" if report["pid"] and report["state"] == "active" else ""
    said += f", started again {report['restarts']} times" if report["restarts"] else ""
    return said + (f": {report['failure']}" if report["failure"] else "")
