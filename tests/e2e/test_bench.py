"""`torpor bench` as a process: a small run against a real daemon and a real bucket, and what it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from support.commands import as_json, run
from support.forked import clean_environment
from support.s3_servers import Place
from support.waiting import until
from torpor.measure.place import PREFIX

SMALL = ("bench", "--quick", "--sizes", "64")
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


def test_a_small_run_measures_keeps_its_results_and_leaves_nothing_else(home: Path) -> None:
    work, output = home.parent / "work", home.parent / "out.jsonl"
    found = as_json(home, *SMALL, "--only", "save", "--dir", work, "--output", output)
    assert found["groups"]["save"]["state"] == "done", found["groups"]
    against = {figure["against"] for figure in found["figures"]}
    assert len(against) >= 3
    assert found["versions"]["torpor"]
    assert len(output.read_bytes().splitlines()) == len(found["figures"])
    assert list(work.iterdir()) == []
    assert not home.exists()  # a daemon of its own, in a home of its own
    same = run(home, "bench", "--compare", output, output)
    assert same.count("within the spread") == len(found["figures"]) + 1  # and what that means
    changes = as_json(home, "bench", "--compare", output, output)
    assert {change["verdict"] for change in changes["changes"]} == {"within the spread"}


def test_the_bucket_is_as_it_was_before(home: Path, weed: Place) -> None:
    environment = {**clean_environment(), **weed.settings, "TORPOR_HOME": str(home)}
    command = [
        sys.executable,
        "-m",
        "torpor.cli.entry",
        *SMALL,
        "--only",
        "bucket",
        "--output",
        str(home.parent / "out"),
    ]
    weed.client().put_object(Bucket=weed.bucket, Key=f"{weed.prefix}theirs", Body=b"kept")
    ended = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until(lambda: len(names(weed)) > 1 or ended.poll() is not None, "something was put there")
    ended.send_signal(signal.SIGTERM)
    out = ended.communicate(timeout=60)[0].decode()
    assert ended.returncode == 143, out
    assert names(weed) == [f"{weed.prefix}theirs"]
    assert list(home.parent.glob(f"{PREFIX}*")) == []


def names(place: Place) -> list[str]:
    return [found["Key"] for found in place.client().list_objects_v2(Bucket=place.bucket).get("Contents", [])]


def test_without_a_bucket_it_is_left_out_in_words(home: Path, tmp_path: Path) -> None:
    said = run(home, *SMALL, "--only", "bucket", "--dir", tmp_path)
    assert "left out: there is no bucket to measure. Set PERSISTENCE_BACKEND=s3" in said


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
