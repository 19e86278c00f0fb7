"""The running daemon: the parts of a home, the API over them, what is done by the way; from the start to a signal."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING

from ulid import ULID

from ..state.api import API_VERSION
from ..state.summary import summarise
from ..store import staging as staging_folders
from ..store.home import Home
from ..store.move import settle
from ..sync.threads import DaemonPool
from .asks import AT_ONCE
from .before_sleep import BeforeSleep
from .bring_back import DOWNLOADS, bring_back
from .care import Care
from .catalog import Catalog
from .chores import Chore, Chores
from .compose import compose, compose_remote, compose_retention
from .fetch_api import BackFromBucket
from .garbage import Garbage
from .importer import Importer
from .imports import Imports
from .index_care import set_aside_if_damaged, settle_index
from .instance import InstanceLock, Listening, announce, load_token
from .logs import LOG_NAME, log_to_file
from .memory import give_back, share_arenas
from .mounts import refuse_network_home
from .notify import from_environment
from .pairing import Pairing
from .parts import Parts
from .power import Power
from .reconcile import reconcile
from .remote import RemoteSide
from .remote_settings import load_remote_settings, working_directory
from .room import Room, open_room
from .search_care import SearchCare
from .settings import Settings
from .summary import SummaryWatch, facts_of, summary_report
from .supervision import Supervision
from .sync_report import state_of
from .tokens import Tokens
from .watches import Watches

if TYPE_CHECKING:  # what takes long to import is imported when the daemon runs
    from fastapi import FastAPI
    from uvicorn import Config

    from .metrics import Metrics
    from .observing import Observing
    from .server import QuietServer

log = logging.getLogger("torpor.daemon")
HOUSEKEEPING_S = 3600.0
CLOCK_S = 900.0  # so that the time of the last look is known, however the machine goes down

OnReady = Callable[[dict[str, object]], None]


def serve(home: Home, settings: Settings, on_ready: OnReady) -> None:
    """Run the daemon until SIGTERM or SIGINT; `on_ready` gets the content of daemon.json.

    A damaged index is made again from the files.
    Raises: DaemonAlreadyRunning, UnsafeHome, NetworkHome, NewerIndex, StoreFull, StoreFailed, IndexDamaged when no
    manifest is left.
    """
    os.umask(0o077)
    share_arenas()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # memory holds tokens, keys and conversations
    if not settings.allow_network_home:
        refuse_network_home(home.root)
    settle(home)
    home.create()
    notifier = from_environment(os.environ, os.getpid())
    with ExitStack() as stack:
        stack.callback(InstanceLock(home).close)
        log_to_file(home.logs, settings.log_level, settings.log_format)
        notifier.tell(STATUS="Looking through the store")
        parts = _open(home, settings, stack)
        _run(parts, Supervision(notifier, lambda: proof(parts)), on_ready, stack)
    log.info("stopped")


def _open(home: Home, settings: Settings, stack: ExitStack) -> Parts:
    """Open everything of a home and make its index agree with its files; `stack` closes it."""
    tokens = Tokens(home.tokens_json, load_token(home), time.time)
    stack.callback(tokens.flush)
    remote = load_remote_settings(os.environ, working_directory(), home.root)
    aside = set_aside_if_damaged(home, time.time())
    catalog = compose(home, settings, stack)
    found = reconcile(catalog)
    log.info("reconciled: %s", asdict(found))
    settle_index(catalog, aside, found)
    room = open_room(home, settings, catalog)
    power = Power(always=settings.heavy_on_battery)
    stack.callback(power.stop)
    side = compose_remote(home, settings, remote, catalog, power)
    retention = compose_retention(home, settings, catalog, side)
    retention.excess_with(room.over_soft, unlinking=room.letting_go)
    room.evict_with(retention.make_room)
    garbage = Garbage(catalog, grace_s=settings.orphan_grace_hours * 3600.0)
    retention.reclaim_with(garbage.reclaim)
    back = _way_back(catalog, side, room) if side.on else None
    watches = Watches(home, catalog.index)
    watches.load(settings.watch)
    parts = Parts(
        home=home,
        settings=settings,
        tokens=tokens,
        catalog=catalog,
        room=room,
        side=side,
        back=back,
        retention=retention,
        garbage=garbage,
        care=Care(home, catalog, side.memory, back, settings, power.may),
        watches=watches,
        imports=Imports(Importer(str(home.root), watches.turn), catalog, room, lambda: str(ULID())),
        search=SearchCare(catalog),
        pairing=Pairing(tokens, time.time, time.monotonic),
        power=power,
    )
    stack.callback(parts.stop)
    return parts


def _way_back(catalog: Catalog, side: RemoteSide, room: Room) -> BackFromBucket:
    return bring_back(
        catalog,
        side.opening.bucket_when_needed(),
        side.known,
        repository=side.repository,
        ring=side.ring,
        room=room,
        threads=DaemonPool(DOWNLOADS, "download"),
        lookers=DaemonPool(AT_ONCE, "look"),
        away=side.trouble,
    )


def proof(parts: Parts) -> str:
    """Show that the index works, and say in one sentence how everything is. Raises: as `Index.prove`."""
    parts.catalog.index.prove()
    return str(summary_report(parts, time.time(), with_asking=False)["sentence"])


def _run(parts: Parts, supervision: Supervision, on_ready: OnReady, stack: ExitStack) -> None:
    """Listen, and serve until a signal comes."""
    import uvicorn

    from .app import on_error
    from .http_protocol import patient
    from .metric_states import StateMetrics
    from .observing import observe
    from .pages import Pages
    from .security import Gate
    from .server import SHUTDOWN_TIMEOUT_S, allowed_hosts, bind_tcp, bind_unix
    from .short_way import ShortWay

    home, settings, index = parts.home, parts.settings, parts.catalog.index
    tcp, unix = bind_tcp(settings.port), bind_unix(home.socket)
    stack.callback(home.daemon_json.unlink, missing_ok=True)
    stack.callback(home.socket.unlink, missing_ok=True)
    port = tcp.getsockname()[1]
    listening = listening_at(port, None if unix is None else str(home.socket))
    states = StateMetrics(
        index,
        str(home.store),
        time.time,
        remote_state=lambda: state_of(parts.side),
        usage=lambda: parts.room.usage.figure().classes,
        limits=lambda: _limits(parts.room),
        scrub=parts.care.scrub.describe,
    )
    observing = observe(index, parts.changes, states, version=listening.version, clock=time.time)
    pages = Pages(ShortWay(api_of(parts, listening, observing), observing.metrics, on_error))
    config = uvicorn.Config(
        Gate(pages, tokens=parts.tokens, hosts=allowed_hosts(port, settings.allowed_hosts), files=pages.paths),
        http=patient(settings.client_timeout_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # there is no proxy whose word counts
        server_header=False,
        date_header=False,
        headers=[("X-Content-Type-Options", "nosniff"), ("Cross-Origin-Resource-Policy", "same-origin")],
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    chores = _start_chores(parts, observing.metrics)
    try:
        _server(config, parts, observing, listening, supervision, on_ready).run(
            [s for s in (tcp, unix) if s is not None]
        )
    finally:
        parts.stop()
        chores.stop()


def listening_at(port: int, socket_path: str | None) -> Listening:
    """Return what daemon.json says of a daemon that begins to listen now."""
    return Listening(
        api_version=API_VERSION,
        version=version("torpor"),
        pid=os.getpid(),
        url=f"http://127.0.0.1:{port}",
        socket=socket_path,
        started_at=time.time(),
    )


def api_of(parts: Parts, listening: Listening, observing: Observing) -> FastAPI:
    """Return the API over the parts."""
    from .app import About, create_app

    about = About(
        version=listening.version,
        home=str(parts.home.root),
        store=str(parts.home.store),
        log=str(parts.home.logs / LOG_NAME),
        started_at=listening.started_at,
        url=listening.url,
        max_recoverable_tokens=parts.settings.max_recoverable_tokens,
    )
    return create_app(parts, about, observing, time.time)


def _server(
    config: Config,
    parts: Parts,
    observing: Observing,
    listening: Listening,
    supervision: Supervision,
    on_ready: OnReady,
) -> QuietServer:
    """Return the server, which says where it listens once it does, and ends the parts before it ends itself."""
    from .server import QuietServer

    before_sleep = BeforeSleep(parts.attached, parts.catalog.index, parts.side.woken, os.environ)

    class Announcing(QuietServer):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(parts.home, listening)
            parts.watches.start()  # only now: what it imports is committed by a call to this server
            await asyncio.to_thread(parts.side.start)
            parts.search.start()
            on_ready(asdict(listening))
            supervision.ready()
            before_sleep.start()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            supervision.stopping()
            await before_sleep.stop()
            observing.feed.close()
            await asyncio.to_thread(parts.stop)
            await super().shutdown(sockets)

    return Announcing(config)


def _limits(room: Room) -> dict[str, int]:
    limits, _ = room.state()
    return {"hard": limits.hard_bytes, "soft": limits.soft_bytes, "floor": limits.floor_bytes}


def _start_chores(parts: Parts, metrics: Metrics) -> Chores:
    """Begin with what is done by the way, and with listening to where the power comes from."""
    chores, power = Chores(_chores(parts, metrics), ended=metrics.chore, may=parts.power.may), parts.power
    power.tells_with(lambda: [*chores.waiting(), *(["scrub"] if parts.care.scrub.resting else [])])
    power.listen(chores.power_changed)
    power.start()
    chores.start()
    return chores


def _chores(parts: Parts, metrics: Metrics) -> list[Chore]:
    """Return what is done by the way; what is heavy for the first time an hour after the start, which stays light."""

    def sweep() -> None:
        if swept := staging_folders.sweep(parts.home.store / "staging"):
            log.info("removed %d staging folders of dead writers", swept)

    def collect() -> None:
        if (done := parts.garbage.collect()).anything():
            log.info("collected: %s", asdict(done))
        metrics.freed("garbage", done.freed_bytes)

    def retain() -> None:
        done = parts.retention.run()
        metrics.freed("retention", done.freed_bytes - done.evicted_bytes)
        metrics.freed("eviction", done.evicted_bytes)

    summary = SummaryWatch(lambda: summarise(facts_of(parts)), parts.changes.note)
    return [
        Chore("summary", CLOCK_S, summary.look, first_s=CLOCK_S),
        Chore("staging", HOUSEKEEPING_S, sweep),
        Chore("retention", HOUSEKEEPING_S, retain),
        Chore("clock", CLOCK_S, parts.retention.time.now, first_s=CLOCK_S),
        Chore("memory", CLOCK_S, give_back, first_s=CLOCK_S),
        Chore("power", CLOCK_S, parts.power.look, first_s=CLOCK_S),  # in a container the kernel tells of nothing
        Chore("garbage", HOUSEKEEPING_S, collect, heavy=True),
        Chore("bucket", HOUSEKEEPING_S, parts.side.housekeep, heavy=True),
        Chore("tokens", HOUSEKEEPING_S, parts.tokens.flush),
        Chore("search", HOUSEKEEPING_S, parts.search.compact, heavy=True),
        Chore("imports", HOUSEKEEPING_S, parts.imports.let_go),
        parts.care.chore(),
    ]
