"""The log: one entry a line for programs and for people, and files that stay small."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from torpor.daemon import logs
from torpor.daemon.logs import LOG_NAME, LogFormat, log_to_file


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[LogFormat], Path]]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def start(form: LogFormat) -> Path:
        log_to_file(tmp_path, "info", form)
        return tmp_path / LOG_NAME

    yield start
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_object_a_line(started: Callable[[LogFormat], Path]) -> None:
    path, log = started("json"), logging.getLogger("torpor.test")
    log.info("two\nlines of %s", "Zürich")
    log.debug("not this")
    log.warning("a name that is no text: %s", b"a\xff".decode(errors="surrogateescape"))
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    first, second, third = map(orjson.loads, path.read_bytes().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("info", "torpor.test", "two\nlines of Zürich")
    assert first["at"].endswith("+00:00")
    assert second["message"] == "a name that is no text: a\\udcff"
    assert third["traceback"].endswith("ValueError: broken")


def test_nobody_forges_a_line(started: Callable[[LogFormat], Path]) -> None:
    path = started("text")
    logging.getLogger("torpor.test").info("a name\n2026-01-01 ERROR torpor.daemon all is lost")
    (line,) = path.read_text().splitlines()
    assert line.endswith("INFO torpor.test a name\\n2026-01-01 ERROR torpor.daemon all is lost")


def test_nobody_steers_the_terminal_of_who_reads_it(started: Callable[[LogFormat], Path]) -> None:
    path, log = started("text"), logging.getLogger("torpor.test")
    log.info("a name \x1b]0;title\x07 \x9b2J \u202etxt.exe\u2028 Zürich 日本")
    try:
        raise ValueError("\x1b[2Jbroken")
    except ValueError:
        log.exception("failed")
    first, *rest = path.read_text().split("\n")
    assert first.endswith("a name \\x1b]0;title\\x07 \\x9b2J \\u202etxt.exe\\u2028 Zürich 日本")
    assert rest[-2:] == ["ValueError: \\x1b[2Jbroken", ""]


def test_files_rotate(started: Callable[[LogFormat], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2000)
    path = started("json")
    for number in range(100):
        logging.getLogger("torpor.test").info("entry %d %s", number, "x" * 100)
    found = sorted(path.parent.iterdir())
    assert [each.name for each in found] == [LOG_NAME, *(f"{LOG_NAME}.{n}" for n in range(1, logs.FILES_KEPT + 1))]
    assert all(each.stat().st_size <= 2000 for each in found)
    assert b"entry 99 " in path.read_bytes()
