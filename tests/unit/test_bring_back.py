"""The routes of what comes back: finding and adopting backups of the bucket, fetching them, waiting for blobs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import delete
from support.bucket_daemon import AS_OWNER, URL, BucketDaemon, Elsewhere
from support.faulty_bucket import Get
from torpor.daemon.remote_backups import FRESH_S
from torpor.db.remembered import Remembered
from torpor.db.schema import remote_objects
from torpor.state.errors import Offline, RemoteDenied, TorporError
from torpor.state.manifest import BlobRef, Manifest, manifest_blobs
from torpor.state.problems import from_problem
from torpor.state.rates import from_rows

WAIT_S = 30


class Client:
    """Sends requests to the application, in this process."""

    def __init__(self, daemon: BucketDaemon, **parts: Any) -> None:
        self.daemon, self.app = daemon, daemon.gate(**parts)

    async def open(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=URL, headers=AS_OWNER, timeout=WAIT_S)

    def __call__(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Return the JSON of an answer. Raises: what a problem says."""

        async def ask() -> httpx.Response:
            async with await self.open() as client:
                return await client.request(method, path, **options)

        answer = asyncio.run(ask())
        found: dict[str, Any] = answer.json()
        if answer.is_error:
            raise from_problem(found)
        return found

    def ended(self, fetch: dict[str, Any]) -> dict[str, Any]:
        until = time.monotonic() + WAIT_S
        while fetch["state"] == "running":
            assert time.monotonic() < until
            fetch = self("GET", f"/v1/fetches/{fetch['id']}")
        return fetch


@pytest.fixture
def here(tmp_path: Path) -> Iterator[BucketDaemon]:
    made = BucketDaemon(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def elsewhere(here: BucketDaemon) -> Elsewhere:
    return Elsewhere(here.bucket)


@pytest.fixture
def call(here: BucketDaemon, elsewhere: Elsewhere) -> Client:
    return Client(here)


def raises(code: str, call: Callable[[], object]) -> TorporError:
    with pytest.raises(TorporError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


def whole(daemon: BucketDaemon, made: Manifest, elsewhere: Elsewhere) -> bool:
    refs = [BlobRef(digest, size) for digest, (size, _) in manifest_blobs(made).items()]
    return all(bytes(daemon.catalog.blobs.read(ref)) == elsewhere.blobs[ref.digest] for ref in refs)


@pytest.mark.parametrize("how", ["id", "end", "session"])
def test_a_backup_that_only_the_bucket_has_is_found_and_adopted(call: Client, elsewhere: Elsewhere, how: str) -> None:
    for number in (1, 3, 2):
        made = elsewhere.save(number, title="far away")
    newest = f"01M81P35719XNDZ4R57NMV{3:04d}"
    ref = {"id": made.id, "end": made.id[-6:], "session": "s"}[how]
    found = call("GET", f"/v1/backups/{ref}")
    assert found["id"] == (newest if how == "session" else made.id)
    assert (found["title"], found["absent_bytes"]) == ("far away", 3003)
    assert [b["id"] for b in call("GET", "/v1/backups")["backups"]] == [found["id"]]
    assert call("GET", f"/v1/backups/{found['id']}/manifest")["session_id"] == "s"


def test_one_id_is_found_without_reading_all_records(call: Client, elsewhere: Elsewhere) -> None:
    for number in range(30):
        made = elsewhere.save(number, blobs=0)
    before = len(elsewhere.bucket.gets)
    call("GET", f"/v1/backups/{made.id}")
    assert sum(get.name.startswith("manifests/") for get in elsewhere.bucket.gets[before:]) == 2


def test_what_is_nowhere_is_not_found(call: Client, elsewhere: Elsewhere) -> None:
    elsewhere.save(1)
    raises("backup-not-found", lambda: call("GET", "/v1/backups/01M81P35719XNDZ4R57NMV6DYZ"))
    raises("session-not-found", lambda: call("GET", "/v1/backups/nobody"))
    raises("session-not-found", lambda: call("GET", "/v1/backups/ZZZZ"))
    assert call("GET", "/v1/backups")["backups"] == []


def test_an_end_that_several_have_is_not_guessed(call: Client, elsewhere: Elsewhere) -> None:
    elsewhere.save(1)
    other = elsewhere.save(2)
    third = replace(other, id="01M81P35719XNDZ4R57WMV0002")
    elsewhere.write(third, [])
    raises("ambiguous-id", lambda: call("GET", "/v1/backups/MV0002"))
    assert call("GET", "/v1/backups/WMV0002")["id"] == third.id


def test_offline_says_so(call: Client, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1)
    elsewhere.bucket.fault = lambda get: Offline("no route to host")
    for ref in (made.id, "s", "other"):
        error = raises("offline", lambda ref=ref: call("GET", f"/v1/backups/{ref}"))  # type: ignore[misc]
        assert "is not on this machine" in error.detail
    raises("session-not-found", lambda: call("GET", "/v1/backups/s?ask=false"))


def test_what_is_here_asks_nobody(call: Client, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1)
    call("GET", "/v1/backups/s")
    before = len(elsewhere.bucket.gets)
    elsewhere.bucket.fault = lambda get: Offline("no route to host")
    assert call("GET", "/v1/backups/s")["id"] == call("GET", f"/v1/backups/{made.id}")["id"] == made.id
    assert len(elsewhere.bucket.gets) == before


def test_many_unknown_names_are_one_look(call: Client, elsewhere: Elsewhere) -> None:
    elsewhere.save(1)
    for n in range(20):
        raises("session-not-found", lambda n=n: call("GET", f"/v1/backups/nobody-{n}"))  # type: ignore[misc]
    assert FRESH_S > 1
    assert sum(get.name.startswith("manifests/") for get in elsewhere.bucket.gets) == 1


def test_the_listing_names_what_is_there_and_what_cannot_be_read(call: Client, elsewhere: Elsewhere) -> None:
    first, second = elsewhere.save(1), elsewhere.save(2, session="t", title="two")
    twice = Elsewhere(elsewhere.bucket, "b" * 16)
    twice.write(second, [])
    bad = elsewhere.write(elsewhere.save(3), [])
    raw = elsewhere.bucket.server.objects[bad]
    elsewhere.bucket.server.objects[bad] = type(raw)(raw.data[:-9] + b"?" + raw.data[-8:], raw.modified_at)
    call("GET", f"/v1/backups/{first.id}")
    found = call("GET", "/v1/remote/backups")
    assert [(b["session_id"], b["here"]) for b in found["backups"]] == [("s", False), ("t", False), ("s", True)]
    assert found["backups"][1]["machines"] == ["a" * 16, "b" * 16]
    assert found["backups"][1]["stages"] == ["text", "vision"]
    assert [(u["record"], u["problem"]["code"]) for u in found["unreadable"]] == [(bad, "object-damaged")]
    assert [b["title"] for b in call("GET", "/v1/remote/backups?session_id=t")["backups"]] == ["two"]
    assert len(call("GET", "/v1/backups")["backups"]) == 1


def test_a_listing_without_a_network_is_what_was_known(call: Client, elsewhere: Elsewhere) -> None:
    elsewhere.save(1)
    call("GET", "/v1/remote/backups")
    elsewhere.save(2)
    elsewhere.bucket.fault = lambda get: RemoteDenied("AccessDenied")
    found = call("GET", "/v1/remote/backups")
    assert (len(found["backups"]), found["trouble"]["code"]) == (1, "remote-denied")


def test_everything_is_adopted_again_and_again(call: Client, elsewhere: Elsewhere) -> None:
    ids = [elsewhere.save(number, session=f"s-{number % 3}").id for number in range(9)]
    for _ in range(2):
        for row in call("GET", "/v1/remote/backups")["backups"]:
            call("POST", f"/v1/remote/backups/{row['id']}/adopt")
    assert sorted(b["id"] for b in call("GET", "/v1/backups")["backups"]) == sorted(ids)
    raises("backup-not-found", lambda: call("POST", "/v1/remote/backups/01M81P35719XNDZ4R57NMV6DYZ/adopt"))


def test_the_next_record_is_read_where_the_newest_is_damaged(call: Client, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, title="older")
    call("GET", "/v1/remote/backups")
    name = elsewhere.write(made, [], title="newer", written_at=9.0)
    call("GET", "/v1/remote/backups")
    elsewhere.bucket.change = lambda get, raw: raw if get.name != name else raw[:-1] + b"?"
    assert call("GET", "/v1/backups/s")["title"] == "older"


def test_a_backup_is_fetched_whole(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=20, size=100_000)
    call("GET", "/v1/backups/s")
    done = call.ended(call("POST", f"/v1/backups/{made.id}/fetch", json={}))
    assert (done["state"], done["blobs"], done["blobs_done"], done["errors"]) == ("done", 20, 20, [])
    assert done["bytes_done"] == done["bytes"] == sum(map(len, elsewhere.blobs.values()))
    assert whole(here, made, elsewhere)
    assert call("GET", "/v1/backups/s")["absent_bytes"] == 0
    raw = Remembered(here.catalog.index).get("rate", "fetch", now=1.0)
    assert [seen.units for seen in from_rows("fetch", orjson.loads(raw or "[]"))] == [done["bytes"]]
    again = call("POST", f"/v1/backups/{made.id}/fetch", json={})
    assert (again["state"], again["blobs"]) == ("done", 0)


def test_blobs_come_in_the_order_asked(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=12)
    call("GET", "/v1/backups/s")
    wanted = list(manifest_blobs(made))[::-1]
    before = len(elsewhere.bucket.gets)
    call.ended(call("POST", f"/v1/backups/{made.id}/fetch", json={"digests": wanted}))
    names = {each.name: digest for digest in wanted for each in elsewhere.uploaded.every_object(digest)}
    asked = [names[get.name] for get in elsewhere.bucket.gets[before:]]
    # Four at once: nothing is asked for before more than three that it stands behind, however late one of those comes.
    assert all(asked.index(digest) >= at - 3 for at, digest in enumerate(wanted))


def test_blobs_that_no_backup_needs_are_refused(call: Client, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1)
    call("GET", "/v1/backups/s")
    raises("bad-input", lambda: call("POST", f"/v1/backups/{made.id}/fetch", json={"digests": ["a" * 64]}))
    raises("bad-input", lambda: call("POST", f"/v1/backups/{made.id}/fetch", json={"digests": ["../x"]}))
    raises("backup-not-found", lambda: call("POST", f"/v1/backups/{made.id[:-1]}Z/fetch", json={}))
    raises("blob-not-found", lambda: call("POST", f"/v1/blobs/{'a' * 64}/fetch"))
    raises("not-found", lambda: call("GET", "/v1/fetches/nothing"))


def test_a_blob_that_the_bucket_lost_fails_alone(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=6)
    call("GET", "/v1/backups/s")
    lost = list(manifest_blobs(made))[2]
    elsewhere.bucket.delete(elsewhere.uploaded.every_object(lost)[0].name)
    done = call.ended(call("POST", f"/v1/backups/{made.id}/fetch", json={}))
    assert (done["state"], done["blobs_done"], done["blobs_failed"]) == ("failed", 5, 1)
    assert [(e["digest"], e["problem"]["code"]) for e in done["errors"]] == [(lost, "object-not-found")]
    assert call("GET", "/v1/backups/s")["absent_bytes"] == len(elsewhere.blobs[lost])


def test_a_fetch_can_be_ended_and_run_again(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=30, size=10_000)
    call("GET", "/v1/backups/s")
    go, some = threading.Event(), threading.Semaphore(0)

    def gate(get: Get) -> None:
        some.release()
        if len(elsewhere.bucket.gets) > before + 8:
            assert go.wait(WAIT_S)

    before = len(elsewhere.bucket.gets)
    elsewhere.bucket.gate = gate
    at = call("POST", f"/v1/backups/{made.id}/fetch", json={})
    for _ in range(9):
        assert some.acquire(timeout=WAIT_S)
    ended = call("DELETE", f"/v1/fetches/{at['id']}")
    assert ended["state"] == "cancelled"
    go.set()
    arrived = here.catalog.index.totals().blobs
    assert arrived < 30
    done = call.ended(call("POST", f"/v1/backups/{made.id}/fetch", json={}))
    assert done["state"] == "done"
    assert done["blobs"] < 30  # what was here stayed
    assert whole(here, made, elsewhere)


def test_a_blob_is_waited_for(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=1)
    call("GET", "/v1/backups/s")
    (digest,) = manifest_blobs(made)
    go = threading.Event()
    elsewhere.bucket.gate = lambda get: assert_set(go)
    assert call("POST", f"/v1/blobs/{digest}/fetch?wait_s=0.01")["arrived_bytes"] == 0
    go.set()
    assert "arrived_bytes" not in call("POST", f"/v1/blobs/{digest}/fetch")
    assert whole(here, made, elsewhere)


def assert_set(event: threading.Event) -> None:
    assert event.wait(WAIT_S)


@contextmanager
def set_at_last() -> Iterator[threading.Event]:
    """Yield an event that others wait for; what fails before it is set keeps nobody waiting."""
    event = threading.Event()
    try:
        yield event
    finally:
        event.set()


def test_a_damaged_file_is_healed(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=1)
    call("GET", "/v1/backups/s")
    (digest,) = manifest_blobs(made)
    call("POST", f"/v1/blobs/{digest}/fetch")
    here.catalog.blobs.path(digest).write_bytes(bytes(1000))
    call("POST", f"/v1/blobs/{digest}/fetch")
    assert whole(here, made, elsewhere)


def test_what_the_bucket_fails_with_keeps_its_class(call: Client, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=2)
    call("GET", "/v1/backups/s")
    first = next(iter(manifest_blobs(made)))
    assert call("POST", "/v1/blobs/remote", json={"digests": [first, "a" * 64]}) == {"remote": [first], "trouble": None}
    elsewhere.bucket.fault = lambda get: Offline("no route to host")
    raises("offline", lambda: call("POST", f"/v1/blobs/{first}/fetch"))
    assert call("POST", "/v1/blobs/remote", json={"digests": [first]})["trouble"]["code"] == "offline"


def test_blobs_are_here_in_the_bucket_or_nowhere(call: Client, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=3)
    call("GET", "/v1/backups/s")
    here, there, nowhere = manifest_blobs(made)
    call("POST", f"/v1/blobs/{here}/fetch")
    with call.daemon.catalog.index.writing() as connection:
        connection.execute(delete(remote_objects).where(remote_objects.c.digest == bytes.fromhex(nowhere)))
    found = {blob["digest"]: blob for blob in call("GET", f"/v1/backups/{made.id}/blobs")["blobs"]}
    assert [(found[d]["present"], found[d]["in_bucket"]) for d in (here, there, nowhere)] == [
        (True, False),
        (False, True),
        (False, False),
    ]


def test_hundreds_may_wait_and_the_rest_is_served(call: Client, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=200, size=10)
    call("GET", "/v1/backups/s")

    async def everybody() -> list[int]:
        with set_at_last() as go:
            elsewhere.bucket.gate = lambda get: assert_set(go)
            return await ask(go)

    async def ask(go: threading.Event) -> list[int]:
        async with await call.open() as client:
            waiting = [
                asyncio.ensure_future(client.post(f"/v1/blobs/{d}/fetch?wait_s=30")) for d in manifest_blobs(made)
            ]
            await asyncio.sleep(0)
            assert (await client.get("/v1/status")).status_code == 200
            assert not any(each.done() for each in waiting)
            go.set()
            return [answer.status_code for answer in await asyncio.gather(*waiting)]

    assert asyncio.run(everybody()) == [200] * 200


def test_a_bucket_that_never_answers_keeps_nobody_else_waiting(call: Client, elsewhere: Elsewhere) -> None:
    """Sixty ask for what is not here while the network is a black hole: the rest is served, and they are told soon."""
    before = len(elsewhere.bucket.gets)
    unknown = [f"/v1/backups/01M81P35719XNDZ4R57NMV{n:04d}" for n in range(60)]

    async def everybody() -> list[int]:
        with set_at_last() as go:
            elsewhere.bucket.fault = lambda get: (assert_set(go), Offline("no answer"))[1]
            return await ask(go)

    async def ask(go: threading.Event) -> list[int]:
        async with await call.open() as client:
            asking = [asyncio.ensure_future(client.get(path)) for path in [*unknown, "/v1/remote/backups"]]
            for _ in range(50):
                assert (await client.get("/v1/status")).status_code == 200
                assert (await client.get("/v1/backups")).status_code == 200
            assert not any(each.done() for each in asking)
            go.set()
            return [answer.status_code for answer in await asyncio.gather(*asking)]

    assert asyncio.run(everybody()) == [503] * 60 + [200]
    assert len(elsewhere.bucket.gets) - before == 2  # the first that was asked about, and the listing


def test_a_stopping_daemon_answers_those_who_ask(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    go, begun = threading.Event(), threading.Event()
    elsewhere.bucket.fault = lambda get: (begun.set(), assert_set(go), Offline("no answer"))[2]
    closing = threading.Thread(target=lambda: (begun.wait(WAIT_S), here.back.close()))
    closing.start()
    raises("unavailable", lambda: call("GET", "/v1/backups/nobody"))
    raises("unavailable", lambda: call("GET", "/v1/backups/nobody"))
    go.set()
    closing.join()


def test_a_stopping_daemon_lets_everybody_go(call: Client, here: BucketDaemon, elsewhere: Elsewhere) -> None:
    made = elsewhere.save(1, blobs=1)
    call("GET", "/v1/backups/s")
    (digest,) = manifest_blobs(made)
    go, begun = threading.Event(), threading.Event()
    elsewhere.bucket.gate = lambda get: (begun.set(), assert_set(go))[1]
    closing = threading.Thread(target=lambda: (begun.wait(WAIT_S), here.back.fetches.close()))
    closing.start()
    raises("unavailable", lambda: call("POST", f"/v1/blobs/{digest}/fetch?wait_s=30"))
    go.set()
    closing.join()


def test_without_s3_every_route_says_so(call: Client, here: BucketDaemon) -> None:
    call.app = here.gate(s3=False)
    backup_id, digest = "01M81P35719XNDZ4R57NMV6DYZ", "a" * 64
    for method, path, body in (
        ("POST", f"/v1/backups/{backup_id}/fetch", {}),
        ("GET", "/v1/fetches/x", None),
        ("POST", f"/v1/blobs/{digest}/fetch", None),
        ("POST", "/v1/blobs/remote", {"digests": []}),
        ("GET", "/v1/remote/backups", None),
        ("POST", f"/v1/remote/backups/{backup_id}/adopt", None),
    ):
        raises("sync-off", lambda: call(method, path, json=body))  # noqa: B023
    raises("backup-not-found", lambda: call("GET", f"/v1/backups/{backup_id}"))
