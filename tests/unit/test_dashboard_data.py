"""What the dashboard shows of a home: storage, activity, health, plans; asked as the page asks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from starlette.testclient import TestClient
from support.bucket_daemon import AS_OWNER, URL, BucketDaemon
from support.manifests import manifest
from torpor.daemon import plan_api
from torpor.db.presence import note_present
from torpor.state.ids import parse_digest
from torpor.state.manifest import BlobRef

NOW = time.time()


def backup_id(number: int) -> str:
    return f"01M81P35719XNDZ4R57NMV{number:04d}"


class Page:
    """A daemon in this process with some backups, and who asks it."""

    def __init__(self, folder: Path) -> None:
        self.daemon = BucketDaemon(folder / "home")
        options: Any = {"base_url": URL, "headers": AS_OWNER}
        self.client = TestClient(self.daemon.gate(), raise_server_exceptions=False, **options)

    def blob(self, data: bytes) -> BlobRef:
        ref = BlobRef(parse_digest(blake3(data).hexdigest()), len(data))
        if not self.daemon.catalog.blobs.has(ref):
            path = self.daemon.catalog.staging.new_path()
            path.write_bytes(data)
            self.daemon.catalog.blobs.publish(path, ref, set())
        return ref

    def save(self, number: int, session: str, *datas: bytes, layer: str = "vision_cache", **changes: Any) -> None:
        refs = [self.blob(data) for data in datas]
        tree = {str(n): leaf(ref) for n, ref in enumerate(refs)}
        layers = {"metadata": {}, "text_context": {"messages": []}, "media": [], layer: tree}
        values: dict[str, Any] = {"kv_cache": None, "layers": layers, "created_at": NOW - 100 + number} | changes
        self.daemon.catalog.commit_all([manifest(id=backup_id(number), session_id=session, **values)])

    def __call__(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        answer = self.client.request(method, f"/v1/{path}", **options)
        assert answer.status_code == status, answer.text
        return answer.json()


def leaf(ref: BlobRef) -> dict[str, Any]:
    block = {"digest": ref.digest, "size_bytes": ref.size_bytes}
    return {"$tensor": {"shape": [ref.size_bytes], "dtype": "uint8", "kind": "torch", "blocks": [block]}}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    before = os.umask(0o077)
    made = Page(tmp_path_factory.mktemp("page"))
    shared = os.urandom(70_000)
    made.save(1, "small", os.urandom(10_000))
    made.save(2, "large", shared, os.urandom(50_000))
    made.save(3, "large", shared)
    made.save(4, "fork", shared, parent_id=backup_id(3))
    yield made
    made.daemon.close()
    os.umask(before)


def surveyed(page: Page) -> Any:
    until = time.monotonic() + 20
    while (found := page("GET", "storage"))["surveyed_ago_s"] is None:
        assert time.monotonic() < until
    return found


def test_storage_says_who_takes_what(page: Page) -> None:
    found = surveyed(page)
    classes = {each["name"]: each["size_bytes"] for each in found["classes"]}
    assert classes["vision_cache"] == 130_000
    assert sum(classes.values()) == found["used_bytes"]
    assert found["used_bytes"] <= found["soft_bytes"] <= found["hard_bytes"] < found["disk_bytes"]
    assert [each["session_id"] for each in found["sessions"]] == ["large", "fork", "small"]
    large, fork, small = found["sessions"]
    assert (large["backups"], large["shared_bytes"], fork["shared_bytes"], small["shared_bytes"]) == (
        2,
        70_000,
        70_000,
        0,
    )
    assert 120_000 < large["size_bytes"] < 122_000 < 190_000 < large["logical_bytes"] < 192_000
    dedupe = found["dedupe"]
    assert dedupe["ratio"] == pytest.approx((130_000 + 140_000) / 130_000, rel=0.02)
    assert dedupe["stored_bytes"] < dedupe["logical_bytes"]


def test_what_would_go_next_is_in_the_order_in_which_it_goes(page: Page) -> None:
    found = surveyed(page)["next_to_go"]
    assert found["over_bytes"] == 0
    assert [(each["backup_id"], each["tier"], each["size_bytes"]) for each in found["items"]] == [
        (backup_id(2), "ordinary", 50_000),
        (backup_id(1), "newest", 10_000),
        (backup_id(4), "newest", 70_000),
    ]
    assert {each["kind"] for each in found["items"]} == {"rebuildable"}
    assert found["evictable_bytes"] == 130_000
    assert not any(each["goes_now"] for each in found["items"])


def test_what_another_quota_would_let_go_of(page: Page) -> None:
    surveyed(page)
    used = page("GET", "storage")["used_bytes"]

    def under(quota: str) -> dict[str, Any]:
        found = page("GET", "storage", params={"quota": quota})["next_to_go"]
        assert isinstance(found, dict)
        return found

    soft = 10_000_000 * 9 // 10
    assert under("10000000")["going"] == {"steps": 0, "size_bytes": 0, "short_bytes": 0}
    assert used < soft
    some = under(str((used - 55_000) * 10 // 9))  # the soft limit is nine tenths of it
    assert 0 < some["over_bytes"] <= 130_000
    assert some["going"]["short_bytes"] == 0
    assert [item["goes_now"] for item in some["items"]] == [sum_ < some["over_bytes"] for sum_ in (0, 50_000, 60_000)]
    assert some["going"]["steps"] == sum(item["goes_now"] for item in some["items"])
    all_of_it = under("0")
    assert all_of_it["going"]["size_bytes"] == all_of_it["evictable_bytes"] == 130_000
    assert all_of_it["going"]["short_bytes"] == all_of_it["over_bytes"] - 130_000
    assert page("GET", "storage", 422, params={"quota": "much"})["code"] == "invalid-settings"


def test_what_is_too_much_goes_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_QUOTA", "8MiB")
    monkeypatch.setenv("TORPOR_SOFT_QUOTA", "10%")
    before, page = os.umask(0o077), Page(tmp_path)
    for number in range(3):
        page.save(number, f"s{number}", os.urandom(300_000))
    found = surveyed(page)["next_to_go"]
    over = found["over_bytes"]
    assert over > 0
    sizes = [0, 300_000, 600_000]
    assert [each["goes_now"] for each in found["items"]] == [size < over for size in sizes]
    page.daemon.close()
    os.umask(before)


def test_activity_counts_what_was_saved_today(page: Page) -> None:
    found = page("GET", "activity", params={"days": 3, "zone": "Asia/Shanghai"})
    assert [len(found["points"]), found["step_s"]] == [3, 86_400]
    assert sum(point["backups"] for point in found["points"]) == 4
    hours = page("GET", "activity", params={"days": 2, "step": "hour"})
    assert sum(point["backups"] for point in hours["points"]) == 4
    assert hours["points"][1]["at"] - hours["points"][0]["at"] == 3600


@pytest.mark.parametrize("zone", ["", "America", "../../etc/passwd", "/etc/passwd", "a\0b", "Mars/Olympus"])
def test_what_is_no_time_zone_is_refused(page: Page, zone: str) -> None:
    assert page("GET", "activity", 422, params={"zone": zone})["code"] == "bad-input"


def test_days_by_the_hour_have_an_end(page: Page) -> None:
    assert page("GET", "activity", 422, params={"days": 32, "step": "hour"})["code"] == "bad-input"


def examined(page: Page) -> dict[str, Any]:
    until = time.monotonic() + 20
    while (found := page("GET", "doctor"))["state"] != "done":
        assert time.monotonic() < until
    assert isinstance(found, dict)
    return found


def test_the_doctor_looks_in_the_running_daemon(page: Page) -> None:
    assert page("GET", "doctor")["state"] == "never"
    assert page("POST", "doctor", 202)["began"]
    found = examined(page)
    assert found["done"] == found["total"] > 10
    assert found["counts"]["error"] == 0
    assert {"home", "index", "disk", "versions", "second copy"} <= {check["name"] for check in found["checks"]}
    open_file = page.daemon.home.logs / "open"
    open_file.write_text("for everybody")
    open_file.chmod(0o644)
    page("POST", "doctor", 202)
    wrong = [check for check in examined(page)["checks"] if check["status"] == "error"]
    assert [(check["name"], check["fixable"]) for check in wrong] == [("permissions", True)]
    page("POST", "doctor/fix", 202, json={"names": ["permissions"]})
    mended = examined(page)
    assert mended["fixed"]["permissions"].startswith("closed 1 file")
    assert mended["counts"]["error"] == 0
    assert open_file.stat().st_mode & 0o077 == 0


def test_a_plan_is_told_before_anybody_restores(page: Page) -> None:
    found = page("GET", f"backups/{backup_id(2)}/plan")
    assert (found["mode"], found["exact"], found["tokens_prefill"]) == ("full", False, 66)
    assert found["sentence"] == ", ".join(found["words"])
    assert [phrase["code"] for phrase in found["phrases"]] == ["as-stored", "prefill", "seconds-unknown", "assumed"]
    assert page("GET", f"backups/{backup_id(99)}/plan", 404)["code"] == "backup-not-found"


def test_a_plan_counts_what_is_not_here(page: Page) -> None:
    only = os.urandom(333)
    page.save(50, "gone", only)
    page.daemon.catalog.blobs.path(blake3(only).hexdigest()).unlink()
    with page.daemon.catalog.index.writing() as connection:
        note_present(connection, [blake3(only).hexdigest()], present=False)
    found = page("GET", f"backups/{backup_id(50)}/plan")
    assert (found["mode"], found["bytes_read"]) == ("media", 0)
    assert found["layers"]["vision_cache"]["decision"] == "rebuild"


def test_a_removal_is_taken_back_over_http(page: Page) -> None:
    page.save(60, "undone")
    page("PATCH", f"backups/{backup_id(60)}", json={"pinned": True})
    page("PATCH", "sessions/undone", json={"title": "mine"})
    before = page("GET", f"backups/{backup_id(60)}")
    manifest_json = page.client.get(f"/v1/backups/{backup_id(60)}/manifest").content
    for way in ("POST", "PUT"):
        assert page.client.delete(f"/v1/backups/{backup_id(60)}").status_code == 204
        assert page("GET", f"backups/{backup_id(60)}", 404)["code"] == "backup-not-found"
        if way == "POST":
            back = page("POST", f"backups/{backup_id(60)}/undo-removal", 201)
        else:
            back = page("PUT", f"backups/{backup_id(60)}", 201, content=manifest_json)
        assert back | {"remote": before["remote"]} == before
    assert page.client.delete(f"/v1/backups/{backup_id(60)}", params={"purge": True}).status_code == 200
    assert page("POST", f"backups/{backup_id(60)}/undo-removal", 404)["code"] == "backup-not-found"


def test_restores_are_counted_and_told(page: Page) -> None:
    report = {"mode": "full", "seconds": 0.25, "backup_id": backup_id(1)}
    assert page.client.post("/v1/restored", json=report).status_code == 204
    assert page.client.post("/v1/restored", json={"mode": "full", "seconds": 0.25}).status_code == 204
    assert page("POST", "restored", 422, json=report | {"backup_id": "../.."})["code"] == "invalid-id"
    told = [event for event in page("GET", "events")["events"] if event["kind"] == "restored"]
    assert [(event["detail"], event["backup_id"]) for event in told] == [
        ("full in 0.25 s", None),
        ("full in 0.25 s", backup_id(1)),
    ]


def test_a_process_that_does_not_answer_is_not_waited_for(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_api, "ASK_S", 0.05)
    about = {"name": "silent", "pid": 1, "model": None, "sessions": ["large"]}
    assert page.client.put(f"/v1/attached/{backup_id(7)}", json=about).status_code < 300
    found = page("GET", f"backups/{backup_id(2)}/plan")
    assert (found["mode"], found["exact"]) == ("full", False)
    assert page.client.delete(f"/v1/attached/{backup_id(7)}").status_code == 204
