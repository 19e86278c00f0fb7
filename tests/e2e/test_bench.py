"""`torpor bench` as a process: a small run with a real daemon and a real bucket, and what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from support.commands import as_json, run
from support.forked import clean_environment
from support.s3_servers import Place
from support.waiting import until

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


def test_a_run_that_is_ended_keeps_what_it_has_and_leaves_nothing_else(home: Path, weed: Place) -> None:
    """Saves were measured; its own daemon sends to the bucket when SIGTERM comes."""
    weed.client().put_object(Bucket=weed.bucket, Key="theirs", Body=b"kept")
    environment = {**clean_environment(), **weed.settings, "TORPOR_HOME": str(home)}
    command = [sys.executable, "-m", "torpor.cli.entry", "bench", "--quick", "--sizes", "64", "--only", "save"]
    running = subprocess.Popen(
        [*command, "--bucket"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )  # fmt: skip
    until(lambda: len(names(weed)) > 1 or running.poll() is not None, "nothing was put into the bucket")
    running.send_signal(signal.SIGTERM)
    said = running.communicate(timeout=60)[0].decode()
    assert running.returncode == 143, said
    assert names(weed) == ["theirs"]
    assert [path.name for path in home.parent.iterdir()] == ["home"]
    assert [path.name for path in home.iterdir()] == ["bench"]  # its daemon had a home of its own
    (kept,) = home.joinpath("bench").iterdir()
    changes = as_json(home, "bench", "--compare", kept, kept)["changes"]
    assert len({change["against"] for change in changes}) >= 3
    assert {(change["group"], change["verdict"]) for change in changes} == {("save", "within the spread")}
    assert "full save, 64 tokens" in run(home, "bench", "--compare", kept, kept)


def names(place: Place) -> list[str]:
    return [found["Key"] for found in place.client().list_objects_v2(Bucket=place.bucket).get("Contents", [])]


def test_what_is_refused_says_the_next_step(home: Path, tmp_path: Path) -> None:
    assert "There are save, restore" in run(home, "bench", "--only", "speed", status=2)
    assert "--sizes 1000" in run(home, "bench", "--only", "save", "--sizes", "262144", "--dir", tmp_path, status=8)
    assert "names no sizes" in run(home, "bench", "--sizes", "many", status=2)
    assert "config.json" in run(home, "bench", "--model", tmp_path / "none", status=2)
    assert "`torpor bench` writes one" in run(home, "bench", "--compare", "a", "b", status=3)
    assert list(tmp_path.iterdir()) == []


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
