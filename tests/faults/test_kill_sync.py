"""kill -9 of the daemon while it sends, at every named point and at any time, and of the server in the middle.

At the end the bucket is complete: a machine that has nothing wakes every backup bit for bit. What a kill costs is what
was in flight: no more bytes are sent twice. No lease, no file of an unfinished upload is left.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.caches import CacheSession
from support.machines import Machine, eventually, machine, small_session
from support.s3_servers import Place, new_place, running_weed
from torpor.daemon.remote import UPLOADS_AT_ONCE
from torpor.state.crash_points import SYNC_POINTS

SOAK = bool(os.environ.get("TORPOR_SOAK"))
KILLS, TIMES, TOKENS = (100, (1, 3), 900) if SOAK else (4, (1,), 100)
BLOB_BYTES = 300 << 10  # at most, as small_session makes them


class Sender:
    """A machine that is killed while it sends, and what it saved."""

    def __init__(self, here: Machine) -> None:
        self.here, self.saved = here, dict[str, CacheSession]()
        self.kills = 0

    def save(self, count: int = 1) -> list[str]:
        """Save sessions: some new, some that share most of their blobs with an earlier backup."""
        made = []
        for _ in range(count):
            number = len(self.saved)
            session = small_session(number, TOKENS)
            backup_id = self.here.save(f"s{number % 5}", session)
            self.saved[backup_id] = session
            made.append(backup_id)
        return made

    def sent_bytes(self) -> int:
        """Bytes of blobs that went up, in broken requests too."""
        return sum(e.up for e in self.here.proxy.counts.named("blobs/", "PUT", "POST"))

    def check(self, folder: Path, stored_bytes: int) -> None:
        """See that all is there, and that nothing was sent without need; `stored_bytes` is what the blobs take."""
        self.here.wait_synced(*self.saved)
        found = self.here.sync()
        assert (found["waiting_count"], found["dead_count"], found["held_count"]) == (0, 0, 0)
        assert self.here.queue() == []
        assert self.here.outgoing() == []
        in_flight = self.kills * UPLOADS_AT_ONCE * BLOB_BYTES
        assert self.sent_bytes() <= stored_bytes + in_flight
        with machine(folder / "there", self.here.place) as there:
            there.start()
            for backup_id, session in self.saved.items():
                there.restores(backup_id, session)


def needed_bytes(place: Place) -> int:
    """What the blobs of a bucket take, each of them once."""
    sizes: dict[str, int] = {}
    pages = place.client().get_paginator("list_objects_v2").paginate(Bucket=place.bucket)
    for page in pages:
        for found in page.get("Contents", []):
            name = found["Key"]
            if "blobs/" in name:
                sizes[name.partition("blobs/")[2].partition(".")[0]] = found["Size"]
    return sum(sizes.values())


@pytest.fixture
def sender(tmp_path: Path, weed: Place) -> Iterator[Sender]:
    with machine(tmp_path / "here", weed) as here:
        yield Sender(here)


def test_killed_at_every_point(sender: Sender, tmp_path: Path) -> None:
    points = [f"{point}:{times}" for times in TIMES for point in SYNC_POINTS]
    for point in points:
        sender.here.start()
        paused(sender.here, True)
        sender.save(3 if ":3" in point else 1)
        if point.startswith("push.superseded"):
            text_first(sender)
        sender.here.daemon.stop()
        daemon = sender.here.start(crash_at=point)
        paused(sender.here, False)
        assert daemon.join(60) == -9, point
        sender.kills += 1
    sender.here.start()
    sender.check(tmp_path, needed_bytes(sender.here.place))


def paused(here: Machine, is_paused: bool) -> None:
    path = "pause" if is_paused else "resume"
    assert here.daemon.request("POST", f"/v1/sync/{path}", json={} if is_paused else None).status_code == 200


def test_killed_at_random_times(sender: Sender, tmp_path: Path) -> None:
    rng, seen = random.Random(7), Counter[str]()
    for _ in range(KILLS):
        sender.here.start()
        sender.save()
        before = sender.sent_bytes()
        time.sleep(rng.uniform(0, 0.25))
        seen["busy" if sender.sent_bytes() > before else "idle"] += 1
        sender.here.daemon.kill()
        sender.kills += 1
    sender.here.start()
    sender.check(tmp_path, needed_bytes(sender.here.place))
    sent, needed = sender.sent_bytes(), needed_bytes(sender.here.place)
    print(
        f"\nkill -9 of the daemon: {KILLS} kills ({dict(seen)}), {len(sender.saved)} backups, 0 lost; {sent} bytes sent of {needed} needed"
    )


def test_the_server_is_killed_in_the_middle(tmp_path: Path) -> None:
    with running_weed() as server, machine(tmp_path / "here", new_place(server)) as here:
        sender = Sender(here)
        here.start()
        for _ in range(5 if SOAK else 1):
            sender.save(3)
            before = sender.sent_bytes()
            eventually(lambda: sender.sent_bytes() > before, 20, here.sync)
            server.kill()
            sender.save()
            server.start()
            here.wait_synced(*sender.saved)
            sender.kills += 1
        sender.check(tmp_path, needed_bytes(here.place))
