"""Put the parts of a home together, without anything that runs: store, index, remote side, retention."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress

from ..db.index import Index
from ..db.remembered import Remembered
from ..db.retention import newest_at
from ..state.collection import Grace
from ..state.errors import TorporError
from ..state.retention import Policy
from ..store import staging as staging_folders
from ..store.blobs import BlobStore
from ..store.crash import from_environment
from ..store.home import Home
from ..store.manifests import ManifestStore
from ..store.pending_groups import PendingGroups
from ..store.sidecars import SidecarStore
from ..store.staging import Staging
from ..store.trash import BlobTrash
from .catalog import Catalog
from .power import Power
from .remote import RemoteSide
from .remote_settings import RemoteSettings
from .retention import Retention
from .settings import Settings
from .sync_watcher import UPLOAD_KEY
from .trusted_time import TrustedTime

log = logging.getLogger("torpor.daemon")


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


def compose_remote(
    home: Home, settings: Settings, remote: RemoteSettings, catalog: Catalog, power: Power | None = None
) -> RemoteSide:
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
        power=power,
    )
    return side


def compose_retention(home: Home, settings: Settings, catalog: Catalog, side: RemoteSide) -> Retention:
    """Put together what keeps to the TTLs; TTLs are judged by the trusted time from then on."""

    def newest_made() -> float | None:
        with catalog.index.reading() as connection:
            return newest_at(connection)

    def server_at() -> float | None:
        if not side.on or side.trouble() is not None:
            return None
        with suppress(TorporError):
            return side.bucket().now()
        return None

    trusted = TrustedTime(home.clock_json, newest_made)
    catalog.judge_time_by(trusted.now)
    return Retention(catalog, trusted, Policy(settings.keep_newest), lambda: side.voucher, server_at=server_at)
