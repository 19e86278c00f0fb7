"""The command line as a process. It is forked off one that has imported everything, since a suite runs hundreds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from support.forked import PRINTING, clean_environment, start, starts_otherwise


def _environment(home: Path | None) -> dict[str, str]:
    found = clean_environment() | PRINTING
    return found | ({} if home is None else {"TORPOR_HOME": str(home)})


def _run(environment: dict[str, str], cwd: str, words: list[str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = start(words, environment, cwd=cwd, stdout=out, stderr=err).wait()
        out.seek(0)
        err.seek(0)
        return status, out.read().decode(), err.read().decode()


def _run_anew(environment: dict[str, str], cwd: str, words: list[str]) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "torpor.cli.entry", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def run(home: Path, *words: str | Path, status: int | None = 0, cwd: str | Path = "/") -> str:
    """Run a command and return what it printed; a traceback or another exit status fails the test."""
    environment, spelt = _environment(home), [str(word) for word in words]
    code, out, err = (_run_anew if starts_otherwise(environment) else _run)(environment, str(cwd), spelt)
    assert "Traceback" not in out + err
    if status is not None:
        assert code == status, out + err
    return out if "--json" in words else out + err


def as_json(home: Path, *words: str | Path, status: int | None = 0, cwd: str | Path = "/") -> Any:
    """Run a command with `--json` and return its object."""
    return orjson.loads(run(home, *words, "--json", status=status, cwd=cwd))
