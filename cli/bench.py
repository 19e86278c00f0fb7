"""`torpor bench`: what this machine, its disk, its bucket and its model can do, beside what else there is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..state.errors import BadInput, MissingExtra
from ..store.files import make_private_folder
from ..store.home import Home
from . import output

if TYPE_CHECKING:
    from ..measure.perform import Performed
    from ..measure.settings import Settings
    from ..measure.suite import Group

# What the daemon and the figures are made of, and where it comes from.
_NEEDED = {"torch": "transformers", "transformers": "transformers", "safetensors": "transformers", "fastapi": "daemon"}
_FIRST = "First the CPU build of torch where there is none (pip install torch), then: pip install 'torpor[all]'."


def bench(
    only: Annotated[
        str | None, typer.Option(help="Some groups of figures, with commas between, or `all`; a wrong name lists them.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds.")] = False,
    sizes: Annotated[str, typer.Option(help="Tokens of KV cache, 144 KiB each, with commas between.")] = "1000",
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Where the files go; else the disk of your home folder.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A folder of real weights (or a .gguf file): how fast it wakes.")
    ] = None,
    bucket: Annotated[bool, typer.Option("--bucket", help="Your bucket, too; what is put there goes again.")] = False,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", help="The file of results, added to if it is there; else one in your home folder."),
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="The chart, as PNG; else beside the results in your home folder.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Measure nothing, and compare two files of results: OLD NEW.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Measure this machine: saves and restores against the limits of its hardware and against others, side by side.

    Without options it takes a minute or two. A daemon of its own runs in a folder that is removed at the end.
    """
    if compare is not None:
        _compare(*compare, as_json)
        return
    _see_to_extras()
    groups = _groups(only, model, bucket=bucket)
    home = Home.from_environment(os.environ)
    with _ended_softly():
        done = _measured(
            groups, home, folder, output_file, chart, _settings(quick, sizes, model, brief=only is None), as_json
        )
    if as_json:
        output.print_json(_as_json(done))
    raise SystemExit(1 if done.crashed else 0)


def _see_to_extras() -> None:
    """Make sure that there is what every figure needs. Raises: MissingExtra."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        extras = ",".join(dict.fromkeys(_NEEDED[name] for name in missing))
        hint = _FIRST if "torch" in missing else f"pip install 'torpor[{extras}]'"
        raise MissingExtra(f"a bench needs {' and '.join(missing)}, not installed here", hint=hint)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # there is a progress of our own


def _groups(only: str | None, model: Path | None, *, bucket: bool) -> list[Group]:
    """Return what is measured: the usual groups, and those of the model and the bucket that were named."""
    from ..measure import suite

    if model is not None and not model.exists():
        raise BadInput(f"there is no {model}", hint="Name a folder with config.json and weights, or a .gguf file.")
    named = only.split(",") if only is not None else list(suite.USUAL) + ["wake"] * (model is not None)
    if only == "all":
        named = [each.name for each in suite.chosen("all")]
    return suite.chosen(",".join([*named, *["bucket"] * bucket]))


def _settings(quick: bool, sizes: str, model: Path | None, *, brief: bool) -> Settings:
    from ..measure.settings import Settings, parse_sizes

    return Settings(Path(), quick, parse_sizes(sizes), model, brief)


def _measured(
    groups: list[Group],
    home: Home,
    folder: Path | None,
    output_file: Path | None,
    chart: Path | None,
    settings: Settings,
    as_json: bool,
) -> Performed:
    """Measure in a folder that goes again."""
    from dataclasses import replace

    from ..measure import place, results, suite, telling
    from ..measure.perform import perform

    parent = folder or place.beside(home.root)
    suite.prepare()
    with place.workplace(parent) as work:
        settings = replace(settings, folder=work)
        place.check(place.Need.of(groups, settings), parent)
        if output_file is None:
            make_private_folder(home.root)
            output_file = results.new_file(home.bench)
            chart = chart or output_file.with_suffix(".png")
        return perform(
            groups,
            settings,
            output_file,
            chart=chart,
            console=telling.wide(output.errors if as_json else output.console),
        )


@contextmanager
def _ended_softly() -> Iterator[None]:
    """Let SIGTERM end this as Ctrl-C does: daemons are stopped, files and objects are removed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_json(done: Performed) -> dict[str, Any]:
    return {
        "figures": [figure.to_dict() for outcome in done.outcomes for figure in outcome.figures],
        "groups": {
            outcome.group.name: {"state": outcome.state, "reason": outcome.reason, "cores_given": outcome.cores_given}
            for outcome in done.outcomes
        },
        **done.about,
        "results": str(done.results),
        "chart": None if done.chart is None else str(done.chart),
    }


def _compare(old: Path, new: Path, as_json: bool) -> None:
    from ..measure import compare, results, telling

    before, after = results.read(old), results.read(new)
    if not as_json:
        telling.tell_comparison(telling.wide(output.console), before, after)
        return
    found = {
        "old": {"path": str(old), **before.about},
        "new": {"path": str(new), **after.about},
        "differences": compare.differences(before, after),
        "changes": [each.to_dict() for each in compare.compare(before, after)],
    }
    output.print_json(found)
