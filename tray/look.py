"""One look at the daemon: what the tray shows of it."""

from __future__ import annotations

from dataclasses import replace

from ..client.api import Api
from ..state.errors import ScopeDenied
from ..state.summary import Summary
from .model import SHOWN_SESSIONS, Model, read_asking, read_sessions

LOOK_S = 20.0  # for each answer: who quits while a daemon hangs does not wait for longer


def look(api: Api, model: Model) -> Model:
    """Return what is known by now. Raises: whatever the daemon answers."""
    status = api.status(timeout=LOOK_S)
    sessions = api.json("GET", "/v1/sessions", params={"limit": SHOWN_SESSIONS}, timeout=LOOK_S)
    return replace(
        model,
        link="there",
        trouble=None,
        summary=Summary.from_dict(status["summary"]),
        sessions=read_sessions(sessions),
        asking=read_asking(api.json("GET", "/v1/pair/requests", timeout=LOOK_S)),
        attached=len(api.json("GET", "/v1/attached", timeout=LOOK_S)["processes"]),
        ours=api.endpoint.home is not None,
        pid=status["pid"],
        version=status["version"],
        home=status["home"],
        panel=_panel(api) if model.link != "there" else model.panel,
    )


def _panel(api: Api) -> str:
    """Return what the settings say of the panel; a daemon reads them once, when it starts."""
    try:
        settings = api.json("GET", "/v1/settings")["settings"]
    except ScopeDenied:
        return "auto"
    return next((str(each["value"]) for each in settings if each["name"] == "tray_panel"), "auto")
