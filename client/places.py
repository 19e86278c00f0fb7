"""Links into the dashboard: signed in by opening them once, at the place that they name."""

from __future__ import annotations

from urllib.parse import quote

from .api import Api


def dashboard_link(api: Api, place: str = "") -> str:
    """Return a link that opens once, within a minute. `place` is a route of the dashboard: `/sessions/abc`.

    Whoever has the link may do what the owner may. Raises: Conflict where too many are open, and what the API raises.
    """
    link = str(api.json("POST", "/v1/login/links")["url"])
    return f"{link}&to={quote(place, safe='')}" if place else link


def route(page: str, *parts: str) -> str:
    """Return the route of a page of the dashboard; the parts may hold anything."""
    return "/" + "/".join(quote(part, safe="") for part in (page, *parts))
