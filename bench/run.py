"""Run the benches: `make bench`, or `python bench/run.py [--quick] [--only save,restore,…]` (`--help` names them all).

Those of `torpor bench`, at every size, and some that only those need who work on torpor. Results lie in bench/results,
a file a run, with a chart beside it; `--compare [OLD NEW]` compares two of them, the newest if none is named, and
`--draw FILE` draws one again. A goal that is missed is said so; the exit status is 0 all the same, for times belong to
the machine that they were taken on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")  # there is a progress of our own

from rich.console import Console
from torpor.measure import place, results, suite, telling
from torpor.measure.chart import draw
from torpor.measure.perform import perform
from torpor.measure.settings import SIZES, Settings, parse_sizes
from torpor.measure.suite import GROUPS, Group
from torpor.state.errors import BadInput, TorporError

RESULTS = Path(__file__).resolve().parent / "results"
OURS = (
    Group("switch", "a switch of the model, and back", "switch_cost", disk=1, memory=1, tokens=6_104, seconds=60),
    Group("daemon", "the daemon: its start, and at rest", "daemon_cost", disk=4, memory=2, tokens=1_000, seconds=90),
    Group(
        "remote",
        "the second copy, on a SeaweedFS of this machine: up and down against plain boto3",
        "remote_cost",
        disk=70,
        memory=3,
        tokens=1_000,
        seconds=300,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benches that the command line names; return the exit status."""
    options = _parser().parse_args(arguments)
    console = telling.wide(Console())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the daemon and removes the files
    try:
        if options.compare is not None:
            old, new = _two(options.compare)
            telling.tell_comparison(console, results.read(old), results.read(new))
            return 0
        if options.draw is not None:
            drawn = results.read(options.draw)
            draw(drawn.figures, drawn.about, options.chart or options.draw.with_suffix(".png"))
            return 0
        groups = suite.chosen(options.only, [*GROUPS, *OURS])
        settings = Settings(Path(), options.quick, parse_sizes(options.sizes), options.model)
        path = options.output or results.new_file(RESULTS)
        suite.prepare()
        with place.workplace(options.dir) as work:
            done = perform(
                groups,
                replace(settings, folder=work),
                path,
                chart=options.chart or path.with_suffix(".png"),
                console=console,
            )
    except TorporError as error:
        console.print(f"[bold red]error[/] {error.detail}\n  {error.hint}", highlight=False)
        return error.exit_code
    return 1 if done.crashed else 0


def _two(named: list[Path]) -> list[Path]:
    """Return the two files that are compared. Raises: BadInput."""
    if len(named) not in (0, 2):
        raise BadInput("a comparison takes two files", hint="Name both (BASE and NEW), or none for the newest two.")
    return named or results.newest(RESULTS, 2)


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(each.name for each in (*GROUPS, *OURS))
    parser = argparse.ArgumentParser(description="Measure torpor against its baselines.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, a shorter idle time")
    parser.add_argument("--only", default="all", help=f"some of {names}; `all` is all but the bucket")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="tokens of KV cache")
    parser.add_argument("--model", type=Path, help="real weights; else SmolLM2, where it is installed")
    parser.add_argument("--dir", type=Path, default=RESULTS, help="where the files go; a real disk")
    parser.add_argument("--output", type=Path, help="the file of results")
    parser.add_argument("--chart", type=Path, help="the chart; else beside the results")
    parser.add_argument(
        "--compare", nargs="*", type=Path, metavar="FILE", help="compare two files of results; the newest two"
    )
    parser.add_argument("--draw", type=Path, metavar="FILE", help="measure nothing, and draw the chart of a file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
