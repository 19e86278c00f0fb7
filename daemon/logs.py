"""The daemon's log: a file that rotates, a line an entry, for people or (`log_format = "json"`) for programs."""

from __future__ import annotations

import logging
import logging.handlers
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

LOG_NAME = "daemon.log"
FILE_BYTES, FILES_KEPT = 2 << 20, 3  # and the one that is written to
LogFormat = Literal["text", "json"]
# Controls, line breaks of Unicode, and what turns the direction of writing.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class JsonLines(logging.Formatter):
    """One JSON object a line: `at` (RFC 3339, UTC), `level`, `logger`, `thread`, `message`, and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an entry."""
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry).decode()
        except TypeError:  # a file name that is not UTF-8
            sound = {name: str(value).encode(errors="backslashreplace").decode() for name, value in entry.items()}
            return orjson.dumps(sound).decode()


class _OneLine(logging.Formatter):
    """A line an entry also where a message holds line breaks; only a traceback has lines of its own.

    What would steer the terminal on which somebody reads the log is written out: names of files come from anywhere.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (its name in the standard library)
        """Write a message on one line."""
        record.message = _STEERING.sub(_written_out, record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  (its name in the standard library)
        """Write a traceback, whose last line may hold anything."""
        return "\n".join(_STEERING.sub(_written_out, line) for line in super().formatException(ei).split("\n"))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def log_to_file(folder: Path, level: str, form: LogFormat) -> None:
    """Send all logging of this process to the file, and nowhere else."""
    handler = logging.handlers.RotatingFileHandler(
        folder / LOG_NAME, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8", errors="backslashreplace"
    )
    text = _OneLine("%(asctime)s %(levelname)s %(name)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)
