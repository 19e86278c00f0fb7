"""A page with a conversation, as an integrator writes one: served from an origin of its own, and driven by a test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import TYPE_CHECKING, Any, ClassVar

import uvicorn
from torpor.client import Keeper
from torpor.client.asgi import backup_app
from torpor.client.provider import Provider

from support.daemon import Daemon

if TYPE_CHECKING:
    from playwright.sync_api import Page

# `chat` is what the page knows; `events` what it was told. Options come in the address, behind the `#`.
PAGE = """<!doctype html><html lang="en"><title>A page</title><body><script type="module">
import { connect } from "%s";
const options = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const chat = window.chat = { conversation: [], draft: null, partial: false };
const torpor = window.torpor = connect({ base: options.base, timeoutMs: 5000 });
window.events = [];
window.start = (sessionId = options.session) => {
  const backup = window.backup = torpor.autoBackup({ sessionId, every: options.every ?? 5, state: () => chat });
  backup.on("*", (detail, type) => events.push({ type, ...plain(detail) }));
  return backup;
};
const plain = (detail) => ({ ...detail, problem: undefined, ...(detail.problem ? { code: detail.problem.code } : {}) });
window.say = (role, content, more = {}) => {
  chat.conversation.push({ role, content });
  Object.assign(chat, { draft: null, partial: false }, more);
  return backup.message();
};
window.comeBack = async (point) => {
  const found = await backup.restore(point);
  if (found) Object.assign(chat, { conversation: found.conversation, draft: found.draft, partial: found.partial });
  return found;
};
window.names = () => events.map((event) => event.type).join(" ");
if (torpor.paired) start();
document.title = "ready";
</script>"""


class _Handler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {".js": "text/javascript", "": "application/octet-stream"}

    def do_GET(self) -> None:
        if self.path == "/favicon.ico":
            self.send_response(204)
            self.end_headers()
            return
        if self.path != "/":
            super().do_GET()
            return
        body = (PAGE % "/client/torpor.js").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def page_origin() -> Iterator[str]:
    """Serve the page and the client's modules from an origin that is not the daemon's."""
    folder = str(files("torpor.web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def page_server(keeper: Keeper, provider: Provider) -> Iterator[str]:
    """Serve the page by an inference server of its own, which holds the token: the backup routes are its neighbours."""
    routes = backup_app(keeper, provider)
    page = (PAGE % "/api/backup/torpor.js").encode()
    html = [(b"content-type", b"text/html; charset=utf-8")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/backup/"):
            await routes(scope | {"root_path": "/api/backup"}, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": html})
            await send({"type": "http.response.body", "body": page})

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def said(daemon: Daemon, session_id: str) -> dict[str, Any]:
    """Return what the daemon has of a session: as a page gets it that asks for text."""
    answer = daemon.request("GET", f"/api/backup/restore/{session_id}?text=1")
    return dict(answer.json())


def texts(found: dict[str, Any]) -> list[str]:
    """Return the contents of a restored conversation."""
    return [message["content"] for message in found.get("conversation", [])]


def backups(daemon: Daemon, session_id: str) -> int:
    return len(daemon.request("GET", f"/v1/backups?session_id={session_id}").json()["backups"])


def approve(daemon: Daemon, page: Page) -> None:
    """Let the page ask, and approve the code that it shows."""
    page.evaluate(
        """() => { window.asked = new Promise((shown) => {
          window.pairing = torpor.pair({label: "A page", onCode: shown}).then(() => start(), (error) => error.code);
        }); }"""
    )
    code = page.evaluate("asked")
    answer = daemon.request("POST", f"/v1/pair/requests/{code}/approve", json={"scopes": None})
    assert answer.status_code == 200, answer.text
    page.evaluate("async () => { await pairing; }")
