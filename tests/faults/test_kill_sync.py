"""kill -9 of the daemon while it sends, at every named point and at any time, and of the server in the middle.

At the end the bucket is complete: a machine that has nothing wakes every backup bit for bit. What a kill costs is what
was in flight: no more bytes are sent twice. No lease, no file of an unfinished upload is left.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.caches import CacheSession
from support.fault_proxy import Fault
from support.machines import Machine, machine, small_session
from support.s3_servers import Place, new_place, running_weed
from support.waiting import until
from support.workers import messages, start_sync
from torpor.daemon.remote import UPLOADS_AT_ONCE
from torpor.state.crash_points import SYNC_POINTS

SOAK = bool(os.environ.get("TORPOR_SOAK"))
KILLS, TIMES, TOKENS = (100, (1, 3), 900) if SOAK else (2, (1,), 100)
BLOB_BYTES = 300 << 10  # at most, as small_session makes them


class Sender:
    """A machine that is killed while it sends, and what it saved."""

    def __init__(self, here: Machine) -> None:
        self.here, self.saved = here, dict[str, CacheSession]()
        self.kills = self.requests = 0

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

    def wait_for_a_blob(self) -> None:
        """Wait until a request for another blob has begun."""
        seen = self.requests
        until(lambda: self.count() > seen, self.here.sync)
        self.requests = self.count()

    def most_bytes(self) -> int:
        """What the blobs take, each of them once, and what was in flight at each kill."""
        return needed_bytes(self.here.place) + self.kills * UPLOADS_AT_ONCE * BLOB_BYTES

    def count(self) -> int:
        return len(self.here.proxy.counts.named("blobs/", "PUT"))

    def check(self, folder: Path, most_bytes: float) -> None:
        """See that all is there, that nothing of it is left to do, and that no more bytes than these were sent."""
        self.here.wait_synced(*self.saved)
        found = self.here.sync()
        assert (found["waiting_count"], found["dead_count"], found["held_count"]) == (0, 0, 0)
        assert self.here.queue() == []
        assert self.here.outgoing() == []
        assert self.sent_bytes() <= most_bytes
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
    """Text goes first, KV caches later: their record takes the place of that of the text, so every point is passed.

    The parts of the daemon that send run in a process of their own, which starts sooner.
    """
    here, points = sender.here, [f"{point}:{times}" for times in TIMES for point in SYNC_POINTS]
    here.start()
    here.choose("policy", kv="never")
    sender.save(len(points) + 3)
    until(lambda: all(map(here.is_text_there, sender.saved)), here.sync)
    here.proxy.refuse()
    here.choose("policy", kv="always")
    here.daemon.stop()
    here.proxy.accept()
    for point in points:
        process, pipe = start_sync(here.home, here.settings, point)
        said = messages(pipe, process, 60)
        assert process.exitcode == -9, (point, said)
        sender.kills += 1
    here.start()
    until(lambda: not here.queue(), here.sync)
    sender.check(tmp_path, sender.most_bytes())


def test_killed_at_random_times(sender: Sender, tmp_path: Path) -> None:
    """The way is slow enough that most kills fall into a transfer."""
    rng, here, hit = random.Random(7), sender.here, 0
    here.proxy.add(Fault("throttle", rate=3e6))
    for _ in range(KILLS):
        here.start()
        sender.save()
        sender.wait_for_a_blob()
        time.sleep(rng.uniform(0, 0.4))
        here.daemon.kill()
        sender.kills += 1
        hit += bool(here.queue())
    here.proxy.clear()
    here.start()
    until(lambda: not here.queue(), here.sync)
    sender.check(tmp_path, sender.most_bytes())
    sent, needed = sender.sent_bytes(), needed_bytes(here.place)
    print(
        f"\nkill -9 of the daemon: {KILLS} kills, {hit} of them while something was being sent; {len(sender.saved)} "
        f"backups, 0 lost; {sent} bytes of blobs sent, {needed} needed: {(sent - needed) / KILLS / 1024:.0f} KiB a kill"
    )


def test_the_server_is_killed_in_the_middle(tmp_path: Path) -> None:
    with running_weed() as server, machine(tmp_path / "here", new_place(server)) as here:
        sender = Sender(here)
        here.start()
        for _ in range(5 if SOAK else 1):
            sender.save(2)
            sender.wait_for_a_blob()
            server.kill()
            sender.save()
            server.start()
            here.wait_synced(*sender.saved)
        sender.check(tmp_path, math.inf)  # a server that comes up takes bodies before it can store them
