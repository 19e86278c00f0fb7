"""The command line as a process. It is forked off one that has imported everything, since a suite runs hundreds."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import orjson

_turn = threading.Lock()

# Reads a line of JSON a command on stdin, runs it in a child of its own, and answers with its exit status.
_ZYGOTE = """
import json, os, sys
import torpor.cli.entry, torpor.cli.main

for line in sys.stdin:
    asked = json.loads(line)
    pid = os.fork()
    if not pid:
        for name, number in (("in", 0), ("out", 1), ("err", 2)):
            fd = os.open(asked[name], os.O_RDONLY if name == "in" else os.O_WRONLY)
            os.dup2(fd, number)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["torpor", *asked["words"]]
        try:
            torpor.cli.entry.main()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def _environment(home: Path | None) -> dict[str, str]:
    ours = ("TORPOR_", "S3_", "AWS_", "PERSISTENCE_BACKEND")
    found = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {"COLUMNS": "140", "NO_COLOR": "1"}
    return found | ({} if home is None else {"TORPOR_HOME": str(home)})


@functools.cache
def _zygote() -> subprocess.Popen[bytes]:
    """Start it; it ends with this process, whose pipe it reads."""
    return subprocess.Popen(
        [sys.executable, "-c", _ZYGOTE],
        env=_environment(None),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        start_new_session=True,
    )


def _run(environment: dict[str, str], cwd: str, words: list[str]) -> tuple[int, str, str]:
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        asked = {"in": os.devnull, "out": out.name, "err": err.name}
        asked |= {"cwd": cwd, "words": words, "environment": environment}
        with _turn:
            zygote = _zygote()
            assert zygote.stdin is not None
            assert zygote.stdout is not None
            zygote.stdin.write(orjson.dumps(asked) + b"\n")
            zygote.stdin.flush()
            status = int(zygote.stdout.readline())
        return status, out.read().decode(), err.read().decode()


_STARTED_WITH = {k: v for k, v in os.environ.items() if k.startswith("PYTHON")}


def _starts_otherwise() -> bool:
    """Tell whether the interpreter itself is to start in another way than the one that commands are forked off."""
    return {k: v for k, v in os.environ.items() if k.startswith("PYTHON")} != _STARTED_WITH


def _run_anew(environment: dict[str, str], cwd: str, words: list[str]) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "torpor.cli.entry", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def run(home: Path, *words: str | Path, status: int | None = 0, cwd: str | Path = "/") -> str:
    """Run a command and return what it printed; a traceback or another exit status fails the test."""
    environment, spelt = _environment(home), [str(word) for word in words]
    code, out, err = (_run_anew if _starts_otherwise() else _run)(environment, str(cwd), spelt)
    assert "Traceback" not in out + err
    if status is not None:
        assert code == status, out + err
    return out if "--json" in words else out + err


def as_json(home: Path, *words: str | Path, status: int | None = 0, cwd: str | Path = "/") -> Any:
    """Run a command with `--json` and return its object."""
    return orjson.loads(run(home, *words, "--json", status=status, cwd=cwd))
