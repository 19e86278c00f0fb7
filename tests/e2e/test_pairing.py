"""A web page gets a token: it asks, the user approves the code, the page fetches it; and tokens by the command line."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from support.commands import as_json, run
from support.daemon import Daemon, new_daemon

PAGE, OTHER = "http://localhost:3000", "https://other.example"


class Page:
    """A page of an origin, as far as a browser lets it speak."""

    def __init__(self, daemon: Daemon, origin: str) -> None:
        self.origin = origin
        self.http = httpx.Client(base_url=daemon.url, headers={"Origin": origin}, trust_env=False)

    def fetch(self, method: str, path: str, **options: object) -> httpx.Response:
        """Ask, and fail where a browser would not let the page read the answer."""
        headers = {"Access-Control-Request-Method": method, "Access-Control-Request-Private-Network": "true"}
        allowed = self.http.options(path, headers=headers)
        if allowed.headers.get("access-control-allow-origin") != self.origin:
            raise PermissionError(allowed.status_code)
        assert allowed.headers["access-control-allow-private-network"] == "true"
        assert method in allowed.headers["access-control-allow-methods"]
        answer = self.http.request(method, path, **options)  # type: ignore[arg-type]
        assert answer.headers["access-control-allow-origin"] == self.origin
        assert answer.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in answer.headers
        return answer


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """One that nobody else has given tokens."""
    with new_daemon() as running:
        yield running


@pytest.fixture
def page(shared_daemon: Daemon) -> Iterator[Page]:
    made = Page(shared_daemon, PAGE)
    yield made
    made.http.close()


@pytest.fixture
def other(shared_daemon: Daemon) -> Iterator[Page]:
    made = Page(shared_daemon, OTHER)
    yield made
    made.http.close()


def foreign(page: Page, path: str) -> bool:
    """Tell whether a browser keeps the page from a route."""
    try:
        page.fetch("GET", path)
    except PermissionError:
        return True
    return False


def test_a_page_is_paired_used_and_revoked(shared_daemon: Daemon, page: Page, other: Page) -> None:
    home = shared_daemon.home
    assert foreign(page, "/v1/backups")
    asked = page.fetch("POST", "/v1/pair", json={"label": "My page", "scopes": ["read", "save"]}).json()
    secret = {"secret": asked["secret"]}
    assert page.fetch("POST", "/v1/pair/claim", json=secret).json()["state"] == "pending"
    assert other.fetch("POST", "/v1/pair/claim", json=secret).status_code == 401
    assert foreign(page, "/v1/backups")

    (waiting,) = as_json(home, "pair", "list")["waiting"]
    assert (waiting["code"], waiting["origin"], waiting["state"]) == (asked["code"], PAGE, "pending")
    assert asked["code"] in run(home, "pair", "list")
    assert as_json(home, "pair", "approve", asked["code"])["scopes"] == ["read", "save"]
    claimed = page.fetch("POST", "/v1/pair/claim", json=secret).json()
    bearer = {"Authorization": f"Bearer {claimed['token']}"}

    assert page.fetch("GET", "/v1/backups", headers=bearer).status_code == 200
    assert page.fetch("GET", "/v1/key", headers=bearer).json()["code"] == "scope-denied"
    assert foreign(other, "/v1/backups")
    assert shared_daemon.request("GET", "/v1/backups", token=claimed["token"]).status_code == 403

    (approved,) = as_json(home, "pair", "list")["approved"]
    assert as_json(home, "pair", "revoke", PAGE) == {"revoked": [approved["id"]], "denied": []}
    assert foreign(page, "/v1/backups")
    assert page.http.get("/v1/backups", headers=bearer).status_code == 403
    assert "No page" in run(home, "pair", "list")


def test_a_denied_page_is_told_so(shared_daemon: Daemon, other: Page) -> None:
    asked = other.fetch("POST", "/v1/pair", json={"label": "x", "scopes": ["restore"]}).json()
    run(shared_daemon.home, "pair", "deny", asked["code"])
    claimed = other.fetch("POST", "/v1/pair/claim", json={"secret": asked["secret"]}).json()
    assert (claimed["state"], claimed["token"]) == ("denied", None)
    run(shared_daemon.home, "pair", "approve", asked["code"], status=3)
    run(shared_daemon.home, "pair", "approve", "12", status=2)
    run(shared_daemon.home, "pair", "revoke", "https://nobody.example", status=2)


def test_a_token_for_metrics_and_nothing_else(shared_daemon: Daemon) -> None:
    home = shared_daemon.home
    made = as_json(home, "token", "new", "--scope", "metrics", "--label", "Prometheus")
    assert shared_daemon.request("GET", "/v1/status", token=made["token"]).json()["code"] == "scope-denied"
    assert shared_daemon.request("GET", "/metrics", token=made["token"]).status_code in (200, 404)
    (listed,) = as_json(home, "token", "list")["tokens"]
    assert (listed["id"], listed["label"], listed["scopes"]) == (made["info"]["id"], "Prometheus", ["metrics"])
    assert made["token"] not in str(listed)
    assert "Prometheus" in run(home, "token", "revoke", made["info"]["id"])
    assert shared_daemon.request("GET", "/v1/status", token=made["token"]).status_code == 401
    printed = run(home, "token", "new", "--scope", "read,save").strip()
    assert shared_daemon.request("GET", "/v1/status", token=printed).status_code == 200
    run(home, "token", "revoke", as_json(home, "token", "list")["tokens"][0]["id"])
    run(home, "token", "new", status=2)
    run(home, "token", "new", "--scope", "owner", status=2)
    run(home, "token", "revoke", "nosuch00", status=3)
    run(home, "token", "revoke", "../x", status=2)
