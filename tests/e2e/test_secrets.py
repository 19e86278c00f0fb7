"""What is secret is nowhere but where it belongs: not in a log, an answer, an event, a process list or a traceback."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.daemon import Daemon

PASSPHRASE = "Correct-Horse-Battery-Staple-42"
SECRETS = {
    "S3_ACCESS_KEY": "AKIAVERYSECRETACCESS",
    "S3_SECRET_KEY": "s3cr3t/key+that+nobody/may+see0000000000",
    "S3_SESSION_TOKEN": "IQoJb3JpZ2luX2VjE" + "z9/k+Q4x" * 30,
}


class TalkativeS3(http.server.BaseHTTPRequestHandler):
    """A storage that refuses everything and repeats all that it was told, as some do."""

    def answer(self) -> None:
        told = " ".join(self.headers.get(name, "") for name in ("Authorization", "X-Amz-Security-Token"))
        text = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{told} {self.path}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def talkative() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TalkativeS3)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def provoke(daemon: Daemon) -> list[str]:
    """Make everything fail that secrets are needed for; return all that was answered, and made meanwhile."""
    asked = [
        ("POST", "/v1/key/init", {"passphrase": PASSPHRASE}),
        ("POST", "/v1/key/init", {"passphrase": {"x": PASSPHRASE}}),
        ("POST", "/v1/key/init", {"passphrase": PASSPHRASE, PASSPHRASE: 1}),
        ("POST", "/v1/key/rotate", {"passphrase": [PASSPHRASE]}),
        ("POST", "/v1/key/init", {"passphrase": "x", "recovery": PASSPHRASE}),
        ("POST", "/v1/key/recovery", None),
        ("POST", "/v1/sync/now", None),
        ("GET", "/v1/remote/backups", None),
    ]
    said = [daemon.request(method, path, json=body).text for method, path, body in asked]
    broken = f'{{"passphrase": "{PASSPHRASE}'.encode()
    said.append(
        daemon.request("POST", "/v1/key/init", content=broken, headers={"Content-Type": "application/json"}).text
    )
    said.append(httpx.get(daemon.url + "/v1/status", headers={"Authorization": f"Bearer {PASSPHRASE}"}).text)
    for path in ("/v1/status", "/v1/events", "/v1/sync", "/v1/key", "/v1/tokens", "/v1/pair/requests", "/openapi.json"):
        said.append(daemon.request("GET", path).text)
    return said


def test_no_secret_gets_out(home: Path, talkative: str) -> None:
    settings = {"PERSISTENCE_BACKEND": "s3", "S3_ENDPOINT": talkative, "S3_BUCKET": "b", "TORPOR_LOG_LEVEL": "debug"}
    with Daemon(home, settings=settings | SECRETS) as daemon:
        made = daemon.request("POST", "/v1/tokens", json={"label": "x", "scopes": ["read"]}).json()["token"]
        said = provoke(daemon)
        pid = daemon.listening["pid"]
        places = {"answers": "\n".join(said), "ps": Path(f"/proc/{pid}/cmdline").read_text()}
        token = daemon.token
        assert daemon.stop() == 0
        places["output"] = daemon.output() + str(daemon.listening)
    for path in [*(home / "logs").iterdir(), home / "daemon.json", home / "tokens.json", *home.glob("index.sqlite*")]:
        if path.exists():
            places[path.name] = path.read_bytes().decode("latin-1")
    log = places["daemon.log"]
    assert "remote-denied" in places["answers"]  # the storage was asked, and its words were taken
    assert len(log) > 500
    secrets = {**SECRETS, "passphrase": PASSPHRASE, "owner": token, "token": made}
    found = [(name, place) for name, secret in secrets.items() for place, text in places.items() if secret in text]
    assert found == []
    assert "Signature=" not in log
