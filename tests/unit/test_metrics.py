"""Metrics: what is counted, what is looked up, and that the dashboard and the alerts speak of what there is."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert
from torpor.daemon.metric_states import SESSIONS_AT_MOST, StateMetrics
from torpor.daemon.metrics import Metrics
from torpor.daemon.metrics_api import add_metrics
from torpor.db.index import Index
from torpor.db.schema import remote_objects
from torpor.state.backup import Backup
from torpor.state.errors import BadInput, StoreFailed, StoreFull
from torpor.state.plan import MODES
from torpor.state.timing import Timing, parse_timing
from ulid import ULID

PACKAGING = Path(__file__).parents[2] / "packaging"
NOW = 5000.0
Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.sqlite")
    yield opened
    opened.close()


def samples(page: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def full(index: Index, tmp_path: Path, **readings: Any) -> Metrics:
    """Everything has happened once."""
    metrics = Metrics("1.2", NOW)
    metrics.add(StateMetrics(index, str(tmp_path), lambda: NOW, **readings))
    metrics.committed(2, 0.03, Timing(0.2, 0.001))
    metrics.refused(StoreFull("no room"))
    metrics.restored("full", 1.5)
    metrics.answered("PUT", "/v1/backups/{backup_id}", 201, 0.02)
    metrics.chore("garbage", 0.1, True)
    metrics.chore("scrub", 0.1, False)
    metrics.freed("garbage", 100)
    return metrics


def save(index: Index, session_id: str, at: float, blobs: dict[str, tuple[int, str]]) -> None:
    total = sum(size for size, _ in blobs.values())
    record = Backup(
        id=str(ULID()), session_id=session_id, parent_id=None, created_at=at, expires_at=at + 10, pinned=False,
        adapter="a", model_name=None, weights_hash=None, encoder_hash=None, tokenizer_hash=None,
        layers=("text", *{layer for _, layer in blobs.values()}), tokens=1, bytes_total=total, bytes_written=total,
        manifest_digest="ab" * 32, manifest_bytes=10, title=None,
    )  # fmt: skip
    index.commit_backup(record, blobs, now=at, enqueue=True)


def test_what_happened_is_counted(index: Index, tmp_path: Path) -> None:
    found = samples(full(index, tmp_path).page())
    assert found["torpor_backups_total"] == [({"result": "success"}, 2.0), ({"result": "store-full"}, 1.0)]
    assert found["torpor_save_seconds_sum"] == [({}, pytest.approx(0.23))]
    assert found["torpor_stall_seconds_sum"] == [({}, pytest.approx(0.001))]
    assert found["torpor_commit_seconds_count"] == [({}, 1.0)]
    assert found["torpor_restore_seconds_sum"] == [({"mode": "full"}, 1.5)]
    assert found["torpor_http_requests_total"] == [({"method": "PUT", "status": "201"}, 1.0)]
    assert found["torpor_chore_failures_total"] == [({"chore": "scrub"}, 1.0)]
    assert [labels for labels, _ in found["torpor_chore_last_success_timestamp_seconds"]] == [{"chore": "garbage"}]
    assert found["torpor_build_info"] == [({"version": "1.2"}, 1.0)]


def test_labels_are_few(index: Index, tmp_path: Path) -> None:
    """What others choose makes no series: a mode, a method, an error that nobody knows, a thousand sessions."""
    metrics = full(index, tmp_path)
    for number in range(SESSIONS_AT_MOST + 20):
        metrics.restored(f"mode-{number}", 1.0)
        metrics.answered(f"METHOD{number}", "none", 405, 0.0)
        metrics.refused(ValueError(number))
        save(index, f"s{number}", NOW + number, {f"{number:064x}": (10, "kv_cache")})
    found = samples(metrics.page())
    assert len(found["torpor_restore_seconds_count"]) <= len(MODES) + 1
    assert {labels["method"] for labels, _ in found["torpor_http_requests_total"]} == {"PUT", "other"}
    assert {labels["result"] for labels, _ in found["torpor_backups_total"]} == {"success", "store-full", "defect"}
    last = found["torpor_session_last_success_timestamp_seconds"]
    assert len(last) == SESSIONS_AT_MOST
    assert last[0] == ({"session": f"s{SESSIONS_AT_MOST + 19}"}, NOW + SESSIONS_AT_MOST + 19)


def test_what_is_there_is_looked_up(index: Index, tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.add(StateMetrics(index, str(tmp_path), lambda: NOW + 60, remote_state=lambda: "offline"))
    found = samples(metrics.page())
    assert found["torpor_backups_stored"] == [({}, 0.0)]
    assert "torpor_dedupe_ratio" not in found  # of nothing
    assert "torpor_last_backup_timestamp_seconds" not in found
    for session_id in ("a", "b", "c"):
        save(index, session_id, NOW, {"aa" * 32: (1000, "kv_cache"), "bb" * 32: (200, "media")})
    found = samples(metrics.page())
    assert found["torpor_backups_stored"] == [({}, 3.0)]
    assert found["torpor_dedupe_ratio"] == [({}, 3.0)]
    assert sorted((labels["layer"], value) for labels, value in found["torpor_blob_bytes"]) == [
        ("kv_cache", 1000.0),
        ("media", 200.0),
    ]
    assert found["torpor_outbox_oldest_age_seconds"] == [({}, 60.0)]
    assert {labels["state"]: value > 0 for labels, value in found["torpor_outbox_items"]} == {
        "pending": True, "leased": False, "dead": False, "held": False,
    }  # fmt: skip
    assert found["torpor_remote_state"] == [({"state": "offline"}, 1.0)]
    assert found["torpor_metric_errors"] == [({}, 0.0)]


def test_a_figure_that_cannot_be_had_takes_no_other_with_it(index: Index, tmp_path: Path) -> None:
    def broken() -> dict[str, int]:
        raise StoreFailed("the disk does not answer")

    found = samples(full(index, tmp_path, usage=broken).page())
    assert found["torpor_metric_errors"] == [({}, 1.0)]
    assert "torpor_store_bytes" not in found
    assert "torpor_outbox_items" in found


@pytest.mark.parametrize(
    "text", ["", "save=1", "save=1; stall=x", "save=-1; stall=0", "save=nan; stall=0", "save=1e9; stall=0"]
)
def test_a_timing_that_is_none(text: str) -> None:
    with pytest.raises(BadInput):
        parse_timing(text)


def test_a_timing_comes_back() -> None:
    assert parse_timing(Timing(1.25, 0.5).to_header()) == Timing(1.25, 0.5)


# -- the dashboard and the alerts -------------------------------------------------------------------------------------


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression, and where it stands."""
    rules = yaml.safe_load((PACKAGING / "prometheus" / "torpor.rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert set(rule["annotations"]) == {"summary", "action"}
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
            yield rule["alert"], rule["expr"]
    board = orjson.loads((PACKAGING / "grafana" / "torpor.json").read_bytes())
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def known(index: Index, tmp_path: Path) -> dict[str, set[str]]:
    """Every series with the names of its labels."""
    blobs = {"aa" * 32: (1000, "kv_cache")}
    save(index, "s", NOW, blobs)
    scrub = dict.fromkeys(("sound", "healed", "damaged", "unsure", "read_bytes", "last_pass_at"), 1)
    with index.writing() as connection:
        row = {"name": "x", "digest": bytes(32), "size_bytes": 100, "stored_bytes": 50}
        connection.execute(insert(remote_objects).values(row))
    readings = {"usage": lambda: {"blobs": 1}, "limits": lambda: {"hard": 9}, "scrub": lambda: scrub}
    found = samples(full(index, tmp_path, **readings).page())
    return {name: {key for labels, _ in each for key in labels} for name, each in found.items()}


FUNCTIONS = {"time", "sum", "max", "rate", "increase", "changes", "histogram_quantile", "by", "on", "and"}
TEXT, NAME = re.compile(r'"[^"]*"|\$\w+|\[[^\]]*\]'), re.compile(r"[a-zA-Z_]\w*")


def test_dashboard_and_alerts_name_what_there_is(index: Index, tmp_path: Path) -> None:
    """Every metric, every label, every function; a name that nothing has would show nothing, and never alert."""
    series = known(index, tmp_path) | {"up": {"job"}}
    seen: set[str] = set()
    for where, text in expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert text.count(opening) == text.count(closing), where
        mine: set[str] = {"instance"}
        for name, labels in re.findall(r"([a-z_]\w*)\{([^}]*)\}", text):
            assert name in series, f"{where}: nothing is called {name}"
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", TEXT.sub('""', labels)))
            assert used <= series[name] | {"instance"}, f"{where}: {name} has no label {used}"
        bare = TEXT.sub("", re.sub(r"\{[^}]*\}", "", text))
        for name in (names := set(NAME.findall(bare)) & set(series)):
            mine |= series[name]
        seen |= names
        grouped = {label for some in re.findall(r"(?:by|on)\s*\(([^)]*)\)", bare) for label in NAME.findall(some)}
        assert grouped <= mine, f"{where}: {grouped - mine}"
        rest = set(NAME.findall(re.sub(r"(?:by|on)\s*\([^)]*\)", "", bare))) - names
        assert rest <= FUNCTIONS, f"{where}: {rest - FUNCTIONS}"
        assert names, where
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in seen}
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in series if name.startswith("torpor_")}
    assert families - shown == {"torpor_blobs_stored", "torpor_outbox_bytes"}  # nobody looks at these alone


def test_legends_name_labels_that_are_there(index: Index, tmp_path: Path) -> None:
    board, series = orjson.loads((PACKAGING / "grafana" / "torpor.json").read_bytes()), known(index, tmp_path)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        for target in panel["targets"]:
            labels = {label for name in set(NAME.findall(target["expr"])) & set(series) for label in series[name]}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels, panel["title"]


class Slow(Metrics):
    """Metrics that take their time, and count how often they are looked up."""

    looks = 0

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def page(self) -> bytes:
        self.looks += 1
        self.go.wait(20)
        return super().page()


def test_many_who_scrape_at_once_take_one_thread() -> None:
    metrics, app = Slow(), FastAPI()
    add_metrics(app, metrics, lambda detail, backup_id: None)

    async def scrape() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            scrapes = [asyncio.create_task(client.get("/metrics")) for _ in range(60)]
            for _ in range(200):
                await asyncio.sleep(0)
            assert await run_in_threadpool(lambda: "served") == "served"  # the others have threads still
            metrics.go.set()
            answers = await asyncio.gather(*scrapes)
            assert (await client.get("/metrics")).text.startswith("# HELP")
            return [answer.status_code for answer in answers]

    assert asyncio.run(scrape()) == [200] * 60
    assert metrics.looks == 2
