"""Values that may be forgotten: what is kept, what goes first, and a daemon that is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torpor.client.remembered import AWAY_S, InDaemon, InProcess, UsesMemory
from torpor.db.index import Index
from torpor.db.remembered import TOUCH_S, Remembered
from torpor.state.errors import BadInput, DaemonNotRunning, NotFound, TorporError
from torpor.state.remembered import parse_key, parse_kind


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    found = Index(tmp_path / "index.sqlite")
    yield found
    found.close()


def test_the_least_recently_used_goes(index: Index) -> None:
    values = Remembered(index, max_entries=3)
    for now, key in enumerate("abc"):
        values.put("digest", key, f'"{key}"', now=now * TOUCH_S * 2)
    assert values.get("digest", "a", now=10 * TOUCH_S) == '"a"'  # used just now
    values.put("digest", "d", "4", now=11 * TOUCH_S)
    assert [values.get("digest", key, now=11 * TOUCH_S) for key in "abcd"] == ['"a"', None, '"c"', "4"]
    values.put("digest", "a", "5", now=12 * TOUCH_S)
    assert values.get("digest", "a", now=12 * TOUCH_S) == "5"
    assert values.get("digest", "c", now=12 * TOUCH_S) == '"c"'


def test_kinds_do_not_touch_each_other(index: Index) -> None:
    values = Remembered(index, max_entries=1)
    values.put("digest", "k", "1", now=0)
    values.put("rate", "k", "2", now=1)
    assert (values.get("digest", "k", now=1), values.get("rate", "k", now=1)) == ("1", "2")


def test_it_outlives_the_process(index: Index, tmp_path: Path) -> None:
    Remembered(index).put("rate", "k", "[1.5]", now=0)
    again = Index(tmp_path / "index.sqlite")
    assert Remembered(again).get("rate", "k", now=0) == "[1.5]"
    again.close()


@pytest.mark.parametrize("key", ["", "A", "a/b", "../x", "a" * 201, "ä", "a b", "a\n"])
def test_bad_keys(key: str) -> None:
    with pytest.raises(BadInput):
        parse_key(key)
    with pytest.raises(BadInput):
        InProcess().put("digest", key, 1)


def test_bad_kinds() -> None:
    with pytest.raises(BadInput):
        parse_kind("anything")
    assert parse_kind("rate") == "rate"


class Failing:
    """An API whose every call fails in one way."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def call(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize(
    ("error", "asked_again"),
    [
        (DaemonNotRunning("gone"), False),
        (NotFound("nothing"), True),
        (TorporError("a defect"), True),
        (RuntimeError("the client has been closed"), True),
    ],
)
def test_a_daemon_that_is_away_is_one_that_has_forgotten(error: Exception, asked_again: bool) -> None:
    api, now = Failing(error), [100.0]
    memory = InDaemon(api, clock=lambda: now[0])  # type: ignore[arg-type]
    assert memory.get("digest", "k") is None
    memory.put("digest", "k", 1)
    assert api.calls == (2 if asked_again else 1)
    now[0] += AWAY_S
    assert memory.get("digest", "k") is None
    assert api.calls == (3 if asked_again else 2)


def test_a_memory_of_one_process_holds_copies() -> None:
    memory, value = InProcess(), {"a": [1]}
    memory.put("digest", "k", value)
    value["a"].append(2)
    assert memory.get("digest", "k") == {"a": [1]}
    assert memory.get("digest", "other") is None


def test_who_can_use_a_memory() -> None:
    from torpor.adapters.plain import PlainTarget
    from torpor.adapters.transformers import TransformersSession, TransformersTarget

    assert isinstance(TransformersTarget(None), UsesMemory)
    assert issubclass(TransformersSession, UsesMemory)
    assert not isinstance(PlainTarget(), UsesMemory)
