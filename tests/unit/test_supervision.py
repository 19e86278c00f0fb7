"""What a service manager is told, on a real socket: ready, how it is, alive, ending."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import pytest
from support.waiting import PATIENCE_S
from torpor.daemon.notify import Notifier, from_environment
from torpor.daemon.supervision import Supervision
from torpor.db.index import Index
from torpor.desktop.own_command import own_command
from torpor.desktop.unit import unit_text
from torpor.state.errors import IndexDamaged, StoreFailed


class Manager:
    """A service manager's ear."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(PATIENCE_S)

    def hear(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(8192).decode().split("\n"))

    def heard(self) -> list[dict[str, str]]:
        """Return what came by now."""
        found = []
        self.socket.setblocking(False)
        try:
            while True:
                found.append(self.hear())
        except BlockingIOError:
            return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def test_the_environment_is_read_once_and_not_handed_on() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "PATH": "/bin"}
    assert from_environment(environ, 7) == Notifier("/run/x", 3.0)
    assert environ == {"PATH": "/bin"}
    assert (
        from_environment({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3", "WATCHDOG_PID": "8"}, 7).watchdog_s is None
    )
    for odd in ("", "0", "-1", "²", "x"):
        assert from_environment({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": odd}, 7) == Notifier("@x")
    assert from_environment({"NOTIFY_SOCKET": "vsock:2:1"}, 7) == Notifier()
    assert from_environment({}, 7) == Notifier()


def test_values_are_lines_and_nobody_is_waited_for(manager: Manager, tmp_path: Path) -> None:
    Notifier(manager.path).tell(READY="1", STATUS="two\nlines\rX_FORGED=1")
    assert manager.hear() == {"READY": "1", "STATUS": "two lines X_FORGED=1"}
    Notifier(str(tmp_path / "nobody")).tell(READY="1")
    for _ in range(2000):  # more than a socket holds
        Notifier(manager.path).tell(STATUS="x" * 100)


def supervised(manager: Manager, prove: Callable[[], str], until: Callable[[list[dict[str, str]]], bool]) -> list[str]:
    """Run until so much was heard; return it as text."""
    heard: list[dict[str, str]] = []

    async def test() -> None:
        supervision = Supervision(Notifier(manager.path, 0.03), prove)
        supervision.ready()
        async with asyncio.timeout(PATIENCE_S):
            while not until(heard):
                heard.extend(await asyncio.to_thread(lambda: [manager.hear()]))
        supervision.stopping()

    asyncio.run(test())
    heard.extend(manager.heard())
    return [" ".join(f"{name}={value}" for name, value in each.items()) for each in heard]


def test_each_sign_of_life_is_a_proof(manager: Manager) -> None:
    proofs = iter(["All is safe", "All is safe", "Offline"])
    said = supervised(manager, lambda: next(proofs, "Offline"), lambda heard: len(heard) > 4)
    assert said[:5] == [
        "READY=1 STATUS=Ready",
        "WATCHDOG=1 STATUS=All is safe",
        "WATCHDOG=1",
        "WATCHDOG=1 STATUS=Offline",
        "WATCHDOG=1",
    ]
    assert said[-1] == "STOPPING=1 STATUS=Stopping"


def test_an_index_that_hangs_gives_no_sign(manager: Manager, tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    begun, proved = Event(), Event()

    def prove() -> str:
        begun.set()
        index.prove()
        proved.set()
        return "well"

    async def test() -> None:
        with index.writing():  # somebody does not let go
            supervision = Supervision(Notifier(manager.path, 0.03), prove)
            supervision.ready()
            assert await asyncio.to_thread(begun.wait, PATIENCE_S)
            assert not await asyncio.to_thread(proved.wait, 0.3)
            assert [list(each) for each in manager.heard()] == [["READY", "STATUS"]]
        assert await asyncio.to_thread(proved.wait, PATIENCE_S)
        supervision.stopping()

    generation = index.generation
    asyncio.run(test())
    assert index.generation == generation + 1, "a proof changes nothing"
    index.close()


def test_a_long_write_is_no_hang(tmp_path: Path) -> None:
    """A purge on a slow disk that others keep busy: whoever writes is at work, for a quarter of an hour at most."""
    now, proved = [0.0], Event()
    index = Index(tmp_path / "index.sqlite", steady=lambda: now[0])

    def prove() -> None:
        index.prove(0.01)
        proved.set()

    with index.writing():
        now[0] = 800.0
        working = Thread(target=prove, daemon=True)
        working.start()
        assert proved.wait(20)
        working.join()
        proved.clear()
        now[0] = 1000.0
        hanging = Thread(target=prove, daemon=True)
        hanging.start()
        assert not proved.wait(0.3)
    hanging.join(PATIENCE_S)
    assert proved.is_set()
    with index.writing():  # another one, that has just begun
        index.prove(0.01)
    index.close()


def test_a_damaged_index_asks_for_a_new_start_and_other_troubles_do_not(manager: Manager) -> None:
    def prove() -> str:
        raise next(errors)

    errors = iter([StoreFailed("it is locked"), ZeroDivisionError(), IndexDamaged("it is torn")])
    said = supervised(manager, prove, lambda heard: any("trigger" in each.values() for each in heard))
    assert said[1:4] == [
        "WATCHDOG=1 STATUS=it is locked",
        "WATCHDOG=1 STATUS=ZeroDivisionError in its status",
        "WATCHDOG=trigger STATUS=it is torn",
    ]


def test_the_units_own_command_line_is_ready_alive_and_ends(manager: Manager, tmp_path: Path) -> None:
    home = tmp_path / "a home"
    lines = unit_text(own_command("serve"), str(home)).splitlines()
    values = dict(line.split("=", 1) for line in lines if line.startswith(("ExecStart=", "Environment=")))
    name, _, value = shlex.split(values["Environment"])[0].partition("=")
    told = {"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "600000", "HOME": str(tmp_path), "TORPOR_PORT": "0"}
    with subprocess.Popen(
        shlex.split(values["ExecStart"]),
        env={name: value, **told},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert manager.hear() == {"STATUS": "Looking through the store"}
        assert manager.hear() == {"READY": "1", "STATUS": "Ready"}
        assert manager.hear() == {"WATCHDOG": "1", "STATUS": "Nothing sleeps here yet"}
        assert manager.hear() == {"WATCHDOG": "1"}
        os.kill(process.pid, signal.SIGTERM)
        out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert manager.heard()[-1] == {"STOPPING": "1", "STATUS": "Stopping"}
    log = (home / "logs" / "daemon.log").read_text()
    assert "reconciled" in log
    assert (b"reconciled" in out, errors) == (False, b""), "the journal has no second copy of the log"
