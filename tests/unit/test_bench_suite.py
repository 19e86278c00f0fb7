"""The suite of the bench: its groups, what is there for them, and what becomes of one that fails or lacks something."""

from __future__ import annotations

import fcntl
import inspect
import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from torpor.measure import machine, place, results, suite
from torpor.measure.figures import Figure
from torpor.measure.perform import perform
from torpor.measure.place import Need
from torpor.measure.settings import Settings, parse_sizes
from torpor.measure.suite import GROUPS, USUAL, Group, chosen, run
from torpor.state.errors import BadInput, OutOfMemory, StoreFull

GIB = 1 << 30
FINE = """
from torpor.measure.figures import Figure
def measure(settings):
    return [Figure("fine", "something", "s", [1.0], "another", [2.0], 1.0)]
"""
LACKING = """
from torpor.state.errors import MissingExtra
def measure(settings):
    raise MissingExtra("restic is not installed", hint="apt-get install restic")
"""
OTHERS = {
    "bench_fine": FINE,
    "bench_lacking": LACKING,
    "bench_without": "import a_library_that_nobody_has\n",
    "bench_broken": "def measure(settings):\n    raise RuntimeError('other bits came back')\n",
    "bench_renamed": "from torpor.measure import what_was_here_before\n",
}


@pytest.fixture(autouse=True)
def _cores_are_looked_at_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROBE_S", 0.01)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_registered_group_is_there(group: Group) -> None:
    assert list(inspect.signature(getattr(group.imported(), group.function)).parameters) == ["settings"]


def test_names_are_unique_and_the_usual_ones_exist() -> None:
    names = [group.name for group in GROUPS]
    assert len(names) == len(set(names))
    assert set(USUAL) <= set(names)


def test_groups_are_chosen_by_name() -> None:
    assert [group.name for group in chosen("cold,save")] == ["save", "cold"]
    assert "bucket" not in [group.name for group in chosen("all")]  # it leaves the machine
    assert len(chosen("all")) == len(GROUPS) - 1
    assert chosen("cold, save") == chosen("cold,save")
    with pytest.raises(BadInput, match="no bench is called 'sav'") as failure:
        chosen("sav")
    assert "text_save" in failure.value.hint
    for nothing in ("", "save,,cold"):
        with pytest.raises(BadInput, match="no bench is called ''"):
            chosen(nothing)


def test_one_that_fails_or_lacks_something_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, source in OTHERS.items():
        (tmp_path / f"{name}.py").write_text(source)
    groups = [Group(name, name, name) for name in OTHERS]
    found = {each.group.name: (each.state, each.reason) for each in run(groups, Settings(tmp_path))}
    assert found["bench_fine"] == ("done", "")
    assert found["bench_lacking"] == ("left out", "restic is not installed. apt-get install restic")
    assert found["bench_without"] == ("left out", "a_library_that_nobody_has is not installed")
    assert found["bench_broken"] == ("failed", "RuntimeError: other bits came back")
    assert found["bench_renamed"][0] == "failed"  # a defect of ours is none of the machine


def test_without_a_bucket_it_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (found,) = run(chosen("bucket"), Settings(tmp_path))
    assert found.state == "left out"
    assert "Set PERSISTENCE_BACKEND=s3" in found.reason


def test_a_whole_run_tells_writes_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, source in OTHERS.items():
        (tmp_path / f"{name}.py").write_text(source)
    groups, out = (
        [Group(name, f"about {name}", name) for name in ("bench_fine", "bench_lacking", "bench_broken")],
        StringIO(),
    )
    work, file, chart = tmp_path, tmp_path / "out.jsonl", tmp_path / "out.png"
    done = perform(groups, Settings(work / "w"), file, chart=chart, console=Console(file=out, width=120))
    assert done.crashed
    assert results.read(file).figures == done.outcomes[0].figures
    said = out.getvalue()
    for words in (
        "about bench_fine",
        "0.50",
        "left out: restic is not installed",
        "failed: RuntimeError: other",
        str(file),
    ):
        assert words in said
    assert "1 of 1 goals reached" in said
    assert (done.chart == chart) == chart.exists()
    nothing = perform(groups[1:], Settings(work / "w"), tmp_path / "none", chart=chart, console=Console(file=out))
    assert nothing.chart is None
    assert not (tmp_path / "none").exists()


def test_the_largest_group_and_size_say_what_is_needed(tmp_path: Path) -> None:
    groups = [Group("a", "", "a", disk=2, memory=1), Group("b", "", "b", disk=1, memory=1, tokens=1024)]
    need = Need.of(groups, Settings(tmp_path, sizes=(1024, 8192)))
    assert need.disk_bytes == 2 * 8192 * suite.TOKEN_BYTES + suite.FIXED_DISK_BYTES
    assert Need.of(groups[1:], Settings(tmp_path)).memory_bytes == 1024 * suite.TOKEN_BYTES + suite.FIXED_MEMORY_BYTES


def test_a_lack_of_room_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(StoreFull, match=r"needs 3\.0 GiB on the disk") as failure:
        place.check(Need(3 * GIB, 0), tmp_path, free_disk=3 * GIB)  # the floor is left to others
    assert "--dir" in failure.value.hint
    with pytest.raises(OutOfMemory, match=r"needs 2\.0 GiB of memory, and 1\.0 GiB are free") as failure:
        place.check(Need(0, 2 * GIB), tmp_path, free_memory=GIB)
    assert "--sizes" in failure.value.hint
    place.check(Need(0, 2 * GIB), tmp_path, free_memory=0)  # nobody says


def test_files_lie_beside_the_home_and_never_in_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert place.beside(home / "not" / "yet") == tmp_path
    home.mkdir()
    assert place.beside(home) == tmp_path
    with pytest.raises(BadInput, match="nothing can be put beside /proc") as failure:
        place.beside(Path("/proc"))
    assert "--dir" in failure.value.hint


def test_a_workplace_goes_with_what_is_in_it_and_with_what_the_killed_left(tmp_path: Path) -> None:
    left, used = tmp_path / f"{place.PREFIX}left", tmp_path / f"{place.PREFIX}used"
    for folder in (left, used):
        folder.mkdir()
        (folder / "file").write_text("large")
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(KeyboardInterrupt), place.workplace(tmp_path) as work:
        (work / "home").mkdir()
        assert not left.exists()
        raise KeyboardInterrupt
    os.close(lock)
    assert list(tmp_path.iterdir()) == [used]


def test_sizes_are_read() -> None:
    assert parse_sizes("8192, 1000,1000") == (1000, 8192)
    for text in ("", "1,000", "many", "-5", "99999999"):
        with pytest.raises(BadInput, match="names no sizes"):
            parse_sizes(text)


def test_how_many_times_better_is_the_same_for_both_kinds_of_figures() -> None:
    faster = Figure("g", "f", "s", [1.0, 1.0], "other", [4.0, 2.0], faster_at_least=2)
    more = Figure("g", "f", "tokens/s", [9.0, 8.0], "other", [10.0, 10.0], at_least_ratio=0.97)
    alone = Figure("g", "f", "s", [0.004], at_most=0.005)
    for figure, times, wanted, met in ((faster, 3.0, 2.0, True), (more, 0.85, 0.97, False), (alone, 1.25, 1.0, True)):
        found = figure.times_better()
        assert found is not None
        assert found.median == pytest.approx(times, rel=0.12)
        assert found.low <= found.median <= found.high
        assert (figure.wanted_times(), figure.met()) == (wanted, met)
    assert Figure("g", "f", "s", [1.0]).times_better() is None


def test_where_results_cannot_be_written_nothing_is_measured(tmp_path: Path) -> None:
    groups, settings = [Group("none", "", "a_module_that_nobody_has")], Settings(tmp_path / "w")
    for write_to, chart in (
        (tmp_path / "no" / "out", None),
        (tmp_path, None),
        (tmp_path / "out", tmp_path / "no" / "c"),
    ):
        with pytest.raises(BadInput, match="no file can be written"):
            perform(groups, settings, write_to, chart=chart, console=Console(file=StringIO()))
    assert list(tmp_path.iterdir()) == []


def test_a_usual_run_is_between_a_quick_one_and_a_full_one(tmp_path: Path) -> None:
    rounds = [
        each.rounds(9, 3) for each in (Settings(tmp_path, True), Settings(tmp_path, brief=True), Settings(tmp_path))
    ]
    assert rounds == [3, 6, 9]
    usual = sum(each.lasts_s(Settings(tmp_path, sizes=(1000,), brief=True)) for each in chosen(",".join(USUAL)))
    assert usual <= 120  # as its help says
    whole = chosen("save,restore,cold,growth,stall,text_save,dedupe,memory,load,codec")
    assert all(each.disk_bytes(Settings(tmp_path)) < 64 * GIB for each in whole)
    assert all(each.memory_bytes(Settings(tmp_path)) < 18 * GIB for each in whole)
