"""What listing and searching costs: `python bench/listing_cost.py [--backups 10000] [--sessions 1000] [--dir FOLDER]`.

Conversations of up to 40 messages; then all backups in one session, and each in a session of its own. The exit status
is 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import large_home
from sqlalchemy import Connection
from torpor.codec import manifest_file
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.search_care import SearchCare
from torpor.daemon.search_reading import SearchReading
from torpor.daemon.settings import load_settings
from torpor.db.drawing import details, draw_session
from torpor.db.search import search
from torpor.db.sessions import list_sessions
from torpor.measure.rig import median_s, scratch, timed_s
from torpor.state.lanes import in_lanes
from torpor.store.home import Home

ROUNDS, SAID = 15, 40
LIMITS = {"newest 50 sessions": 0.050, "details of 200 rows": 0.100, "search, a rare word": 0.050, "read a save": 0.050}


def main() -> int:
    """Build homes and measure them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backups", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--dir", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args()
    missed = 0
    for sessions in (options.sessions, 1, options.backups):
        print(f"{options.backups} backups of {sessions} sessions", flush=True)
        with scratch(options.dir) as folder, ExitStack() as stack:
            large_home.build(folder / "home", options.backups, sessions, said=SAID)
            missed |= measure(compose(Home(folder / "home"), load_settings(), stack))
    return missed


def measure(catalog: Catalog) -> int:
    """Print what each question costs; return 1 when a limit is missed."""
    care, index = SearchCare(catalog), catalog.index
    figures = {"read all for the search": timed_s(care.settle)}
    with index.reading() as connection:
        figures |= _listings(connection) | _searches(connection)
    figures |= _saves(catalog)
    missed = 0
    for name, seconds in figures.items():
        limit = LIMITS.get(name)
        missed |= limit is not None and seconds > limit
        told = "" if limit is None else f"   at most {limit * 1000:g}"
        print(f"  {name:32} {seconds * 1000:12,.1f} ms{told}", flush=True)
    return missed


def _listings(connection: Connection) -> dict[str, float]:
    newest = list_sessions(connection, 1).sessions[0].session_id
    rows = [row.id for row in draw_session(connection, newest).drawing.rows[:200]]
    return {
        "newest 50 sessions": median_s(lambda: list_sessions(connection, 50)),
        "newest 500 sessions": median_s(lambda: list_sessions(connection, 500)),
        "50 sessions by name": median_s(lambda: list_sessions(connection, 50, named="on-1")),
        "drawing, all rows": median_s(lambda: list(in_lanes(draw_session(connection, newest).drawing.rows))),
        "details of 200 rows": median_s(lambda: details(connection, newest, rows)),
    }


def _searches(connection: Connection) -> dict[str, float]:
    asked = {"a common word": "w1", "a rare word": "w4711", "two words": "w2 w3", "one character": "一", "two": "一丁"}
    return {f"search, {name}": median_s(partial(search, connection, words, 20, 3)) for name, words in asked.items()}


def _saves(catalog: Catalog) -> dict[str, float]:
    """Commit backups that go on from the newest ones by a message, and read what is new of them."""
    reading, commits, reads = SearchReading(catalog), list[float](), list[float]()
    for number, each in enumerate(catalog.index.list_backups(limit=ROUNDS)):
        old = manifest_file.load(catalog.manifest_json(each.id))
        talk = [*old.layers["text_context"]["messages"], {"role": "user", "content": f"message {number}"}]
        layers = {**old.layers, "text_context": {"messages": talk}}
        made = replace(old, id=f"01M9{number:022d}", parent_id=old.id, created_at=time.time(), layers=layers)
        commits.append(timed_s(partial(catalog.commit, made.id, manifest_file.dump(made))))
        reads.append(timed_s(partial(reading.read, made.session_id)))
    return {"commit": statistics.median(commits), "read a save": statistics.median(reads)}


if __name__ == "__main__":
    sys.exit(main())
