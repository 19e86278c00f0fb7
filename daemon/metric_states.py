"""What is, looked up when somebody asks for the metrics: sizes, queues, limits, the last successes.

Every figure is asked for by itself: one that cannot be had is left out and told by `torpor_metric_errors`, and the
others come all the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..db import metrics as measured
from ..db.index import Index
from ..state.errors import TorporError

log = logging.getLogger("torpor.metrics")
SESSIONS_AT_MOST = 50  # with a series of their own, the newest
_Family = Iterator[Metric]


class StateMetrics(Collector):
    """Figures of the index and the disk. Each of the readings may be missing; then its names are told without a value.

    `usage` returns bytes on the disk by class, `limits` bytes by name (hard, soft, floor), `scrub` what the scrub
    describes of itself.
    """

    def __init__(
        self,
        index: Index,
        store: str,
        clock: Callable[[], float],
        *,
        remote_state: Callable[[], str] = lambda: "off",
        usage: Callable[[], Mapping[str, int]] = dict,
        limits: Callable[[], Mapping[str, int]] = dict,
        scrub: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._index, self._store, self._clock, self._remote_state = index, store, clock, remote_state
        self._usage, self._limits, self._scrub = usage, limits, scrub

    def describe(self) -> Iterable[Metric]:
        """Return nothing: names are known only by asking, and nobody else has them."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Look everything up."""
        errors = GaugeMetricFamily("torpor_metric_errors", "Figures that could not be had at this scrape.")
        failed = 0
        for part in (self._counts, self._sharing, self._sizes, self._queue, self._last, self._scrubbed):
            try:
                yield from list(part())
            except (TorporError, OSError) as error:
                failed += 1
                log.warning("a metric cannot be had: %s", error)
        errors.add_metric([], failed)
        yield errors

    def _counts(self) -> _Family:
        totals = self._index.totals()
        yield _gauge("torpor_sessions", "Sessions with a backup.", totals.sessions)
        yield _gauge("torpor_backups_stored", "Backups in the index.", totals.backups)
        yield _gauge("torpor_blobs_stored", "Blobs on this machine.", totals.blobs)
        yield _gauge("torpor_last_backup_timestamp_seconds", "When the newest backup was made.", totals.last_backup_at)
        disk = os.statvfs(self._store)
        yield _gauge("torpor_disk_free_bytes", "Free on the store's disk.", disk.f_bavail * disk.f_frsize)

    def _sharing(self) -> _Family:
        with self._index.reading() as connection:
            logical, layers = measured.logical_bytes(connection), measured.blob_bytes_by_layer(connection)
            raw, stored = measured.bucket_bytes(connection)
            damaged = measured.damaged_blobs(connection)
        held = sum(size for _, size in layers.values())
        yield _by("torpor_blob_bytes", "Blobs on this machine.", "layer", {name: s for name, (_, s) in layers.items()})
        yield _gauge("torpor_logical_bytes", "What all backups would take if none shared anything.", logical)
        dedupe = logical / held if held else None
        yield _gauge("torpor_dedupe_ratio", "Logical bytes of all backups to bytes of blobs.", dedupe)
        ratio = raw / stored if stored else None
        yield _gauge("torpor_compression_ratio", "Raw bytes of the bucket's objects to what they take.", ratio)
        yield _gauge("torpor_bucket_bytes", "What the bucket is known to hold takes there.", stored)
        yield _gauge("torpor_damaged_blobs", "Blobs that were found damaged and could not be healed yet.", damaged)

    def _sizes(self) -> _Family:
        yield _by("torpor_store_bytes", "Bytes on the disk.", "class", self._usage())
        yield _by("torpor_quota_bytes", "Limits of the home.", "limit", self._limits())

    def _queue(self) -> _Family:
        with self._index.reading() as connection:
            queues = measured.queues(connection)
        now = self._clock()
        empty = dict.fromkeys(("pending", "leased", "dead", "held"), 0.0)
        counts = empty | {each.state: float(each.count) for each in queues}
        sizes = empty | {each.state: float(each.size_bytes) for each in queues}
        waiting = [each.oldest_at for each in queues if each.state in ("pending", "leased")]
        age = max(now - min(waiting), 0.0) if waiting else 0.0
        yield _by("torpor_outbox_items", "What waits for the bucket.", "state", counts)
        yield _by("torpor_outbox_bytes", "What waits for the bucket.", "state", sizes)
        yield _gauge("torpor_outbox_oldest_age_seconds", "How long the oldest has waited.", age)
        yield _by("torpor_remote_state", "The state of the second copy: 1.", "state", {self._remote_state(): 1.0})

    def _last(self) -> _Family:
        with self._index.reading() as connection:
            found = measured.last_successes(connection, SESSIONS_AT_MOST)
        name = "torpor_session_last_success_timestamp_seconds"
        yield _by(name, f"The newest backup of the {SESSIONS_AT_MOST} newest sessions.", "session", dict(found))

    def _scrubbed(self) -> _Family:
        found = self._scrub()
        names = ("sound", "healed", "damaged", "unsure")
        blobs = CounterMetricFamily("torpor_scrub_blobs", "Blobs read again, in the running pass.", labels=["result"])
        for name in names:
            if name in found:
                blobs.add_metric([name], found[name])
        yield blobs
        yield _gauge("torpor_scrub_read_bytes", "Bytes read again in the running pass.", found.get("read_bytes"))
        ended = found.get("last_pass_at") or found.get("ended_at")
        yield _gauge("torpor_scrub_last_pass_timestamp_seconds", "When the last whole pass ended.", ended)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    made = GaugeMetricFamily(name, text)
    if value is not None:
        made.add_metric([], value)
    return made


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    made = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        made.add_metric([key], value)
    return made
