"""A real daemon in a process of its own, forked off one that has its imports done (support/forked.py)."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
from torpor.client import Keeper, connect
from torpor.client.api import Api
from torpor.client.discover import find_endpoint

from support.forked import Forked, clean_environment, start, starts_otherwise
from support.plain_http import PLAIN

READY_S = 60


@contextmanager
def new_daemon(**options: Any) -> Iterator[Daemon]:
    """A daemon on a new home, which goes with it; `options` are those of `Daemon`."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder, Daemon(Path(folder) / "home", **options) as running:
        yield running


class Daemon:
    """`torpor serve` on a home folder; use as a context manager or call `start`, `stop`, `kill`."""

    def __init__(
        self,
        home: Path,
        *,
        crash_at: str = "",
        port: int = 0,
        prefix: tuple[str, ...] = (),
        watch: str = "",
        settings: dict[str, str] | None = None,
        module: str = "torpor.cli.entry",
        folders: tuple[str, ...] = (),
    ) -> None:
        self.module, self.folders = module, folders
        self.watch, self.settings = watch, settings or {}
        self.home, self.crash_at, self.port, self.prefix = home, crash_at, port, prefix
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.listening: dict[str, Any] = {}

    def environment(self) -> dict[str, str]:
        found = clean_environment() | {
            "TORPOR_HOME": str(self.home),
            "TORPOR_PORT": str(self.port),
            "TORPOR_CRASH_AT": self.crash_at,
        }
        return found | ({"TORPOR_WATCH": self.watch} if self.watch else {}) | self.settings

    def start(self) -> Daemon:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed at exit)
        if self.prefix or starts_otherwise(self.environment()):
            assert not self.folders, "only what is forked finds its modules elsewhere"
            command = [*self.prefix, sys.executable, "-m", self.module, "serve", "--json"]
            self.process = subprocess.Popen(
                command, env=self.environment(), stdout=subprocess.PIPE, stderr=self.errors, cwd="/"
            )
        else:
            starts_as = {"module": self.module, "folders": self.folders}
            self.process = start(["serve", "--json"], self.environment(), stderr=self.errors, **starts_as)
        text = b""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text += line
            if line == b"}\n":
                break
        self.listening = orjson.loads(text) if text else {}
        return self

    def output(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def signal(self, number: int) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.join()

    def join(self, timeout_s: float = READY_S) -> int:
        assert self.process is not None
        status = self.process.wait(timeout_s)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def kill(self) -> int:
        return self.signal(signal.SIGKILL)

    def stop(self) -> int:
        return self.signal(signal.SIGTERM)

    def __enter__(self) -> Daemon:
        self.start()
        assert "url" in self.listening, self.output()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.kill()
        self.errors.close()

    @property
    def url(self) -> str:
        return str(self.listening["url"])

    @property
    def token(self) -> str:
        return (self.home / "token").read_text()

    def keeper(self, **options: Any) -> Keeper:
        """A keeper; `pool` and `free_memory` may be the test's own."""
        if not options:
            return connect(home=self.home)
        return Keeper(Api(lambda: find_endpoint({}, home=self.home)), **options)

    def remote_keeper(self) -> Keeper:
        return connect(url=self.url, token=self.token)

    def request(self, method: str, path: str, *, token: str | None = None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.token}", **options.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, **PLAIN, **options)

    def blob_files(self) -> list[Path]:
        return sorted(p for p in (self.home / "store" / "blobs").rglob("*") if p.is_file())
