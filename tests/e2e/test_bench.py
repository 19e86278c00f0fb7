"""`torpor bench` as a process: a small run with a real daemon and a real bucket, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest
from support.commands import as_json, run
from support.forked import TORCH, Forked, clean_environment, start
from support.s3_servers import Place
from support.waiting import until
from torpor.measure import bucket
from torpor.measure.place import PREFIX
from torpor.measure.settings import Settings

# What runs without torch; finders are asked in order.
WITHOUT_TORCH = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Hidden())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else found(name, package)
from torpor.cli.entry import main
main()
"""


@contextmanager
def bench_with_a_daemon(home: Path) -> Iterator[tuple[Forked, BinaryIO]]:
    """A run whose daemon has started, and the file of what it says."""
    words, environment = ["bench", "--quick", "--only", "text_save"], {**clean_environment(), "TORPOR_HOME": str(home)}
    with tempfile.TemporaryFile() as said:
        running = start(words, environment, stdout=said, stderr=said, imports=TORCH)
        socket = f"{PREFIX}*/*/home/torpor.sock"
        until(lambda: [*home.parent.glob(socket)] or running.poll() is not None, "its daemon did not start")
        yield running, said


@pytest.mark.parametrize(("end", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_leaves_nothing(home: Path, end: signal.Signals, status: int) -> None:
    """It comes while its daemon runs, in a home of its own beside that of the user; Ctrl-C does not reach the daemon."""
    with bench_with_a_daemon(home) as (running, said):
        for lock in home.parent.glob(f"{PREFIX}*/*/home/daemon.lock"):
            assert os.getpgid(int(lock.read_text())) != os.getpgid(running.pid)
        running.send_signal(end)
        ended = running.wait(60)
        said.seek(0)
        assert ended == status, said.read().decode()
    assert [path.name for path in home.parent.iterdir()] == ["home"]
    assert [path.name for path in home.iterdir()] == ["bench"]


def test_a_run_says_what_it_left_out(home: Path, tmp_path: Path) -> None:
    found = as_json(home, "bench", "--bucket", "--only", "bucket", "--output", tmp_path / "out.jsonl")
    assert found["groups"]["bucket"]["state"] == "left out"
    assert found["figures"] == []
    assert found["machine"]["cores"] >= 1
    assert not home.exists()


def test_the_bucket_is_measured_and_is_as_it_was_before(
    home: Path, weed: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    weed.client().put_object(Bucket=weed.bucket, Key="theirs", Body=b"kept")
    for name, value in {**weed.settings, "TORPOR_HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket, "FEW_TOKENS", 64)
    up, down, sent = bucket.measure(Settings(home.parent, quick=True))
    for figure in (up, down):
        assert min(*figure.ours, *figure.baseline) > 0
    assert 50 < sent.ours[0] < 90  # of bf16 numbers a part is noise
    assert names(weed) == ["theirs"]
    assert list(home.parent.iterdir()) == []


def names(place: Place) -> list[str]:
    return [found["Key"] for found in place.client().list_objects_v2(Bucket=place.bucket).get("Contents", [])]


def test_what_is_refused_says_the_next_step(home: Path, tmp_path: Path) -> None:
    assert "There are save, restore" in run(home, "bench", "--only", "speed", status=2)
    assert "--sizes 1000" in run(home, "bench", "--only", "save", "--sizes", "262144", "--dir", tmp_path, status=8)
    assert "names no sizes" in run(home, "bench", "--sizes", "many", status=2)
    assert "config.json" in run(home, "bench", "--model", tmp_path / "none", status=2)
    assert "`torpor bench` writes one" in run(home, "bench", "--compare", "a", "b", status=3)
    assert list(tmp_path.iterdir()) == []
    assert not home.exists()  # "nothing was written"


def test_without_torch_it_says_what_to_install(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "bench"],
        env={**clean_environment(), "TORPOR_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 9, done.stderr
    assert "a bench needs torch, not installed here" in done.stderr
    assert "pip install 'torpor[all]'" in done.stderr


def test_the_daemon_of_a_run_that_is_killed_ends_with_it(home: Path) -> None:
    with bench_with_a_daemon(home) as (running, _):
        (daemon,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        running.send_signal(signal.SIGKILL)
        running.wait()
    until(lambda: _has_ended(int(daemon)), "the daemon lives on")


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
