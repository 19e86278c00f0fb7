"""The way into the dashboard: by a link that opens once, in a real browser; and what does not open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
from support.browser import axe_violations
from support.commands import as_json
from support.daemon import Daemon
from torpor.client.places import dashboard_link, route
from torpor.daemon.pages import HEADERS, page_files

if TYPE_CHECKING:
    from playwright.sync_api import Page


def link(daemon: Daemon) -> str:
    return str(daemon.request("POST", "/v1/login/links").json()["url"])


def test_a_link_opens_the_dashboard_once(shared_daemon: Daemon, tab: Page) -> None:
    url = link(shared_daemon)
    tab.goto(url)
    tab.get_by_role("heading", level=1).wait_for()
    assert tab.url == f"{shared_daemon.url}/"
    assert "torpor_" in tab.evaluate("sessionStorage.getItem('torpor.token')")
    assert tab.evaluate("localStorage.length") == 0
    assert axe_violations(tab) == []
    code = url.partition("#login=")[2]
    again = httpx.post(f"{shared_daemon.url}/v1/login", json={"code": code})
    assert again.status_code == 401
    assert "torpor open" in again.json()["hint"]


def test_a_link_leads_to_the_place_that_it_names_and_nowhere_else(shared_daemon: Daemon, tab: Page) -> None:
    with shared_daemon.keeper() as keeper:
        for place, hash_ in (("/settings", "#/settings"), (route("storage", "a/ü#"), "#/storage/a%2F%C3%BC%23")):
            tab.goto(dashboard_link(keeper.api, place))
            tab.get_by_role("navigation").wait_for()
            assert tab.url == f"{shared_daemon.url}/{hash_}"
        for odd in ("https://evil.example/", "javascript:alert(1)", "%"):
            tab.goto(f"{dashboard_link(keeper.api)}&to={odd}")
            tab.get_by_role("heading", level=1).wait_for()
            assert tab.url == f"{shared_daemon.url}/"


def test_the_page_of_the_daemon_may_call_it_and_no_other(shared_daemon: Daemon) -> None:
    code = link(shared_daemon).partition("#login=")[2]
    token = httpx.post(f"{shared_daemon.url}/v1/login", json={"code": code}).json()["token"]

    def ask(origin: str | None, site: str) -> int:
        headers = {"Authorization": f"Bearer {token}", "Sec-Fetch-Site": site} | ({"Origin": origin} if origin else {})
        return httpx.get(f"{shared_daemon.url}/v1/status", headers=headers).status_code

    assert ask(None, "same-origin") == 200
    assert ask(shared_daemon.url, "same-origin") == 200
    assert ask("http://127.0.0.1:1", "same-site") == 403
    assert ask("http://evil.example", "cross-site") == 403
    assert ask(None, "cross-site") == 403


def test_signing_out_makes_the_token_void(shared_daemon: Daemon) -> None:
    code = link(shared_daemon).partition("#login=")[2]
    token = httpx.post(f"{shared_daemon.url}/v1/login", json={"code": code}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.delete(f"{shared_daemon.url}/v1/login", headers=headers).status_code == 204
    assert httpx.get(f"{shared_daemon.url}/v1/status", headers=headers).status_code == 401
    assert shared_daemon.request("DELETE", "/v1/login").status_code == 204
    assert shared_daemon.request("GET", "/v1/status").status_code == 200


def test_what_is_served_openly_is_the_package_and_nothing_else(shared_daemon: Daemon) -> None:
    assert {"/", "/dashboard/app.js", "/vendor/preact.js"} <= set(page_files())
    with httpx.Client(base_url=shared_daemon.url) as client:  # there are a hundred of them
        for path in sorted(page_files()):
            answer = client.get(path)
            assert answer.status_code == 200
            assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    for path in ("/dashboard", "/dashboard/", "/dashboard/../__init__.py", "/dashboard/%2e%2e/py.typed", "/py.typed"):
        assert httpx.get(f"{shared_daemon.url}{path}").status_code == 401
    assert httpx.post(f"{shared_daemon.url}/dashboard/app.js").status_code == 401
    assert httpx.get(shared_daemon.url, headers={"Host": "evil.example"}).status_code == 403


def test_the_command_prints_a_link(shared_daemon: Daemon) -> None:
    found = as_json(shared_daemon.home, "open", "--json")
    assert found["url"].startswith(f"{shared_daemon.url}/#login=")
    assert found["opened"] is False
