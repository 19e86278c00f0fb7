"""Run the benches: `make bench`, or `python bench/run.py [--quick] [--only save,restore,…]` (`--help` names them all).

Every figure is taken through the real adapter, SDK and daemon on a real disk, against baselines of the same run, and
told as a ratio. A requirement that is missed is said so; the exit status is 0 all the same, for times belong to the
machine that they were taken on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import daemon_cost
import orjson
import remote_cost
import switch_cost
import torch
from torpor.measure import growth, load, machine, restore, save, workload
from torpor.measure.figures import Figure, required, table
from torpor.measure.rounds import console
from torpor.measure.settings import Settings

RESULTS = Path(__file__).resolve().parent / "results"
TITLES = {
    "save": "full save: from `save` to committed and durable",
    "restore": "verified restore, files in the page cache",
    "cold": "verified restore, nothing in the page cache",
    "growth": f"a growing session: {growth.TOKENS:,} tokens, {growth.MORE_TOKENS} more before each later one",
    "switch": "a switch of the model, and back",
    "daemon": "the daemon: its start, and at rest",
    "load": "many clients at once: each save timed from the moment at which it was due",
    "remote": "the second copy, on a SeaweedFS of this machine: up and down against plain boto3",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benches that the command line names."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the daemon and removes the files
    if not workload.always_fresh_memory():
        console.print("[yellow]this C library may hand out touched pages: warm figures favour whoever comes later[/]")
    torch.set_num_threads(os.cpu_count() or 1)
    about = machine.describe(options.dir)
    console.print(f"[dim]{_line(about['machine'])}\n{_line(about['versions'])}[/]\n", highlight=False)
    started, loaded = time.monotonic(), workload.load()
    groups = _groups(loaded, options.dir, options.quick)
    figures: list[Figure] = []
    lines: list[dict[str, Any]] = []
    for name in options.only:
        cores = machine.cores_given()
        taken = groups[name]()
        cores = min(cores, machine.cores_given())
        console.print(table(TITLES[name], taken))
        console.print(_cores_line(cores) + "\n", highlight=False)
        figures.extend(taken)
        lines.extend({**figure.to_dict(), "cores_given": cores, "quick": options.quick, **about} for figure in taken)
    path = _write(lines)
    _conclude(figures, time.monotonic() - started, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure torpor against its baselines.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a shorter idle time")
    parser.add_argument("--only", type=_names, default=list(TITLES), help=f"some of {','.join(TITLES)}")
    parser.add_argument("--dir", type=Path, default=RESULTS, help="where the files go; a real disk")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(TITLES):
        raise argparse.ArgumentTypeError(f"no bench called {', '.join(sorted(unknown))}")
    return names


def _groups(loaded: Any, folder: Path, quick: bool) -> dict[str, Callable[[], list[Figure]]]:
    rounds, long_rounds, starts, idle_s = (3, 2, 2, 10.0) if quick else (9, 5, 5, 30.0)
    return {
        "save": lambda: save.measure(Settings(folder, quick)),
        "restore": lambda: restore.measure_warm(loaded, folder, rounds),
        "cold": lambda: restore.measure_cold(loaded, folder, rounds),
        "growth": lambda: growth.measure(loaded, folder, long_rounds),
        "switch": lambda: switch_cost.measure(folder, long_rounds),
        "daemon": lambda: daemon_cost.measure(loaded, folder, starts, idle_s),
        "load": lambda: load.measure(folder, 10.0 if quick else 60.0),
        "remote": lambda: remote_cost.measure(loaded, folder, rounds=2 if quick else 5, quick=quick),
    }


def _line(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _cores_line(given: float) -> str:
    """Tell when a virtual machine's host, or other work on this one, let fewer cores run than there are."""
    cores = os.cpu_count() or 1
    colour = "dim" if given > 0.9 * cores else "yellow"
    return f"[{colour}]{cores} threads ran on {given:.1f} cores[/]"


def _write(lines: list[dict[str, Any]]) -> Path:
    """Append one JSON line a figure to the file of this run."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.jsonl"
    with path.open("ab") as file:
        for line in lines:
            stamped = {"at": now.isoformat(timespec="seconds"), **line}
            file.write(orjson.dumps(stamped, option=orjson.OPT_APPEND_NEWLINE))
    return path


def _conclude(figures: list[Figure], took_s: float, path: Path) -> None:
    judged = [figure for figure in figures if figure.met() is not None]
    missed = [figure for figure in judged if not figure.met()]
    for figure in missed:
        against = f" / {figure.against}" if figure.against else ""
        console.print(f"[bold red]missed:[/] {figure.name}{against}: required {required(figure)}", highlight=False)
    console.print(
        f"{len(judged) - len(missed)} of {len(judged)} requirements met. {took_s:.0f} s. {path}", highlight=False
    )


if __name__ == "__main__":
    main()
