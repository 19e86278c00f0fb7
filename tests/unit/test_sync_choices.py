"""What the user said of the second copy, the policy of KV caches, and what decides on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from support.pumping import MIB, add, backup_id
from torpor.daemon.endpoint import address_of
from torpor.daemon.sync_watcher import UPLOAD_KEY, SyncWatcher, prefill_key
from torpor.db.index import Index
from torpor.db.outbox import OutboxTable
from torpor.db.remembered import Remembered
from torpor.state.errors import BadInput, Offline, RemoteDenied, RemoteFailed
from torpor.state.fingerprint import Fingerprint
from torpor.state.kv_policy import Budget, KVPolicy, KVUpload, decide, parse_policy
from torpor.state.plan import TargetState
from torpor.state.rates import FETCH_KEY, rate_key
from torpor.state.sync_state import LONG_OFFLINE, LONG_OFFLINE_S, TELLING_AGAIN_S, later, next_trouble
from torpor.store.machine import machine_id
from torpor.store.sync_choices import SyncChoices, read_sync_choices, write_sync_choices
from torpor.sync.ports import Pushed
from torpor.sync.s3_client import S3Options

GIB = 1 << 30


def test_choices_outlive_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "sync.json"
    assert read_sync_choices(file) == SyncChoices()
    made = SyncChoices(10.0, 70.0, 2e6, None, "never", 5 * GIB)
    write_sync_choices(file, made)
    assert read_sync_choices(file) == made
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{", '{"up_limit": "fast", "kv_policy": "perhaps", "paused_at": -1}'])
def test_a_file_that_is_not_ours_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "sync.json").write_text(text)
    assert read_sync_choices(tmp_path / "sync.json") == SyncChoices()


def test_one_bad_value_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    (tmp_path / "sync.json").write_text('{"up_limit": true, "down_limit": 5, "kv_policy": "always"}')
    assert read_sync_choices(tmp_path / "sync.json") == SyncChoices(down_limit=5.0, kv_policy="always")


@pytest.mark.parametrize(
    ("choices", "now", "left"),
    [
        (SyncChoices(), 50.0, 0.0),
        (SyncChoices(100.0, 160.0), 130.0, 30.0),
        (SyncChoices(100.0, 160.0), 1e6, 0.0),
        (SyncChoices(100.0, 160.0), 5.0, 60.0),  # the clock was set back: no longer than was meant
        (SyncChoices(100.0, None), 1e6, None),
    ],
)
def test_how_long_a_pause_goes_on(choices: SyncChoices, now: float, left: float | None) -> None:
    assert choices.pause_left_s(now) == left


def test_a_home_keeps_its_id(tmp_path: Path) -> None:
    made = machine_id(tmp_path / "machine-id")
    assert made == machine_id(tmp_path / "machine-id")
    (tmp_path / "machine-id").write_text("not ours\n")
    other = machine_id(tmp_path / "machine-id")
    assert other != made
    assert len(other) == 16


@pytest.mark.parametrize(
    ("options", "address"),
    [
        (S3Options("b", "https://s3.example.org"), ("s3.example.org", 443)),
        (S3Options("b", "http://[::1]:9000"), ("::1", 9000)),
        (S3Options("b", region="eu-west-1"), ("s3.eu-west-1.amazonaws.com", 443)),
        (S3Options("b", "https://s3.example.org", proxy="http://proxy:3128"), None),
    ],
)
def test_where_a_connection_goes(
    options: S3Options, address: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert address_of(options) == address
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert address_of(S3Options("b", "https://s3.example.org")) is None
    monkeypatch.setenv("no_proxy", "example.org")
    assert address_of(S3Options("b", "https://s3.example.org")) == ("s3.example.org", 443)


# -- the policy -----------------------------------------------------------------------------------------------------

SLOW = KVUpload(4 * GIB, 32_000, download_s=400.0, prefill_s=30.0)
WORTH = KVUpload(4 * GIB, 32_000, download_s=30.0, prefill_s=400.0)


@pytest.mark.parametrize(
    ("policy", "upload", "budget", "goes", "words"),
    [
        ("auto", SLOW, Budget(), False, "30 s to compute its 32,000 tokens again, and 7 min to download: it is sooner"),
        ("auto", WORTH, Budget(), True, "it is worth its upload"),
        ("auto", KVUpload(4, 4, None, 1.0), Budget(), True, "download takes was not measured yet"),
        ("auto", KVUpload(4, 4, 1.0, None), Budget(), True, "prefill takes was not measured yet"),
        (
            "auto",
            KVUpload(4, 4, 3.0, 2.0, guessed=True),
            Budget(),
            False,
            "3.0 s to download (as fast as uploads were)",
        ),
        ("auto", KVUpload(4, 4, 2.0, 2.0), Budget(), True, "worth"),
        ("always", SLOW, Budget(), True, "`always`"),
        ("never", WORTH, Budget(), False, "`never`"),
        ("always", WORTH, Budget(5 * GIB, 2 * GIB), False, "3.0 GiB of today's budget are left; tomorrow it goes"),
        ("auto", WORTH, Budget(5 * GIB, GIB), True, "worth"),
        ("auto", WORTH, Budget(3 * GIB), False, "4.0 GiB is more than the daily budget of 3.0 GiB"),
        ("auto", SLOW, Budget(9 * GIB, 8 * GIB), False, "sooner computed"),
    ],
)
def test_the_policy_and_its_reason(policy: KVPolicy, upload: KVUpload, budget: Budget, goes: bool, words: str) -> None:
    decision = decide(policy, upload, budget)
    assert decision.goes is goes
    assert words in decision.reason


def test_a_policy_is_checked() -> None:
    assert parse_policy("auto") == "auto"
    with pytest.raises(BadInput, match="not a policy"):
        parse_policy("perhaps")


def test_a_trouble_of_the_same_kind_goes_on_and_waits_longer() -> None:
    first = next_trouble(None, RemoteFailed("500"), wall=10.0, steady=5.0, random=lambda: 1.0)
    second = next_trouble(first, RemoteFailed("502"), wall=20.0, steady=10.0, random=lambda: 0.0)
    assert (first.since, first.retry_at, second.since, second.retry_at, second.detail) == (10, 10, 10, 15, "502")
    other = next_trouble(second, Offline("gone"), wall=30.0, steady=10.0, random=lambda: 1.0)
    assert (other.name, other.since, other.tries) == ("offline", 30.0, 0)


def test_who_is_offline_for_long_looks_seldom() -> None:
    trouble = next_trouble(None, Offline("gone"), wall=0.0, steady=0.0, random=lambda: 1.0)
    at, delays = 0.0, list[float]()
    for _ in range(LONG_OFFLINE + 2):
        delays.append(trouble.retry_at - at)
        at = trouble.retry_at
        trouble = later(trouble, steady=at, random=lambda: 1.0)
    assert delays[:5] == [3.0, 4.5, 6.75, 10.0, 10.0]
    assert delays[-2:] == [10.0, LONG_OFFLINE_S]


class Desk:
    """A watcher over a real index."""

    def __init__(self, index: Index) -> None:
        self.index, self.outbox, self.remembered = index, OutboxTable(index), Remembered(index)
        self.choices, self.now = SyncChoices(), 1_700_000_000.0
        self.watcher = SyncWatcher(index, self.outbox, self.remembered, lambda: self.choices, lambda: self.now)

    def rate(self, key: str, units: int, seconds: float, device: str = "cuda") -> None:
        rows = [[units, seconds, 0, "cpu"], [units, seconds, 0, device]]
        self.remembered.put("rate", key, orjson.dumps(rows).decode(), now=self.now)

    def kinds(self) -> list[object]:
        return [event["kind"] for event in self.index.recent_events()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    index = Index(tmp_path / "index.sqlite")
    yield Desk(index)
    index.close()


def test_the_sdks_name_of_a_prefill_is_ours() -> None:
    for weights in ("a digest", None):
        target = TargetState(Fingerprint(weights=weights))
        assert prefill_key(weights) == rate_key("prefill", target.fingerprint)


def test_measured_rates_decide_with_the_text(desk: Desk) -> None:
    """The KV cache is decided with its text, so that the first record says already why it is not there."""
    add(desk.index, 1, "s", 1.0, {"kv_cache": 90 * MIB})
    backup = desk.index.backup(backup_id(1))
    desk.rate(prefill_key(backup.weights_hash), 66, 1.0)
    [text] = desk.outbox.lease(10.0, "me", 20.0)
    assert desk.watcher.kept_back(text) is None
    assert desk.outbox.left_out(text.backup_id, ["text"]) == {"kv": "it was not sent yet"}
    desk.rate(FETCH_KEY, MIB, 1.0)
    assert desk.watcher.kept_back(text) is None
    [reason] = desk.outbox.left_out(text.backup_id, ["text"]).values()
    assert "66 tokens again, and 90 s to download" in reason or "2 min to download" in reason
    desk.outbox.reconsider()
    desk.choices = SyncChoices(kv_policy="always")
    [kv] = desk.outbox.lease(10.0, "me", 20.0)
    assert desk.watcher.kept_back(kv) is None


def test_uploads_are_measured_and_counted(desk: Desk) -> None:
    add(desk.index, 1, "s", 1.0, {"kv_cache": 90 * MIB})
    [text] = desk.outbox.lease(10.0, "me", 20.0)
    [kv] = desk.outbox.lease(10.0, "me", 20.0)
    desk.watcher.pushed((text,), Pushed(100, 0, ("text",)), 1.0)
    assert desk.remembered.get("rate", UPLOAD_KEY, now=desk.now) is None  # too little to tell
    desk.watcher.pushed((kv,), Pushed(60 * MIB, 0, ("text", "kv")), 9.0)
    assert desk.remembered.get("rate", UPLOAD_KEY, now=desk.now) == f'[[{90 * MIB},9.0,0,""]]'
    assert desk.watcher.used_today() == 60 * MIB
    desk.choices = SyncChoices(kv_daily_bytes=100 * MIB)
    assert "40.0 MiB of today's budget are left" in (desk.watcher.kept_back(kv) or "")
    desk.now += 86_400
    assert (desk.watcher.used_today(), desk.watcher.kept_back(kv)) == (0, None)


def test_events_are_those_worth_knowing(desk: Desk) -> None:
    def trouble(error: Offline | RemoteDenied) -> None:
        found = next_trouble(None, error, wall=desk.now, steady=0.0, random=lambda: 1.0)
        desk.watcher.troubled(found, None)
        desk.watcher.troubled(None, found)

    for _ in range(5):
        trouble(Offline("no route"))  # a train ride
        desk.now += 60
    assert desk.kinds() == ["sync-well", "sync-offline"]
    desk.now += TELLING_AGAIN_S
    trouble(RemoteDenied("403"))
    trouble(Offline("no route"))
    assert desk.kinds()[:4] == ["sync-well", "sync-offline", "sync-well", "sync-denied"]
    assert desk.index.recent_events()[3]["level"] == "warning"
