"""`torpor key` against a real daemon and a real S3 server: files, pipes, a terminal; and no secret anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import as_json, run
from support.daemon import Daemon
from support.forked import PRINTING, clean_environment, start
from support.s3_servers import Place
from support.terminal import at_terminal

WORDS = "correct horse battery staple"
TYPED = "a passphrase of somebody"
FILE_ONLY = {"TORPOR_KEY_STORAGE": "file", "TORPOR_LOG_LEVEL": "debug"}


@pytest.fixture
def words(tmp_path: Path) -> Path:
    file = tmp_path / "words"
    file.write_text(WORDS + "\nmore lines do not count\n")
    return file


@pytest.fixture
def machine(home: Path, moto_room: Place) -> Iterator[Daemon]:
    with Daemon(home, settings=moto_room.settings | FILE_ONLY) as running:
        yield running


def said(machine: Daemon) -> str:
    logs = "".join(path.read_text() for path in (machine.home / "logs").iterdir())
    return logs + machine.output()


def documents(place: Place) -> list[bytes]:
    client = place.client()
    found = client.list_objects_v2(Bucket=place.bucket, Prefix=place.prefix + "keys/").get("Contents", [])
    return [client.get_object(Bucket=place.bucket, Key=row["Key"])["Body"].read() for row in found]


def post(machine: Daemon, path: str, status: int = 200, **body: object) -> dict[str, Any]:
    answer = machine.request("POST", path, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_two_machines_and_a_rotation(machine: Daemon, moto_room: Place, words: Path, tmp_path: Path) -> None:
    made = as_json(machine.home, "key", "init", "--passphrase-file", words)
    assert made["made"]
    assert made["kept_in"] == "file"
    assert "only you can read" in made["warning"]
    assert len(documents(moto_room)) == 1

    with Daemon(tmp_path / "second", settings=moto_room.settings | FILE_ONLY) as other:
        assert "no: `torpor key init`" in run(other.home, "key", "show")
        assert post(other, "/v1/key/rotate", 409, passphrase=WORDS)["code"] == "key-missing"
        unlocked = post(other, "/v1/key/init", passphrase=WORDS)
        assert (unlocked["made"], unlocked["current"]) == (False, made["current"])

        newer = as_json(other.home, "key", "rotate", "--passphrase-file", words)
        assert [key["id"] for key in newer["keys"]] == [made["current"], newer["current"]]
        assert len(documents(moto_room)) == 1
        shown = run(machine.home, "key", "show")
        assert newer["current"] in shown
        assert "128.0 MiB a guess" in shown
        assert post(machine, "/v1/key/init", passphrase=WORDS)["current"] == newer["current"]
        recovery = post(other, "/v1/key/recovery")["recovery"]
        assert recovery.count("\n") == 3

        paper, fresh = tmp_path / "paper", tmp_path / "fresh"
        shown, warning = run(machine.home, "key", "show", "--recovery").split("Whoever has this text")
        assert "can read every backup" in warning
        paper.write_text(shown)
        fresh.write_text(TYPED)
        arguments = ("key", "init", "--recovery-file", paper, "--passphrase-file", fresh)
        assert as_json(other.home, *arguments)["current"] == newer["current"]
        assert post(machine, "/v1/key/init", 409, passphrase=WORDS)["code"] == "wrong-passphrase"
        assert post(machine, "/v1/key/init", passphrase=TYPED)["current"] == newer["current"]
        for secret in (WORDS, TYPED, *recovery.splitlines()[1:]):
            assert secret not in said(machine) + said(other)


def typed(home: Path, *words: str, lines: list[str]) -> tuple[int, str]:
    """Run a command at a terminal, and type a line whenever it asks."""
    with at_terminal(clean_environment() | PRINTING | {"TORPOR_HOME": str(home)}, *words) as terminal:
        for line in lines:
            terminal.until(": ")
            terminal.type(line + "\n")
        return terminal.end(), terminal.shown


def test_a_passphrase_comes_from_a_pipe_or_a_terminal(machine: Daemon, moto_room: Place) -> None:
    assert piped(machine, "short\n") == 2
    status, shown = typed(machine.home, "key", "init", lines=[TYPED, TYPED + "!"])
    assert (status, documents(moto_room)) == (2, [])
    assert "not the same" in shown
    status, shown = typed(machine.home, "key", "init", lines=[TYPED, TYPED])
    assert status == 0, shown
    assert "is made" in shown
    assert TYPED not in shown
    status, shown = typed(machine.home, "key", "rotate", lines=[TYPED])
    assert status == 0, shown
    assert "used from now on" in shown
    assert piped(machine, "") == 2
    assert piped(machine, WORDS) == 5
    assert piped(machine, TYPED + "\n") == 0
    bodies: list[object] = [{}, {"passphrase": 5}, {"passphrase": WORDS, "more": WORDS}, {"passphrase": [WORDS]}, WORDS]
    for path, body in ((path, body) for path in ("/v1/key/init", "/v1/key/rotate") for body in bodies):
        answer = machine.request("POST", path, json=body)
        assert answer.status_code == 422
        assert WORDS not in answer.text
    assert machine.request("GET", "/v1/key", token="wrong").status_code == 401
    assert machine.request("GET", "/v1/key").headers["cache-control"] == "no-store"
    for secret in (WORDS, TYPED, "short"):
        assert secret not in said(machine)


def piped(machine: Daemon, text: str) -> int:
    """Run `torpor key init` with a passphrase on stdin; return its exit status."""
    environment = clean_environment() | {"TORPOR_HOME": str(machine.home)}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as shown:
        given.write(text.encode())
        given.seek(0)
        return start(["key", "init"], environment, stdin=given, stdout=shown, stderr=shown).wait()


def test_without_a_bucket_and_from_another_machine(shared_daemon: Daemon, words: Path) -> None:
    assert "sync-off" in run(shared_daemon.home, "key", "init", "--passphrase-file", words, status=4)
    environment = {**os.environ, "TORPOR_URL": "http://torpor.invalid:7717", "TORPOR_TOKEN": "token"}
    done = subprocess.run(
        [sys.executable, "-m", "torpor.cli.entry", "key", "init", "--passphrase-file", str(words)],
        env=environment, capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    assert done.returncode == 4
    assert "on another machine" in done.stderr
