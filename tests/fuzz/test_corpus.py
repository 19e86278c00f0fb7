"""What the fuzzer starts from, and what it once found: run through the targets without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.mutate import mutate_json
from fuzz.targets import DOCUMENTS, TARGETS, only_known_errors

CORPUS = Path(__file__).with_name("corpus")
FILES = [path for path in sorted(CORPUS.rglob("*")) if path.is_file()]
MENDED = "mended-"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_but_a_known_error_comes_out(path: Path) -> None:
    code = only_known_errors(TARGETS[path.parent.name], path.read_bytes())
    assert code == "none" or path.name.startswith(MENDED)  # a seed that is refused would lead nowhere


def test_make_fuzz_runs_every_target() -> None:
    lines = (CORPUS.parents[2] / "Makefile").read_text().splitlines()
    (named,) = (line for line in lines if line.startswith("FUZZ_TARGETS"))
    assert named.split()[2:] == list(TARGETS)


def test_every_target_has_seeds_and_every_seed_a_target() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)
    assert {path.parent.name for path in FILES if path.suffix == ".json"} == DOCUMENTS
    assert sum(path.stat().st_size for path in FILES) < 200_000


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_mutants_of_the_seeds_are_still_documents_and_harmless(name: str) -> None:
    seeds = [path.read_bytes() for path in FILES if path.parent.name == name]
    mutants = [mutate_json(seeds[n % len(seeds)], n, lambda raw: raw) for n in range(300)]
    assert len(set(mutants) - set(seeds)) > 100
    for mutant in mutants:
        only_known_errors(TARGETS[name], mutant)
