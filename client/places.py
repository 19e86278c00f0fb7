"""Links into the dashboard: signed in by opening them once, at the place that they name."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from .api import Api


def dashboard_link(api: Api, place: str = "") -> str:
    """Return a link that opens once, within a minute. `place` is a route of the dashboard: `/sessions/abc`.

    Whoever has the link may do what the owner may. Raises: Conflict where too many are open, and what the API raises.
    """
    return str(login_link(api, place)["url"])


def login_link(api: Api, place: str = "") -> dict[str, Any]:
    """Return what the daemon says of such a link: its `url`, and for how long it opens. Raises: as above."""
    link = api.json("POST", "/v1/login/links")
    return link | ({"url": f"{link['url']}&to={quote(place, safe='')}"} if place else {})


def route(page: str, *parts: str) -> str:
    """Return the route of a page of the dashboard; the parts may hold anything."""
    return "/" + "/".join(quote(part, safe="") for part in (page, *parts))
