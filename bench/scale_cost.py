"""What 100,000 backups of 1,000,000 blobs cost: `python bench/scale_cost.py [--backups 100000] [--dir FOLDER]`.

Each part runs in a process of its own, so that its memory is its own too. The exit status is 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import large_home
import orjson
from sqlalchemy import Connection
from torpor.client import connect
from torpor.codec import manifest_file
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose, compose_remote, compose_retention
from torpor.daemon.garbage import Garbage
from torpor.daemon.groups import Groups
from torpor.daemon.reconcile import reconcile
from torpor.daemon.remote_settings import load_remote_settings
from torpor.daemon.settings import load_settings
from torpor.db.activity import quarters
from torpor.db.index import Index
from torpor.db.storage import largest_sessions
from torpor.measure.rig import daemon, median_s, scratch, timed_s
from torpor.store.home import Home

ROUNDS = 15
LIMITS = {
    "newest 50": 0.020,
    "plan of retention, all of it over": 30.0,
    "plan of retention, none of it over": 30.0,
    "collect, nothing to do": 60.0,
    "collect, a tenth is garbage": 60.0,
    "RSS": 200.0,
}
SETTLE_S = 20.0  # of a daemon that has just started: it counts what is there


def main() -> int:
    """Build a home, or take one that is there, and measure it part by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backups", type=int, default=100_000)
    parser.add_argument("--dir", type=Path, default=Path(__file__).resolve().parent / "results")
    parser.add_argument("--home", type=Path, help="a home that was built before; it is changed")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        print(orjson.dumps(PARTS[options.part](options.home)).decode())
        return 0
    with ExitStack() as stack:
        home = options.home or stack.enter_context(scratch(options.dir)) / "home"
        if options.home is None:
            large_home.build(home, options.backups, max(options.backups // 50, 1), orphans=options.backups)
        return max([_run(part, home) for part in PARTS])


def _run(part: str, home: Path) -> int:
    command = [sys.executable, __file__, "--home", str(home), "--part", part]
    figures = orjson.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    missed = 0
    for name, value in figures.items():
        limit = LIMITS.get(name)
        told = f"{value:,.0f} MiB" if name == "RSS" else f"{value * 1000:,.1f} ms" if value < 10 else f"{value:,.1f} s"
        missed |= limit is not None and value > limit
        print(f"{part:10} {name:32} {told:>12}" + ("" if limit is None else f"   at most {limit:g}"), flush=True)
    return missed


@contextmanager
def _opened(home: Path) -> Iterator[Catalog]:
    with ExitStack() as stack:
        yield compose(Home(home), load_settings(), stack)


def _start(home: Path) -> dict[str, float]:
    with _opened(home) as catalog:
        began = time.perf_counter()
        found = reconcile(catalog)
        assert (found.imported, found.dropped, found.unusable) == (0, 0, 0)
        return {"reconcile": time.perf_counter() - began, "RSS": _rss_mib()}


def _queries(home: Path) -> dict[str, float]:
    with _opened(home) as catalog:
        index = catalog.index
        newest = index.list_backups(limit=50)
        middle, last = newest[0].id, newest[-1].id
        figures = {
            "newest 50": median_s(lambda: index.list_backups(limit=50)),
            "the 50 before them": median_s(lambda: index.list_backups(limit=50, before=last)),
            "50 of a session": median_s(lambda: index.list_backups(session_id=newest[0].session_id)),
            "timeline of a session": median_s(lambda: index.timeline(newest[0].session_id, limit=50)),
            "by id": median_s(lambda: catalog.resolve(middle)),
            "newest of a session": median_s(lambda: catalog.resolve(newest[0].session_id)),
            "by the end of an id": median_s(lambda: index.ending_with(middle[-8:], 6)),
            "totals": median_s(index.totals),
            "blobs of a backup": median_s(lambda: catalog.blobs_of(middle)),
            "groups": median_s(lambda: Groups(catalog).list(50)),
            "events": median_s(index.recent_events),
            "activity of 30 days": median_s(lambda: _read(index, lambda c: quarters(c, time.time() - 30 * 86_400.0))),
            "largest sessions": timed_s(lambda: _read(index, lambda c: largest_sessions(c, 20))),
        }
        half_absent(catalog)
        figures["newest 50, half of it elsewhere"] = median_s(lambda: index.list_backups(limit=50))
        half_absent(catalog, present=True)
        return figures | {"RSS": _rss_mib()}


def _read(index: Index, read: Callable[[Connection], object]) -> object:
    with index.reading() as connection:
        return read(connection)


def half_absent(catalog: Catalog, *, present: bool = False) -> None:
    """Note half of all blobs as evicted, or as here again."""
    with catalog.index.writing() as connection:
        connection.exec_driver_sql("UPDATE blobs SET present = ? WHERE digest < x'80'", (present,))


def _changes(home: Path) -> dict[str, float]:
    """Commit backups that go on from the newest ones, and remove them again."""
    with _opened(home) as catalog:
        made = []
        for number, each in enumerate(catalog.index.list_backups(limit=ROUNDS)):
            old = manifest_file.load(catalog.manifest_json(each.id))
            made.append(replace(old, id=f"01M9{number:022d}", parent_id=old.id, created_at=time.time()))
        commits = [timed_s(lambda m=m: catalog.commit(m.id, manifest_file.dump(m))) for m in made]  # type: ignore[misc]
        removals = [timed_s(lambda m=m: catalog.remove(m.id)) for m in made]  # type: ignore[misc]
        return {"commit": statistics.median(commits), "remove": statistics.median(removals), "RSS": _rss_mib()}


def _plan(home: Path) -> dict[str, float]:
    with _opened(home) as catalog:
        place, settings = Home(home), load_settings()
        side = compose_remote(place, settings, load_remote_settings({}, home, home), catalog)
        retention, now = compose_retention(place, settings, catalog, side), time.time()
        return {
            "plan of retention, none of it over": timed_s(lambda: retention.plan(now)),
            "plan of retention, all of it over": timed_s(lambda: retention.plan(now + 1000 * 86_400.0)),
            "RSS": _rss_mib(),
        }


def _daemon(home: Path) -> dict[str, float]:
    """Ask a daemon in a process of its own what a page or a tray asks again and again."""
    with daemon(home) as running, connect(home=home) as keeper:
        ready_s = running.ready_s
        time.sleep(SETTLE_S)
        figures = {
            "exec to ready": ready_s,
            "GET /v1/status": median_s(keeper.api.status),
            "GET /v1/backups, newest 50": median_s(lambda: keeper.api.backups(limit=50)),
        }
        status = Path(f"/proc/{running.pid}/status").read_text().splitlines()
        used = next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))
        return figures | {"RSS": used}


def _collect(home: Path) -> dict[str, float]:
    with _opened(home) as catalog:
        garbage, figures = Garbage(catalog, grace_s=86_400.0, trash_s=0.0), dict[str, float]()
        figures["dry run"] = timed_s(lambda: garbage.collect(dry_run=True))
        figures["collect, a tenth is garbage"] = timed_s(garbage.collect)
        figures["collect, the trash is full"] = timed_s(garbage.collect)
        figures["collect, nothing to do"] = timed_s(garbage.collect)
        return figures | {"RSS": _rss_mib()}


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "start": _start,
    "queries": _queries,
    "changes": _changes,
    "plan": _plan,
    "daemon": _daemon,
    "collect": _collect,
}


def _rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
