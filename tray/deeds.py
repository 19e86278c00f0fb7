"""What the entries of the menu do. Each may take its time, and returns what is to be told of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..client.api import Api
from ..client.places import dashboard_link
from ..desktop import autostart, login_entries
from ..state.errors import DaemonNotRunning, TorporError
from .model import Model
from .notices import Notice
from .view import Deed

LONGEST_S = 330.0  # for a save or a restore of hours of context: the daemon gives up before
STARTS_IN_S, STEP_S = 30.0, 0.5
_BY_HAND = "`torpor serve` in a terminal says why."
_MODES = {
    "full": "everything is there",
    "prefix": "the rest is prefilled from its tokens",
    "embeddings": "its KV cache is made again",
    "media": "its images are looked at again",
    "text-only": "its text is there",
}


@dataclass(frozen=True, slots=True)
class World:
    """What a deed reaches beside the daemon."""

    environ: Mapping[str, str]
    browse: Callable[[str], object]
    start: Callable[[], Callable[[], str | None]]  # the daemon; what is returned says why it has ended, if it has
    end: Callable[[int], None]  # a process, as it wishes to be ended
    platform: str = sys.platform

    def at_login(self) -> bool | None:
        """Tell whether the tray starts at login; None where desktops do not read XDG's files."""
        if self.platform in ("win32", "darwin"):
            return None
        return login_entries.starts_here(autostart.TRAY_FILE, self.environ)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a deed works with. `api` is None while there is no daemon; `arrives` waits so many seconds for one."""

    world: World
    model: Model
    api: Api | None
    arrives: Callable[[float], bool]

    @property
    def daemon(self) -> Api:
        """Return the way to the daemon. Raises: DaemonNotRunning."""
        if self.api is None:
            raise DaemonNotRunning("the daemon does not run")
        return self.api


def do(deed: Deed, scene: Scene) -> Notice | None:
    """Do it. What fails is told as well."""
    try:
        return _DEEDS[deed[0]](scene, *deed[1:])
    except TorporError as error:
        return Notice(_key(deed), error.title, f"{error.detail}. {error.hint}")
    except OSError as error:
        return Notice(_key(deed), "That did not work", str(error))


def _key(deed: Deed) -> str:
    """Return by which key is told of a deed; a notification of a page that was decided on gives way."""
    return f"page:{deed[1]}" if deed[0] in ("approve", "deny") else deed[0]


def _back_up(scene: Scene) -> Notice:
    answer = scene.daemon.json("POST", "/api/backup/create", json={"session_id": None}, timeout=LONGEST_S)
    done, failed = len(answer.get("backups", ())), answer.get("failed", [])
    if failed:
        first: dict[str, Any] = failed[0]["problem"]
        which = failed[0]["session_id"] or "A process"
        said = f"{which}: {first.get('detail', 'it failed')}" + (f", and {len(failed) - 1} more" if failed[1:] else "")
        return Notice("back-up", "Not all was backed up", f"{_sessions(done)} backed up. {said}")
    if not done:
        return Notice("back-up", "Nothing to back up", "The attached process holds no session.", "low")
    return Notice("back-up", "Backed up", f"{_sessions(done)} backed up.", "low")


def _sessions(count: int) -> str:
    return "1 session is" if count == 1 else f"{count} sessions are"


def _restore(scene: Scene, session_id: str) -> Notice:
    answer = scene.daemon.json("POST", f"/api/backup/restore/{session_id}", timeout=LONGEST_S)
    said = _MODES.get(answer.get("mode", ""), "it is awake")
    return Notice("restored", "Restored", f"{session_id}: {said}.", "low")


def _pause(scene: Scene, span: str) -> None:
    seconds = None if span == "resumed" else float(span)
    scene.daemon.call("POST", "/v1/sync/pause", json={"seconds": seconds})


def _resume(scene: Scene) -> None:
    scene.daemon.call("POST", "/v1/sync/resume")


def _approve(scene: Scene, code: str) -> Notice:
    digits = code.replace("-", "")
    page = scene.daemon.json("POST", f"/v1/pair/requests/{digits}/approve", json={"scopes": None})
    return Notice(f"page:{code}", "Approved", f"{page['origin']} has access now. `torpor pair revoke` ends it.", "low")


def _deny(scene: Scene, code: str) -> Notice:
    page = scene.daemon.json("POST", f"/v1/pair/requests/{code.replace('-', '')}/deny")
    return Notice(f"page:{code}", "Denied", f"{page['origin']} gets no access.", "low")


def _open(scene: Scene, place: str) -> None:
    scene.world.browse(dashboard_link(scene.daemon, place))


def _at_login(scene: Scene, wanted: str) -> None:
    if wanted == "on":
        autostart.enable(
            autostart.tray_entry(login_entries.command_here("tray", scene.world.environ)), scene.world.environ
        )
    else:
        autostart.disable(autostart.TRAY_FILE, scene.world.environ)


def _about(scene: Scene) -> Notice:
    model = scene.model
    runs = f"The daemon {model.version} runs; everything lies in {model.home}." if model.version else "No daemon runs."
    return Notice("about", "Torpor", f"Puts sessions to sleep on disk and wakes them again. {runs}", "low")


def _start(scene: Scene) -> Notice | None:
    ended = scene.world.start()
    for _ in range(int(STARTS_IN_S / STEP_S)):
        if scene.arrives(STEP_S):
            return None
        if (said := ended()) is not None:
            return Notice("start", "The daemon did not start", said or _BY_HAND)
    return Notice("start", "The daemon takes long to start", _BY_HAND, "low")


def _stop(scene: Scene) -> None:
    status = scene.daemon.status()  # its pid of now
    scene.world.end(int(status["pid"]))


_DEEDS: dict[str, Callable[..., Notice | None]] = {
    "back-up": _back_up,
    "restore": _restore,
    "pause": _pause,
    "resume": _resume,
    "approve": _approve,
    "deny": _deny,
    "open": _open,
    "at-login": _at_login,
    "about": _about,
    "start": _start,
    "stop": _stop,
}
