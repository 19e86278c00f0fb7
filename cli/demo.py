"""The demonstration: kill a session's process and the daemon, start both again, and compare with a run left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from ..client import connect
from ..state.errors import DaemonNotRunning, MissingExtra, Timeout, TorporError
from ..state.problems import from_problem
from . import output


def run_demo(model: str | None, tokens: int, as_json: bool) -> int:
    """Run the demonstration in a home of its own; return the exit status, 1 on any difference."""
    for name, extra in (("torch", "transformers"), ("transformers", "transformers"), ("fastapi", "daemon")):
        if find_spec(name) is None:
            raise MissingExtra(f"{name} is not installed: pip install 'torpor[{extra}]'")
    home = Path(tempfile.mkdtemp(prefix="torpor-demo-"))
    try:
        report = _run(home, model, tokens, quiet=as_json)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if as_json:
        output.print_json(report)
    else:
        _render(report)
    return 0 if report["identical"] else 1


def _run(home: Path, model: str | None, tokens: int, *, quiet: bool) -> dict[str, Any]:
    def step(text: str) -> None:
        if not quiet:
            output.console.print(f"[dim]·[/] {text}")

    step("an uninterrupted run, to compare with")
    with _worker("reference", home, model, tokens) as lines:
        expected = _wait(lines, "result")
    with _daemon(home):
        step("a session: a question, part of an answer, a save, more of it, a second save")
        with _worker("first", home, model, tokens) as lines:
            saves = [_wait(lines, "first"), _wait(lines, "second")]
            gone_on = _wait(lines, "generating")
            step(f"kill -9 of the inference process at token {gone_on['tokens']}, in mid-generation")
        step("kill -9 of the daemon")
    with _daemon(home):
        step("both started again; the session is restored and goes on")
        with _worker("second", home, model, tokens) as lines:
            restored, found = _wait(lines, "restored"), _wait(lines, "result")
    same = {name: expected[name] == found[name] for name in ("tokens", "logits", "kv")}
    return {
        "identical": all(same.values()),
        **{f"identical_{name}": value for name, value in same.items()},
        "model": model or "small Qwen3-VL, seed 0",
        "compared_tokens": len(expected["tokens"]),
        "compared_tensors": len(expected["kv"]),
        "first_save": saves[0],
        "second_save": saves[1],
        "restore": restored,
        "text": found["text"],
    }


@contextmanager
def _daemon(home: Path) -> Iterator[None]:
    """Run a daemon for a home; it ends by SIGKILL."""
    environment = {**os.environ, "TORPOR_HOME": str(home), "TORPOR_PORT": "0"}
    command = [sys.executable, "-P", "-m", "torpor.cli.entry", "serve", "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            assert process.stderr is not None
            raise DaemonNotRunning(
                f"the daemon did not start: {process.stderr.read().decode(errors='replace').strip()}"
            )
        connect(home=home).close()
        yield
    finally:
        _kill(process)


@contextmanager
def _worker(part: str, home: Path, model: str | None, tokens: int) -> Iterator[Iterator[dict[str, Any]]]:
    """Run an inference process; yields its lines. What is left of it ends by SIGKILL."""
    environment = {**os.environ, "TORPOR_HOME": str(home), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment.pop("TORPOR_URL", None)
    command = [sys.executable, "-P", "-m", "torpor.cli.demo_worker", part, model or "", str(tokens)]
    with tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=noise)
        assert process.stdout is not None

        def lines() -> Iterator[dict[str, Any]]:
            assert process.stdout is not None
            for line in process.stdout:
                yield orjson.loads(line)
            process.wait()
            noise.seek(0)
            said = noise.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise TorporError(f"the inference process ended with status {process.returncode}: {said[-1][:500]}")

        try:
            yield lines()
        finally:
            _kill(process)


def _wait(lines: Iterator[dict[str, Any]], kind: str) -> dict[str, Any]:
    for line in lines:
        if line["kind"] == "error":
            raise from_problem(line)
        if line.pop("kind") == kind:
            return line
    raise Timeout(f"no {kind!r} came")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _render(report: dict[str, Any]) -> None:
    first, second, restore = report["first_save"], report["second_save"], report["restore"]
    rows = output.table("", ">first save", ">second save", ">restore")
    rows.add_row("tokens", *(str(part["tokens"]) for part in (first, second, restore)))
    rows.add_row("bytes in the backup", output.size(first["bytes_total"]), output.size(second["bytes_total"]), "")
    rows.add_row("bytes written", output.size(first["bytes_written"]), output.size(second["bytes_written"]), "")
    rows.add_row(
        "time", *(f"{part * 1e3:.1f} ms" for part in (first["save_s"], second["save_s"], restore["restore_s"]))
    )
    rows.add_row("caller held", f"{first['stall_s'] * 1e3:.1f} ms", f"{second['stall_s'] * 1e3:.1f} ms", "")
    rows.add_row("prefill avoided", "", "", f"{restore['prefill_s'] * 1e3:.0f} ms")
    rows.add_row("mode", "", "", restore["mode"])
    output.console.print()
    output.console.print(rows)
    output.console.print()
    for name in ("tokens", "logits", "kv"):
        mark = "[green]identical[/]" if report[f"identical_{name}"] else "[bold red]DIFFERENT[/]"
        count = report["compared_tensors"] if name == "kv" else report["compared_tokens"]
        what = {"tokens": "tokens", "logits": "logits, bit for bit", "kv": "K and V tensors, bit for bit"}[name]
        output.console.print(f"{mark}  {count} {what}, against the uninterrupted run")
