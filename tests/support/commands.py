"""The command line as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson


def run(home: Path, *words: str | Path, status: int | None = 0, cwd: str | Path = "/") -> str:
    """Run a command and return what it printed; a traceback or another exit status fails the test."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORPOR_")} | {"TORPOR_HOME": str(home)}
    environment |= {"COLUMNS": "140", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torpor.cli.entry", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert "Traceback" not in done.stdout + done.stderr
    if status is not None:
        assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if "--json" in words else done.stdout + done.stderr


def as_json(home: Path, *words: str | Path, status: int | None = 0, cwd: str | Path = "/") -> Any:
    """Run a command with `--json` and return its object."""
    return orjson.loads(run(home, *words, "--json", status=status, cwd=cwd))
