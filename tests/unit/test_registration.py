"""The menu's entry and the type of our files, with the programs that real desktops read them with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import lz4.frame
import orjson
import pytest
from torpor.codec.bundle import MANIFEST_NAME, header
from torpor.desktop import registration
from torpor.desktop.application import ENTRY_FILE, MEDIA_TYPE, desktop_entry

V1 = Path(__file__).parents[1] / "fixtures" / "v1"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}


def kind(path: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(["xdg-mime", "query", "filetype", path], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_files_are_known_by_name_and_by_content_and_open_with_us(tmp_path: Path, environ: dict[str, str]) -> None:
    assert registration.registered(environ).opens_files is None
    written = registration.install(["/opt/my apps/torpor"], environ)
    assert registration.installed(environ) == written
    found = registration.registered(environ)
    assert (found.entry, found.own, found.opens_files) == (written[0], True, ENTRY_FILE)
    document = {"config_snapshot": {}, "metadata": {"format": "qwen-state/v1"}, "text_context": {}, "vision_cache": {}}
    samples = {
        "named.qwnbak": b"anything",
        "v1": (V1 / "spec-8b.qwnbak").read_bytes(),
        "sorted": lz4.frame.compress(orjson.dumps(document), store_size=False),
        "bundle": header(MANIFEST_NAME, 100) + bytes(512),
    }
    for name, data in samples.items():
        (tmp_path / name).write_bytes(data)
        assert kind(tmp_path / name, environ) == MEDIA_TYPE, name
    (tmp_path / "other").write_bytes(lz4.frame.compress(b"something else" * 100))
    assert kind(tmp_path / "other", environ) == "application/x-lz4"


def test_what_was_written_goes_and_a_package_of_the_system_stays(tmp_path: Path, environ: dict[str, str]) -> None:
    system = tmp_path / "system" / "applications" / ENTRY_FILE
    system.parent.mkdir(parents=True)
    system.write_text(desktop_entry(["/usr/bin/torpor"]))
    environ |= {"XDG_DATA_HOME": str(tmp_path / "own"), "XDG_DATA_DIRS": f"{tmp_path / 'system'}:/usr/share"}
    assert registration.registered(environ).entry == system
    assert not registration.registered(environ).own
    written = registration.install(["/opt/torpor"], environ)
    assert registration.registered(environ).own
    assert registration.remove(environ) == written
    assert registration.remove(environ) == []
    assert not [path for path in (tmp_path / "own").rglob("*torpor*") if path.is_file()]
    assert registration.registered(environ).entry == system


def test_a_desktop_without_its_programs_is_no_failure(environ: dict[str, str]) -> None:
    bare = environ | {"PATH": "/nowhere"}
    assert all(path.is_file() for path in registration.install(["/opt/torpor"], bare))
    assert registration.registered(bare).opens_files is None


def test_the_entry_is_one_by_the_specification(tmp_path: Path) -> None:
    validator = shutil.which("desktop-file-validate")
    assert validator is not None
    for command in (["/usr/bin/torpor"], ["/home/a b/50%/$x/torpor"], ["/usr/bin/python3", "-m", "torpor.cli.entry"]):
        path = tmp_path / ENTRY_FILE
        path.write_text(desktop_entry(command))
        done = subprocess.run([validator, path], capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
