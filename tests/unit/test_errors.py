"""The error tree: codes, exit statuses, problems."""

from __future__ import annotations

import orjson
import pytest
from torpor.state import errors
from torpor.state.problems import from_problem, to_problem


def test_codes_are_unique_and_every_class_has_its_own() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.TorporError)]
    assert len({c.code for c in classes}) == len(classes)
    assert errors.error_classes() == {c.code: c for c in classes}


@pytest.mark.parametrize("cls", errors.error_classes().values())
def test_an_error_survives_its_problem(cls: type[errors.TorporError]) -> None:
    error = cls("what happened")
    problem = to_problem(error)
    again = from_problem(problem)
    assert type(again) is cls
    assert (again.detail, again.hint) == ("what happened", error.hint)
    assert error.hint
    assert error.title
    assert 1 <= error.exit_code < 64
    assert problem["status"] == cls.http_status
    assert problem["type"].startswith("urn:torpor:error:")


def test_missing_blobs_carry_their_digests() -> None:
    again = from_problem(to_problem(errors.MissingBlobs("gone", digests=("a" * 64,))))
    assert isinstance(again, errors.MissingBlobs)
    assert again.digests == ("a" * 64,)


def test_a_problem_can_always_be_sent() -> None:
    """A file's content and its name may hold what UTF-8 cannot."""
    problem = to_problem(errors.InvalidFile("/\ud800: no", hint="\udcff"))
    assert orjson.loads(orjson.dumps(problem)) == problem
    assert problem["detail"] == "/\\ud800: no"


def test_an_unknown_code_becomes_the_root() -> None:
    assert type(from_problem({"code": "from-the-future", "title": "x"})) is errors.TorporError


def test_the_tree_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    drawn = {line.split("── ")[-1].split()[0] for line in errors.__doc__.splitlines() if "── " in line}
    assert drawn | {"TorporError"} == {c.__name__ for c in errors.error_classes().values()}
