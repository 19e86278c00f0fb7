"""What Torpor costs while nobody uses it: `python bench/desktop_cost.py [--minutes 10] [--only fresh,tray,…] [--json]`.

Daemons in homes of their own, the real tray icon on a private desktop bus, and a real S3 server rest side by side for
as long as is said; then each is told by its memory, the CPU time that it took and how often it woke up. The exit status
is 1 when a limit is missed. For figures to be kept: ten minutes, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import at_rest
import large_home
import orjson
from at_rest import Rest
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client import Keeper, SessionTable, connect
from torpor.daemon.compose import compose
from torpor.daemon.search_care import SearchCare
from torpor.daemon.settings import load_settings
from torpor.measure.rig import daemon, scratch
from torpor.store.home import Home

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # desktop and server are those of the tests
from support.desktop_bus import desktop_bus
from support.s3_servers import new_place, running_weed

SETTLE_S = 45.0  # a home that is opened is counted and read by the way
SAVES, WAIT_S = 20, 120.0
WATCHDOG_USEC = "60000000"  # as the unit has it
NOT_IDLE = {"TORPOR_SCRUB_MIB_S": "0"}  # blobs of the large home hold nothing: a scrub would find them all damaged
RSS_MIB = {"tray": 45.0, "daemon": 110.0, "daemon with S3": 150.0}
WAKEUPS, CPU_PERCENT = 60.0, 0.2  # a minute each; of a core, daemon and tray together

Started = dict[str, int]


def main() -> int:
    """Start everything, let it rest, and tell what it cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--backups", type=int, default=10_000)
    parser.add_argument("--only", default=",".join(SCENES), help=f"some of {','.join(SCENES)}")
    parser.add_argument("--dir", type=Path, default=Path(__file__).resolve().parent / "results")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(scratch(options.dir))
        pids: Started = {}
        for name in options.only.split(","):
            pids |= SCENES[name](folder / name, options.backups, stack)
        time.sleep(SETTLE_S)
        found = at_rest.watch(pids, options.minutes * 60)
    if options.json:
        print(orjson.dumps({name: asdict(each) for name, each in found.items()}, option=orjson.OPT_INDENT_2).decode())
    return _tell(found, options.minutes, quiet=options.json)


def _fresh(folder: Path, backups: int, stack: ExitStack) -> Started:
    """Start a daemon that was just installed; nobody listens."""
    return {"daemon, fresh": stack.enter_context(daemon(_home(folder))).pid}


def _with_tray(folder: Path, backups: int, stack: ExitStack) -> Started:
    """Start a daemon that somebody uses, and the tray icon that listens to it."""
    home = _home(folder)
    running = stack.enter_context(daemon(home))
    _use(home)
    return {"daemon, with a tray": running.pid, "tray": stack.enter_context(_tray(home))}


def _service(folder: Path, backups: int, stack: ExitStack) -> Started:
    """Start a daemon that tells a service manager that it is well."""
    heard = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)))
    name = f"torpor-bench-{os.getpid()}"
    heard.bind(f"\0{name}")

    def read() -> None:
        with contextlib.suppress(OSError):
            while heard.recv(4096):
                pass

    threading.Thread(target=read, daemon=True).start()
    watched = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": WATCHDOG_USEC}
    return {"daemon, as a service": stack.enter_context(daemon(_home(folder), watched)).pid}


def _attached(folder: Path, backups: int, stack: ExitStack) -> Started:
    """Start a daemon with an inference process attached, which is this one, and a page that listens over TCP."""
    home = _home(folder)
    running = stack.enter_context(daemon(home))
    _use(home)
    keeper = stack.enter_context(connect(home=home))
    attachment = keeper.attach(SessionTable(PlainTarget))
    stack.callback(attachment.close)
    if not attachment.wait_connected(WAIT_S):
        raise RuntimeError("the daemon knows of nobody")
    stack.enter_context(_listening(keeper))
    return {"daemon, a process attached, a page": running.pid}


def _large(folder: Path, backups: int, stack: ExitStack) -> Started:
    """Start a daemon with many backups, and a tray icon."""
    home = _home(folder)
    large_home.build(home, backups, max(backups // 50, 1), said=20)
    with ExitStack() as built:
        SearchCare(compose(Home(home), load_settings(), built)).settle()
    running = stack.enter_context(daemon(home, NOT_IDLE))
    return {f"daemon, {backups:,} backups": running.pid, "tray, the same": stack.enter_context(_tray(home))}


def _with_s3(folder: Path, backups: int, stack: ExitStack) -> Started:
    """Start a daemon that has sent everything to a bucket, and a tray icon."""
    home, place = _home(folder), new_place(stack.enter_context(running_weed()))
    running = stack.enter_context(daemon(home, place.settings))
    _use(home)
    with connect(home=home) as keeper:
        _until(lambda: _all_sent(keeper), "everything is sent")
    return {"daemon with S3": running.pid, "tray, with S3": stack.enter_context(_tray(home))}


SCENES: dict[str, Callable[[Path, int, ExitStack], Started]] = {
    "fresh": _fresh,
    "tray": _with_tray,
    "service": _service,
    "attached": _attached,
    "large": _large,
    "s3": _with_s3,
}


def _home(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder / "home"


def _use(home: Path) -> None:
    """Save, list and wake, as somebody does who uses it; it rests behind that."""
    with connect(home=home) as keeper:
        for number in range(SAVES):
            said = [{"role": "user", "content": f"{number} bright cold days in April"}] * 20
            state = {"metadata": {"model_name": "Qwen3-VL-4B"}, "text_context": {"messages": said}}
            keeper.save(f"session-{number % 5}", PlainSession(state)).wait()
        keeper.restore("session-1", PlainTarget())
        for path in ("/v1/status", "/v1/backups", "/v1/sessions", "/v1/storage"):
            keeper.api.json("GET", path)


def _all_sent(keeper: Keeper) -> bool:
    found = keeper.api.json("GET", "/v1/sync")
    return found["state"] == "idle" and not found["waiting_count"] and found["last_synced_at"] is not None


@contextmanager
def _tray(home: Path) -> Iterator[int]:
    """Run the tray icon of a home, on a desktop bus of its own with a panel that shows it."""
    with desktop_bus() as bus:
        watcher = bus.watch()
        bus.notifications()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TORPOR_")}
        environment |= {"TORPOR_HOME": str(home), **bus.environment}
        process = subprocess.Popen([sys.executable, "-m", "torpor.tray"], env=environment, cwd=home.parent)
        try:
            item = bus.registered(watcher)
            bus.menu(item)
            _until(lambda: "run" not in bus.item(item, "ToolTip")[2], "the tray has found the daemon")
            yield process.pid
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _listening(keeper: Keeper) -> Iterator[None]:
    """Listen over TCP as the page of a dashboard does."""
    endpoint = keeper.api.endpoint
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"))
    connection.request("GET", "/v1/events/stream", headers={"Authorization": f"Bearer {endpoint.token}"})
    answer = connection.getresponse()

    def read() -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            while answer.read1():
                pass

    threading.Thread(target=read, daemon=True).start()
    try:
        yield
    finally:
        connection.close()


def _until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain until {what}")
        time.sleep(0.1)


def _tell(found: dict[str, Rest], minutes: float, *, quiet: bool) -> int:
    missed = 0
    for name, each in found.items():
        kind = "tray" if name.startswith("tray") else "daemon with S3" if "S3" in name else "daemon"
        missed |= each.rss_mib > RSS_MIB[kind] or each.wakeups > WAKEUPS
        if not quiet:
            print(
                f"{name:36} RSS {each.rss_mib:6.1f} MiB (at most {RSS_MIB[kind]:g}), own {each.own_mib:5.1f} MiB, "
                f"CPU {each.cpu_percent:.4f} %, wake-ups {each.wakeups:5.1f}/min"
            )
    for daemon_name, tray in (("daemon, with a tray", "tray"), ("daemon with S3", "tray, with S3")):
        if daemon_name in found and tray in found:
            both = found[daemon_name].cpu_percent + found[tray].cpu_percent
            missed |= both > CPU_PERCENT
            if not quiet:
                print(f"{daemon_name} and its tray together: CPU {both:.4f} % of a core (at most {CPU_PERCENT:g})")
    if not quiet:
        print(f"over {minutes:g} min, all side by side")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
