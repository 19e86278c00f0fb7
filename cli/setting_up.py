"""What `torpor init` does once every question is answered. Each step is whole, or not begun, and may be done again."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..client import connect
from ..desktop import autostart, login_entries, registration, service
from ..desktop.launch import serves
from ..desktop.own_command import own_command
from ..state.errors import InvalidSettings
from ..store.files import translated
from ..store.home import Home
from ..store.move import lead_to
from . import running, sample
from .first_answers import Answers
from .standing import Standing

DEFAULT_QUOTA = "20%"


@dataclass(slots=True)
class Done:
    """What was done: names of what changed, the daemon's status, its key's summary, the sample."""

    changed: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    way: str = "process"
    restarted: bool = False
    key: dict[str, Any] | None = None
    sample: sample.Sample | None = None


def carry_out(standing: Standing, answers: Answers, *, with_sample: bool) -> Done:
    """Do what was answered, in an order in which an end at any point leaves something that works.

    Raises: StoreFull, StoreFailed, UnsafeHome, InvalidSettings, ServiceFailed, DaemonNotRunning, WrongPassphrase, …
    """
    done = Done()
    _make_home(standing, answers, done)
    _write_settings(standing, answers, done)
    _let_it_run(standing, answers, done)
    _arrange_tray(standing, answers, done)
    _enter_menu(standing, done)
    with connect(home=answers.home.root) as keeper:
        if answers.bucket is not None and answers.bucket.passphrase is not None:
            done.key = keeper.api.json("POST", "/v1/key/init", json={"passphrase": answers.bucket.passphrase})
            done.changed.append("key")
        if with_sample:
            done.sample = sample.prove(keeper)
        done.status = keeper.api.status()
    return done


def _make_home(standing: Standing, answers: Answers, done: Done) -> None:
    home = answers.home
    if not home.store.is_dir():
        done.changed.append("home")
    home.create()
    if Home.at(standing.named).root != home.root:
        lead_to(standing.named, home.root)  # last: until then the old place is as it was
        done.changed.append("place")


def _write_settings(standing: Standing, answers: Answers, done: Done) -> None:
    from ..daemon.remote_settings import load_remote_settings, variables_of
    from ..daemon.settings_files import set_in_env, set_in_toml

    root = answers.home.root
    if answers.quota != _quota_in_file(answers.home) and set_in_toml(root / "config.toml", "quota", answers.quota):
        done.changed.append("quota")
    if answers.bucket is not None:
        if answers.bucket.trial is None and standing.s3_at_home and standing.s3 == answers.bucket.settings:
            return
        if set_in_env(root / ".env", variables_of(answers.bucket.settings)):
            done.changed.append("s3")
    elif load_remote_settings({}, None, root).s3 is not None:
        set_in_env(root / ".env", {"PERSISTENCE_BACKEND": "local"})
        done.changed.append("s3")


def _quota_in_file(home: Home) -> str:
    try:
        with open(home.root / "config.toml", "rb") as file:
            return str(tomllib.load(file).get("quota", DEFAULT_QUOTA))
    except FileNotFoundError:
        return DEFAULT_QUOTA
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"config.toml cannot be read: {error}") from error


def _let_it_run(standing: Standing, answers: Answers, done: Done) -> None:
    home, first = answers.home, running.status_of(answers.home)
    environ = without_ours(os.environ) | {"TORPOR_HOME": str(home.root)}
    new = bool({"quota", "s3"} & set(done.changed)) or (first is not None and _unread(home, first["started_at"]))
    _arrange_login(standing, answers, done, environ)
    if answers.keep == "service":
        _by_service(home, new, environ)
        done.way, done.status = "service", running.wait_until_ready(home)
    else:
        if new:
            running.stop(home)
        done.status = running.status_of(home) or running.start(home, environ)
    done.restarted = first is not None and first["pid"] != done.status["pid"]


def _unread(home: Home, started_at: float) -> bool:
    """Tell whether the settings are newer than the daemon: an `init` before was killed between the two, say."""
    files = (home.root / "config.toml", home.root / ".env")
    return any(file.stat().st_mtime > started_at for file in files if file.is_file())


def _by_service(home: Home, new: bool, environ: Mapping[str, str]) -> None:
    """Have the service run the daemon; one that was started otherwise is ended first."""
    found, answers = service.status(environ), running.status_of(home)
    foreign = answers is not None and answers["pid"] != found.pid
    if foreign:
        running.stop(home)  # two cannot have one home
    with translated("write", "the service's unit"):
        made = service.install(own_command("serve"), str(home.root), environ)
    if new and made.pid == found.pid:  # else it was started just now
        service.restart(environ)


def _arrange_login(standing: Standing, answers: Answers, done: Done, environ: Mapping[str, str]) -> None:
    """Make what starts the daemon at a login be what was answered, and nothing else."""
    if answers.keep == standing.keep and (standing.is_home or answers.keep == "no"):
        return
    with translated("write", "the autostart entry"):
        if answers.keep == "autostart":
            command = login_entries.command_for(answers.home, "serve", environ)
            autostart.enable(autostart.daemon_entry(command), environ)
        elif standing.login_entry:
            autostart.disable(autostart.DAEMON_FILE, environ)
    if answers.keep != "service" and serves(standing.service, str(answers.home.root)):  # never another home's
        service.remove(environ)
    done.changed.append("login")


def _arrange_tray(standing: Standing, answers: Answers, done: Done) -> None:
    if answers.tray == standing.tray:
        return
    with translated("write", "the autostart entry"):
        if answers.tray:
            command = login_entries.command_for(answers.home, "tray", os.environ)
            autostart.enable(autostart.tray_entry(command), os.environ)
        else:
            autostart.disable(autostart.TRAY_FILE, os.environ)
    done.changed.append("tray")


def _enter_menu(standing: Standing, done: Done) -> None:
    """Put Torpor into the menu of a desktop, and let a double click open its files, unless a package has."""
    if standing.desktop and registration.registered(os.environ).entry is None:
        with translated("write", "the menu's entry"):
            registration.install(own_command(), os.environ)
        done.changed.append("menu")


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what is said of the second copy and the quota: the files of the home say it now."""
    ours = ("S3_", "TORPOR_S3_", "PERSISTENCE_BACKEND", "TORPOR_PERSISTENCE_BACKEND", "TORPOR_QUOTA")
    return {name: value for name, value in environ.items() if not name.startswith(ours)}
