"""Two daemons and one bucket, all at once: saves, forks, removals and collections, with no grace time to help.

Then a machine that has nothing wakes everything that was not removed, bit for bit; and nothing that a daemon has said,
to people or to programs, holds a secret.
"""

from __future__ import annotations

import base64
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import orjson
from support.caches import CacheSession, CacheTarget
from support.machines import Machine, machine, small_session
from support.s3_servers import Place
from support.waiting import until
from torpor.codec.keys import load_ring
from torpor.state.errors import TorporError
from torpor.store.home import Home

SOAK = bool(os.environ.get("TORPOR_SOAK"))
STEPS, COLLECTIONS = (60, 200) if SOAK else (3, 3)
NO_GRACE = {"TORPOR_CONDEMN_AFTER_HOURS": "0", "TORPOR_DELETE_AFTER_HOURS": "0", "TORPOR_KEY_STORAGE": "file"}
PASSPHRASE = "correct horse battery staple"


class Shared:
    """What the two machines have saved, and what of it was removed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.kept: dict[str, CacheSession] = {}
        self.removed: set[str] = set()
        self.owner: dict[str, Machine] = {}

    def add(self, owner: Machine, backup_id: str, session: CacheSession) -> None:
        with self.lock:
            self.owner[backup_id] = owner
            self.kept[backup_id] = session

    def take(self, rng: random.Random) -> str | None:
        """Choose one to remove."""
        with self.lock:
            if len(self.kept) < 3:
                return None
            found = rng.choice(sorted(self.kept))
            del self.kept[found]
            self.removed.add(found)
            return found

    def some(self, rng: random.Random) -> tuple[str, CacheSession] | None:
        with self.lock:
            return rng.choice(sorted(self.kept.items(), key=lambda item: item[0])) if self.kept else None


def works(which: Machine, shared: Shared, seed: int) -> None:
    """Save, go on from what the other one saved, and remove."""
    rng = random.Random(seed)
    for step in range(STEPS):
        session = small_session(seed * 1000 + step)
        shared.add(which, which.save(f"m{seed}-{step % 3}", session), session)
        goes_on(which, shared, rng, f"fork-{seed}-{step}")
        if step % 2 and (gone := shared.take(rng)) is not None:
            purge(which, gone)


def purge(which: Machine, backup_id: str) -> None:
    """Remove a backup everywhere, also one that only the other machine has had so far."""
    which.daemon.request("GET", f"/v1/backups/{backup_id}")
    answer = which.daemon.request("DELETE", f"/v1/backups/{backup_id}", params={"purge": "true"})
    assert answer.status_code in (200, 204, 404), answer.text


def goes_on(which: Machine, shared: Shared, rng: random.Random, name: str) -> None:
    """Wake a backup of either machine, and save it as a session of its own: most of its blobs are in the bucket."""
    found = shared.some(rng)
    if found is None:
        return
    backup_id, session = found
    must_be_there = shared.owner[backup_id] is which or shared.owner[backup_id].is_synced(backup_id)
    with which.daemon.keeper() as keeper:
        try:
            woken = keeper.restore(backup_id, CacheTarget(), require="full").session
        except TorporError:
            assert backup_id in shared.removed or not must_be_there
            return
        assert woken.digest() == session.digest()
        woken.layers, woken.heads, woken.dim = session.layers, session.heads, session.dim
        woken.grow(10, rng.randrange(1 << 30))
        woken.note["kv"] = woken.digest()
        shared.add(which, keeper.save(name, woken).wait(60).id, woken)


def collect(which: Machine) -> dict[str, int]:
    answer = which.daemon.request("POST", "/v1/sync/collect", json={}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, int] = answer.json()
    return found


def collects(which: Machine, busy: threading.Event) -> Counter[str]:
    """Collect again and again while the others work."""
    found, rounds = Counter[str](), 0
    while not busy.is_set() or rounds < COLLECTIONS:
        found.update(collect(which))
        rounds += 1
    return found


@contextmanager
def two(folder: Path, place: Place) -> Iterator[tuple[Machine, Machine]]:
    with machine(folder / "a", place, NO_GRACE) as a, machine(folder / "b", place, NO_GRACE) as b:
        a.start()
        answer = a.daemon.request("POST", "/v1/key/init", json={"passphrase": PASSPHRASE}, timeout=60)
        assert answer.status_code in (200, 201), answer.text
        b.start()
        answer = b.daemon.request("POST", "/v1/key/init", json={"passphrase": PASSPHRASE}, timeout=60)
        assert answer.status_code in (200, 201), answer.text
        yield a, b


def test_everything_at_once(tmp_path: Path, weed: Place) -> None:
    shared, busy = Shared(), threading.Event()
    with two(tmp_path, weed) as (a, b):
        with ThreadPoolExecutor(4) as threads:
            collecting = [threads.submit(collects, each, busy) for each in (a, b)]
            working = [threads.submit(works, each, shared, seed) for seed, each in ((1, a), (2, b))]
            try:
                for each in working:
                    each.result()
            finally:
                busy.set()
            found = sum((each.result() for each in collecting), Counter[str]())
        for each in (a, b):
            until(lambda each=each: not each.queue(), each.sync)
        alone = a.save("alone", small_session(77))
        a.wait_synced(alone)
        purge(b, alone)
        until(lambda: not b.queue() and clean(a, found), lambda: found)
        with machine(tmp_path / "c", weed, NO_GRACE) as c:
            c.start()
            c.daemon.request("POST", "/v1/key/init", json={"passphrase": PASSPHRASE}, timeout=60)
            for backup_id, session in shared.kept.items():
                with c.daemon.keeper() as keeper:
                    assert keeper.restore(backup_id, CacheTarget(), require="full").session.digest() == session.digest()
            assert c.daemon.request("GET", f"/v1/backups/{alone}").status_code == 404
            nothing_secret(weed, a, b, c)
    print(
        f"\ntwo daemons: {len(shared.kept)} backups kept and woken, {len(shared.removed)} removed; "
        f"{found['condemned']} objects condemned, {found['deleted']} deleted"
    )


def clean(which: Machine, found: Counter[str]) -> bool:
    """Collect once more; whether nothing is left that no backup needs, and something was."""
    last = collect(which)
    found.update(last)
    return found["deleted"] > 0 and last["condemned"] == last["deleted"] == last["waiting"] == 0


def nothing_secret(place: Place, *machines: Machine) -> None:
    """Look for the keys in everything that the daemons have said."""
    paths = ("status", "sync", "events", "key", "backups", "remote/backups", "backups/0" * 13)
    for each in machines:
        said = [each.log(), each.daemon.output()]
        said += [each.daemon.request("GET", f"/v1/{path}", timeout=20).text for path in paths]
        assert all(said[:1] + said[2:])
        for secret in (place.secret_key, PASSPHRASE, *masters(each.home)):
            assert not [text for text in said if secret.lower() in text.lower()]


def masters(home: Path) -> Iterator[str]:
    """The master keys of a machine, as somebody might write them."""
    kept = Home(home).repo_key.read_bytes()
    (ring,) = (load_ring(text.encode()) for text in orjson.loads(kept)["rings"].values())
    for master in ring.masters.values():
        yield from (master.secret.hex(), base64.b64encode(master.secret).decode(), repr(master.secret)[2:-1])
