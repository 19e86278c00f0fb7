"""A real Chromium: tabs that know nothing, their consoles, what they ask for, and a look at their accessibility."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

    from support.daemon import Daemon

# The build without windows does the same with a page, for half of the work.
_INSTALLED = shutil.which("chromium-headless-shell") or shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM = os.environ.get("TORPOR_CHROMIUM") or _INSTALLED
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SHIFTS = """() => new Promise(done => {
  new PerformanceObserver(list => done(list.getEntries().reduce((sum, each) => sum + (each.hadRecentInput ? 0 : each.value), 0)))
    .observe({type: "layout-shift", buffered: true});
  setTimeout(() => done(0), 300);
})"""
PATIENCE_MS = 60_000  # what a page tries again by itself, it does within half a minute; a busy machine takes its time
# A browser writes by itself that nobody answered; where a test stops a server, that is what it wants to see.
_NETWORK = ("net::ERR_CONNECTION_REFUSED", "net::ERR_INTERNET_DISCONNECTED", "net::ERR_CONNECTION_RESET")


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Start the browser; `make test` has installed it (packaging/test-needs.sh)."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def new_tab(browser: Browser, *, allow: tuple[str, ...] = (), **options: Any) -> Iterator[Page]:
    """Open a tab in a context of its own. `options` are those of a context: viewport, color_scheme, locale.

    On leaving: there was no error in the console but those that contain one of `allow`, and no request to anywhere but
    this machine.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    try:
        with watched(context, allow):
            yield context.new_page()
    finally:
        context.close()


@contextmanager
def signed_in(browser: Browser, daemon: Daemon, **options: Any) -> Iterator[Page]:
    """Open a tab with the dashboard, signed in; `options` as `new_tab` has them."""
    with new_tab(browser, **options) as page:
        page.goto(daemon.request("POST", "/v1/login/links").json()["url"])
        page.get_by_role("navigation").wait_for()
        yield page


def layout_shift(page: Page) -> float:
    """Return by how much a page has jumped by itself since it was loaded: what calls itself good is below 0.1."""
    return float(page.evaluate(_SHIFTS))


@contextmanager
def watched(context: BrowserContext, allow: tuple[str, ...] = ()) -> Iterator[None]:
    """Watch all tabs of a context, as `new_tab` says."""
    errors: list[str] = []
    elsewhere: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type == "error" and not any(part in message.text for part in (*allow, *_NETWORK)):
            errors.append(message.text)

    def request(asked: Request) -> None:
        parts = urlsplit(asked.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("127.0.0.1", "localhost"):
            elsewhere.append(asked.url)

    context.on("console", console)
    context.on("request", request)
    context.on("weberror", lambda error: errors.append(str(error.error)))
    yield
    assert errors == [], errors
    assert elsewhere == [], elsewhere


def axe_violations(page: Page) -> list[str]:
    """Return what axe-core finds, as lines: rule, impact, where. None is WCAG 2.2 A and AA, and its best practices.

    It is evaluated in a world of its own, so that the page's Content-Security-Policy stays as it is.
    """
    source = files("axe_playwright_python").joinpath("axe.min.js").read_text()
    session = page.context.new_cdp_session(page)
    try:
        frame = session.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
        world = session.send("Page.createIsolatedWorld", {"frameId": frame, "worldName": "axe"})["executionContextId"]
        session.send("Runtime.evaluate", {"expression": source, "contextId": world})
        run = "axe.run().then(found => JSON.stringify(found.violations))"
        options = {"expression": run, "contextId": world, "awaitPromise": True, "returnByValue": True}
        answer = session.send("Runtime.evaluate", options)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        found = json.loads(answer["result"]["value"])
    finally:
        session.detach()
    return [
        f"{each['id']} ({each['impact']}): {each['help']}: {node['html'][:160]}"
        for each in found
        for node in each["nodes"]
    ]
