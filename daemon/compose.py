"""Put the daemon together and run it: the one place where the parts meet."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version

from ..db.index import Index
from ..db.remembered import Remembered
from ..state.api import API_VERSION
from ..state.collection import Grace
from ..store import staging as staging_folders
from ..store.blobs import BlobStore
from ..store.crash import from_environment
from ..store.home import Home
from ..store.manifests import ManifestStore
from ..store.pending_groups import PendingGroups
from ..store.sidecars import SidecarStore
from ..store.staging import Staging
from ..store.trash import BlobTrash
from ..sync.threads import DaemonPool
from .asks import AT_ONCE
from .bring_back import DOWNLOADS, bring_back
from .catalog import Catalog
from .chores import Chore, Chores
from .garbage import Garbage
from .index_care import set_aside_if_damaged, settle_index
from .instance import InstanceLock, Listening, announce, load_token
from .logs import LOG_NAME, log_to_file
from .reconcile import reconcile
from .remote import RemoteSide
from .remote_settings import RemoteSettings, load_remote_settings, working_directory
from .settings import Settings
from .sync_report import state_of
from .sync_watcher import UPLOAD_KEY
from .tokens import Tokens
from .watches import Watches

log = logging.getLogger("torpor.daemon")
HOUSEKEEPING_S = 3600.0


def serve(home: Home, settings: Settings, on_ready: Callable[[dict[str, object]], None]) -> None:
    """Run the daemon until SIGTERM or SIGINT; `on_ready` gets the content of daemon.json.

    A damaged index is made again from the files.
    Raises: DaemonAlreadyRunning, UnsafeHome, NewerIndex, StoreFull, StoreFailed, IndexDamaged when no manifest is left.
    """
    os.umask(0o077)
    home.create()
    with ExitStack() as stack:
        stack.callback(InstanceLock(home).close)
        log_to_file(home.logs, settings.log_level, settings.log_format)
        tokens = Tokens(home.tokens_json, load_token(home), time.time)
        stack.callback(tokens.flush)
        remote = load_remote_settings(os.environ, working_directory(), home.root)
        aside = set_aside_if_damaged(home, time.time())
        catalog = compose(home, settings, stack)
        found = reconcile(catalog)
        log.info("reconciled: %s", asdict(found))
        settle_index(catalog, aside, found)
        side = compose_remote(home, settings, remote, catalog)
        stack.callback(side.stop)
        _run(home, settings, catalog, side, tokens, on_ready, stack)


def compose(home: Home, settings: Settings, stack: ExitStack) -> Catalog:
    """Open the store and the index of a home; `stack` closes them."""
    checkpoint = from_environment(os.environ)
    swept = staging_folders.sweep(home.store / "staging")
    if swept:
        log.info("removed %d staging folders of dead writers", swept)
    staging = Staging(home.store / "staging")
    stack.callback(staging.close)
    index = Index(home.index, checkpoint)
    stack.callback(index.close)
    blobs = BlobStore(home.store / "blobs", checkpoint, home.trashed_blobs)
    return Catalog(
        index=index,
        blobs=blobs,
        trash=BlobTrash(home.trashed_blobs, blobs),
        manifests=ManifestStore(home.store / "manifests", home.store / "trash", checkpoint),
        sidecars=SidecarStore(home.store / "sessions"),
        pending_groups=PendingGroups(home.store / "groups"),
        staging=staging,
        ttl_s=settings.ttl_s,
        checkpoint=checkpoint,
    )


def compose_remote(home: Home, settings: Settings, remote: RemoteSettings, catalog: Catalog) -> RemoteSide:
    """Put the remote side of a home together; nothing of it runs yet, and without S3 nothing will."""
    for warning in remote.warnings:
        log.warning("%s", warning)
    if remote.s3 is not None:
        log.info("the second copy goes to bucket %s, as %s says", remote.s3.bucket, ", ".join(remote.origin))

    def noted(kind: str, key: str) -> None:
        if kind == "rate" and key != UPLOAD_KEY:  # what a download or a prefill takes decides on KV caches
            side.reconsider()

    remembered = Remembered(catalog.index, noted=noted)
    grace = Grace(settings.condemn_after_hours * 3600.0, settings.delete_after_hours * 3600.0)
    side = RemoteSide(
        home,
        remote,
        catalog,
        remembered,
        key_storage=settings.key_storage,
        grace=grace,
        plain_copies=settings.remote_format == "v1",
    )
    return side


def _run(
    home: Home,
    settings: Settings,
    catalog: Catalog,
    side: RemoteSide,
    tokens: Tokens,
    on_ready: Callable[[dict[str, object]], None],
    stack: ExitStack,
) -> None:
    import uvicorn

    from .app import About, create_app
    from .http_protocol import GuardedProtocol
    from .metric_states import StateMetrics
    from .observing import observe
    from .pair_api import add_pairing, add_tokens
    from .pairing import Pairing
    from .security import Gate
    from .server import SHUTDOWN_TIMEOUT_S, QuietServer, allowed_hosts, bind_tcp, bind_unix

    tcp, unix = bind_tcp(settings.port), bind_unix(home.socket)
    port = tcp.getsockname()[1]
    listening = Listening(
        api_version=API_VERSION,
        version=version("torpor"),
        pid=os.getpid(),
        url=f"http://127.0.0.1:{port}",
        socket=str(home.socket) if unix is not None else None,
        started_at=time.time(),
    )
    about = About(
        version=listening.version,
        home=str(home.root),
        store=str(home.store),
        log=str(home.logs / LOG_NAME),
        started_at=listening.started_at,
        url=listening.url,
        max_recoverable_tokens=settings.max_recoverable_tokens,
    )
    watches = Watches(home, catalog.index)
    watches.load(settings.watch)
    back = None
    if side.on:
        downloads = DaemonPool(DOWNLOADS, "download")
        back = bring_back(
            catalog,
            side.opening.bucket_when_needed(),
            side.known,
            repository=side.repository,
            ring=side.ring,
            threads=downloads,
            lookers=DaemonPool(AT_ONCE, "look"),
            away=side.trouble,
        )
    states = StateMetrics(catalog.index, about.store, time.time, remote_state=lambda: state_of(side))
    observing = observe(catalog.index, states, version=about.version, clock=time.time)
    api = create_app(catalog, watches, about, time.time, side, back, observing)
    add_tokens(api, tokens)
    add_pairing(api, Pairing(tokens, time.time, time.monotonic))
    app = Gate(api, tokens=tokens, hosts=allowed_hosts(port, settings.allowed_hosts))

    class Announcing(QuietServer):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            announce(home, listening)
            watches.start()  # only now: what it imports is committed by a call to this server
            await asyncio.to_thread(side.start)
            on_ready(asdict(listening))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            observing.feed.close()
            await asyncio.to_thread(watches.stop)
            if back is not None:
                await asyncio.to_thread(back.close)  # requests that wait for the bucket end now
            await asyncio.to_thread(side.stop)  # and those that speak with it
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        headers=[("X-Content-Type-Options", "nosniff"), ("Cross-Origin-Resource-Policy", "same-origin")],
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
    )
    stack.callback(home.daemon_json.unlink, missing_ok=True)
    stack.callback(home.socket.unlink, missing_ok=True)
    garbage = Garbage(catalog, grace_s=settings.orphan_grace_hours * 3600.0)
    by_the_way = [*_chores(home, garbage, side), Chore("tokens", HOUSEKEEPING_S, tokens.flush)]
    chores = Chores(by_the_way, ended=observing.metrics.chore)
    chores.start()
    try:
        Announcing(config).run([s for s in (tcp, unix) if s is not None])
    finally:
        watches.stop()
        side.stop()
        garbage.stop()
        chores.stop()
    log.info("stopped")


def _chores(home: Home, garbage: Garbage, side: RemoteSide) -> list[Chore]:
    """Return what is done by the way; each for the first time an hour after the start, so that a start stays light."""

    def sweep() -> None:
        if swept := staging_folders.sweep(home.store / "staging"):
            log.info("removed %d staging folders of dead writers", swept)

    def collect() -> None:
        if (done := garbage.collect()).anything():
            log.info("collected: %s", asdict(done))

    return [
        Chore("staging", HOUSEKEEPING_S, sweep),
        Chore("garbage", HOUSEKEEPING_S, collect),
        Chore("bucket", HOUSEKEEPING_S, side.housekeep),
    ]
