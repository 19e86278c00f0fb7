"""Results of the bench: what is written is read back, two runs are compared, and a chart is drawn of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console
from torpor.measure import machine, results, telling
from torpor.measure.chart import rows_of
from torpor.measure.compare import compare, differences
from torpor.measure.figures import Figure, table
from torpor.measure.results import Run
from torpor.state.errors import BadInput, InvalidFile, NotFound

FIGURES = [
    Figure("save", "full save", "s", [0.1, 0.12, 0.11], "raw", [0.2, 0.2, 0.21], at_most_ratio=1.1),
    Figure("growth", "bytes", "B", [10.0, 11.0], "new", [10.0, 10.0], at_most_ratio=1.02, slack=0.5),
    Figure("growth", "later", "s", [0.1], "restic", [7.0], faster_at_least=50),
    Figure("live", "tokens", "tokens/s", [9.9], "without", [10.0], at_least_ratio=0.97),
    Figure("stall", "p99", "s", [0.004], at_most=0.005),
]
ABOUT: dict[str, Any] = {"machine": {"cpu": "one", "cores": 2, "load": 1.0}, "versions": {"torch": "2.13"}}


def test_figures_come_back_as_they_were(tmp_path: Path) -> None:
    path = results.new_file(tmp_path / "results")
    results.append(path, FIGURES[:2], {**ABOUT, "commit": "abc", "quick": True})
    results.append(path, FIGURES[2:], {**ABOUT, "commit": "abc", "quick": True})
    found = results.read(path)
    assert found.figures == FIGURES
    assert found.about["machine"] == ABOUT["machine"]
    assert (found.about["commit"], found.about["quick"]) == ("abc", True)
    assert len(path.read_bytes().splitlines()) == len(FIGURES)


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[1]\n", b"not json\n", b'{"group": 1, "required": null}\n'])
def test_what_is_no_result_is_told_apart(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(InvalidFile, match=r"x\.jsonl"):
        results.read(tmp_path / "x.jsonl")
    with pytest.raises(NotFound, match="there is no file"):
        results.read(tmp_path / "y.jsonl")


DAMAGED: dict[str, dict[str, Any]] = {
    "machine": {"machine": "x"},
    "versions": {"versions": [1]},
    "escape sequence": {"machine": {"cpu": "\x1b]0;evil\x07"}},
    "commit": {"commit": {"a": 1}},
    "at": {"at": "\x1b[2J"},
    "group": {"group": ["a"]},
    "name": {"figure": "\x1b[31m"},
    "unit": {"unit": 5},
    "against": {"against": 1},
    "baseline of nothing": {"baseline": {"samples": [0.0, 0.0]}},
    "short baseline": {"baseline": {"samples": [1.0]}},
    "samples": {"ours": {"samples": ["a", "b"]}},
    "infinite": {"ours": {"samples": [1e308, 1e308]}, "baseline": None},
    "required": {"required": {"ratio": "x", "value": None, "slack": 0}},
    "slack": {"required": {"ratio": None, "value": None, "slack": "s"}},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_told_with_its_line(tmp_path: Path, damage: dict[str, Any]) -> None:
    line = {**FIGURES[0].to_dict(), "ours": {"samples": [1.0, 2.0]}, "baseline": {"samples": [1.0, 2.0]}, **ABOUT}
    path = tmp_path / "x.jsonl"
    path.write_bytes(orjson.dumps(line) + b"\n" + orjson.dumps({**line, **damage}) + b"\n")
    with pytest.raises(InvalidFile, match=r"x\.jsonl, line 2"):
        results.read(path)


def test_brackets_of_a_file_are_shown_as_they_are(tmp_path: Path) -> None:
    odd = Figure("[/g]", "[/bold]f", "s", [1.0], "[red]a", [2.0])
    path = tmp_path / "x.jsonl"
    results.append(path, [odd], {"machine": {"cpu": "[/c]"}, "versions": {}, "commit": "[/x]"})
    console = Console(width=200, record=True, file=io.StringIO())
    telling.tell_comparison(console, results.read(path), results.read(path))
    console.print(table("t", [odd]))
    said = console.export_text()
    assert all(each in said for each in ("[/g]", "[/bold]f / [red]a", "commit [/x]"))


def test_a_file_of_another_version_that_says_less_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(orjson.dumps(FIGURES[0].to_dict()) + b"\n")
    console = Console(width=200, record=True, file=io.StringIO())
    telling.tell_comparison(console, results.read(path), results.read(path))
    assert "at no known time  commit unknown" in console.export_text()


def test_runs_that_begin_together_have_files_of_their_own(tmp_path: Path) -> None:
    assert len({results.new_file(tmp_path) for _ in range(3)}) == 3


def test_the_newest_two_are_found(tmp_path: Path) -> None:
    for name in ("20260103T000000Z", "20260101T000000Z", "20260102T000000Z"):
        (tmp_path / f"{name}.jsonl").write_text("x")
    (tmp_path / "20260104T000000Z.jsonl").touch()  # a run that was ended before its first figure
    assert [path.stem[:8] for path in results.newest(tmp_path, 2)] == ["20260102", "20260103"]
    with pytest.raises(BadInput, match="holds 3 of the 4 runs"):
        results.newest(tmp_path, 4)


def run_of(*figures: Figure, **about: Any) -> Run:
    return Run(Path("x"), list(figures), {**ABOUT, "at": "now", "commit": None, **about})


def timed(ours: list[float], baseline: list[float], name: str = "full save") -> Figure:
    return Figure("save", name, "s", ours, "raw" if baseline else "", baseline)


def verdict(old: Figure, new: Figure) -> str:
    (change,) = compare(run_of(old), run_of(new))
    return change.verdict


def test_the_speed_of_the_machine_cancels() -> None:
    slow = timed([1.0, 1.1, 0.9], [2.0, 2.0, 2.0])
    assert verdict(slow, timed([0.1, 0.11, 0.09], [0.2, 0.2, 0.2])) == "within the spread"
    assert verdict(slow, timed([0.1, 0.1, 0.1], [0.4, 0.4, 0.4])) == "faster"
    assert verdict(slow, timed([0.1, 0.1, 0.1], [0.1, 0.1, 0.1])) == "slower"


def test_without_a_baseline_the_values_are_compared() -> None:
    alone = timed([1.0], [])
    assert verdict(alone, timed([1.09], [])) == "within the spread"
    assert verdict(alone, timed([1.2], [])) == "slower"
    assert verdict(timed([1.0, 2.0, 3.0], []), timed([2.9], [])) == "within the spread"


def test_more_is_better_where_it_is() -> None:
    live = FIGURES[3]
    worse = Figure("live", "tokens", "tokens/s", [8.0], "without", [10.0], at_least_ratio=0.97)
    assert verdict(live, worse) == "slower"
    assert verdict(worse, live) == "faster"
    small, large = (Figure("growth", "bytes", "B", [size]) for size in (10.0, 20.0))
    assert (verdict(small, large), verdict(large, small)) == ("worse", "better")


def test_what_only_one_run_has_is_named() -> None:
    found = compare(run_of(timed([1.0], [], "a")), run_of(timed([1.0], [], "b")))
    assert [(each.name, each.verdict) for each in found] == [("b", "new"), ("a", "only before")]


def test_other_machines_are_named() -> None:
    other = {"machine": {"cpu": "another", "cores": 2, "load": 9.0}, "versions": {"torch": "2.14"}}
    assert differences(run_of(), run_of(**other)) == ["cpu: one → another", "torch: 2.13 → 2.14"]
    assert differences(run_of(), run_of()) == []


def test_a_comparison_can_be_printed() -> None:
    out = io.StringIO()
    other = {"machine": {"cpu": "another", "cores": 2}}
    telling.tell_comparison(Console(file=out, width=120), run_of(*FIGURES), run_of(*FIGURES, **other))
    assert "cpu: one → another" in out.getvalue()
    assert out.getvalue().count("within the spread") == len(FIGURES)


def test_the_machine_is_described(tmp_path: Path) -> None:
    about = machine.describe(tmp_path)
    assert about["machine"]["cores"] >= 1
    assert about["versions"]["torpor"]
    assert about["commit"] is None or len(about["commit"].rstrip("+")) == 12


def test_a_chart_has_a_bar_for_all_that_can_be_compared(tmp_path: Path) -> None:
    rows = rows_of([*FIGURES, Figure("save", "alone", "s", [1.0])])
    assert sum(row.times is not None for row in rows) == len(FIGURES)
    assert len({row.at for row in rows}) == len(rows)
    from torpor.measure.chart import draw

    draw(FIGURES, ABOUT, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_size_below_all_goals_is_not_judged() -> None:
    from torpor.measure.restore import FLOOR, WARM_AT_MOST, _figures

    for tokens, bound in ((64, None), (999, None), (1_000, 1.25)):
        (figure,) = _figures("restore", "warm restore", tokens, {"torpor": [1.0], FLOOR: [2.0]}, WARM_AT_MOST)
        assert (figure.at_most_ratio, figure.name) == (bound, f"warm restore, {tokens:,} tokens")
