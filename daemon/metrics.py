"""What is counted, as Prometheus has it: a registry of the daemon's own, behind the token like every route.

What happens is counted here as it happens; what is, is looked up when somebody asks (daemon/metric_states.py). Labels
have few values each, so that a scrape stays small: of sessions, only the newest have a series of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ..state.errors import TorporError
from ..state.plan import MODES
from ..state.timing import Timing

SUCCESS = "success"
_QUICK_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each of ours, and nobody asks for it


class Metrics:
    """Counts. Safe to call from several threads; no call fails or waits."""

    def __init__(self, version: str = "", started_at: float = 0.0) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        build = self._gauge("build_info", "The running version.", "version")
        build.labels(version).set(1)
        self._gauge("start_timestamp_seconds", "When the daemon started.").set(started_at)
        self._backups = self._counter("backups", "Commits of a backup, by what became of them.", "result")
        self._backups.labels(SUCCESS)
        self._saves = self._seconds("save", "From `save` to committed and durable.", _LONG_S)
        self._stalls = self._seconds("stall", "How long `save` held its caller.", _QUICK_S)
        self._commits = self._seconds("commit", "A commit in the daemon.", _QUICK_S)
        self._restores = self._seconds("restore", "Restores, by the mode they ended in.", _LONG_S, "mode")
        self._requests = self._counter("http_requests", "Answers of the API.", "method", "status")
        self._request_s = self._seconds("http_request", "Answers of the API.", _LONG_S, "route")
        self._chores = self._seconds("chore", "What is done by the way.", _LONG_S, "chore")
        self._freed = self._counter("freed_bytes", "Let go of by TTL, for room, or unlinked as garbage.", "by")
        self._chore_failures = self._counter("chore_failures", "Chores that failed.", "chore")
        self._chore_success = self._gauge(
            "chore_last_success_timestamp_seconds", "When a chore last ended well.", "chore"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"torpor_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"torpor_{name}", text, labels, registry=self._registry)

    def _seconds(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"torpor_{name}_seconds", text, labels, buckets=buckets, registry=self._registry)

    def add(self, collector: Collector) -> None:
        """Ask `collector`, too, at every scrape."""
        self._registry.register(collector)

    def committed(self, count: int, took_s: float, timing: Timing | None) -> None:
        """Count a commit of some backups, and what the SDK says of the save that led to it."""
        self._backups.labels(SUCCESS).inc(count)
        self._commits.observe(took_s)
        if timing is not None:
            self._saves.observe(timing.save_s + took_s)
            self._stalls.observe(timing.stall_s)

    def refused(self, error: BaseException) -> None:
        """Count a commit that failed."""
        self._backups.labels(error.code if isinstance(error, TorporError) else "defect").inc()

    def restored(self, mode: str, took_s: float) -> None:
        """Count a restore."""
        self._restores.labels(mode if mode in MODES else "other").observe(took_s)

    def answered(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count an answer of the API; `route` is the pattern, never a path that somebody chose."""
        self._requests.labels(method if method in _METHODS else "other", str(status)).inc()
        self._request_s.labels(route).observe(took_s)

    def chore(self, name: str, took_s: float, well: bool) -> None:
        """Count a turn of a chore."""
        self._chores.labels(name).observe(took_s)
        if well:
            self._chore_success.labels(name).set_to_current_time()
        else:
            self._chore_failures.labels(name).inc()

    def freed(self, by: str, size_bytes: int) -> None:
        """Count what was let go of, or unlinked."""
        self._freed.labels(by).inc(max(size_bytes, 0))

    def page(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """Return one sample; None where there is none."""
        return self._registry.get_sample_value(name, dict(labels or {}))


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
