"""A home that is taken away: what is ours goes to the last file, and nothing else does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from torpor.cli import running
from torpor.cli.leaving import Found, carry_out, consent, plan
from torpor.desktop.service import Service
from torpor.state.errors import Conflict, UnsafeHome
from torpor.store.home import Home
from torpor.store.home_removal import Held, earlier_places, look, remove_home
from torpor.store.move import lead_to
from torpor.store.staging import Staging


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    for name in (
        "token",
        "index.sqlite",
        "index.sqlite-wal",
        "index.sqlite.before-0005",
        "config.toml",
        ".env",
        "daemon.lock",
    ):
        (made.root / name).write_text("x")
    (made.store / "manifests" / "01M81P35719XNDZ4R57NMV6DYZ.qwnbak").write_bytes(bytes(5000))
    (made.root / "sync.json.damaged").write_text("{")
    made.bench.mkdir()
    (made.bench / "20260101T000000Z.jsonl").write_text("{}")
    return made


def test_all_of_ours_goes_and_the_note_that_led_there(home: Home, tmp_path: Path) -> None:
    lead_to(tmp_path / "default", home.root)
    assert Home.at(tmp_path / "default").root == home.root
    assert earlier_places(home) == [tmp_path / "default"]
    held = look(home)
    assert (held.backups, held.foreign) == (1, ())
    assert held.size_bytes > 8192
    assert remove_home(home) == held
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_link_keeps_nothing_else_from_going(home: Home, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter").write_text("dear")
    (home.store / "groups").rmdir()
    (home.store / "groups").symlink_to(outside)
    remove_home(home)
    assert os.listdir(outside) == ["letter"]
    assert [path.name for path in home.root.rglob("*")] == ["store", "groups"]


def test_what_is_not_ours_stays_and_links_are_not_followed(home: Home, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "letter").write_text("dear")
    (home.root / "thesis.tex").write_text("years")
    (home.root / "photos").mkdir()
    (home.store / "blobs" / "link").symlink_to(outside)
    (home.root / ".env").unlink()
    (home.root / ".env").symlink_to(outside / "letter")
    assert remove_home(home).foreign == (home.root / "photos", home.root / "thesis.tex")
    assert sorted(os.listdir(home.root)) == ["photos", "thesis.tex"]
    assert (outside / "letter").read_text() == "dear"


def test_a_link_is_no_home(home: Home, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(home.root)
    with pytest.raises(UnsafeHome):
        remove_home(Home(link))
    assert home.token.exists()


def test_a_folder_of_another_program_is_no_home(home: Home, tmp_path: Path) -> None:
    """TORPOR_HOME may name the wrong folder; `store`, `logs` and `.env` are names of other programs, too."""
    project = tmp_path / "project"
    for name in ("store/index.js", "logs/today", ".env", "config.toml"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("theirs")
    with pytest.raises(UnsafeHome):
        remove_home(Home(project))
    assert not running.stop(Home(project))
    assert len(list(project.rglob("*"))) == 6
    registry = tmp_path / "registry"
    (registry / "manifests").mkdir(parents=True)
    (registry / "manifests" / "app.json").write_text("theirs")
    home.store.rename(tmp_path / "store")
    home.store.symlink_to(registry)
    with pytest.raises(UnsafeHome):
        remove_home(home)
    assert (registry / "manifests" / "app.json").exists()
    assert home.token.exists()


def test_a_removal_that_was_cut_short_goes_on(home: Home, tmp_path: Path) -> None:
    shutil.rmtree(home.store / "manifests")
    shutil.rmtree(home.store / "blobs")
    (home.store / "of-mine").write_text("years")
    assert remove_home(home).foreign == (home.store / "of-mine",)
    assert sorted(path.name for path in home.root.rglob("*")) == ["of-mine", "store"]


def test_a_note_that_leads_elsewhere_by_now_stays(home: Home, tmp_path: Path) -> None:
    lead_to(tmp_path / "default", home.root)
    (tmp_path / "default" / "moved-to").write_text(f"{tmp_path / 'other'}\n")
    (tmp_path / "default" / "moved-to").chmod(0o600)
    remove_home(home)
    assert os.listdir(tmp_path / "default") == ["moved-to"]


def test_a_folder_with_settings_leads_nowhere(home: Home, tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "config.toml").write_text("port = 1\n")
    with pytest.raises(Conflict, match=r"config\.toml"):
        lead_to(tmp_path / "default", home.root)
    assert os.listdir(tmp_path / "default") == ["config.toml"]


def found(home: Home, **changes: object) -> Found:
    values: dict[str, object] = {
        "home": home,
        "held": Held(14, 3 << 30, ()),
        "places": (Path("/p"),),
        "daemon": {"pid": 7},
        "service": Service(True, "/home/u/.config/systemd/user/torpor.service", str(home.root)),
        "tray": 8,
        "entries": (Path("/a.desktop"),),
        "files": (),
        "bucket": "b at https://s3.example.org",
        "waiting": 3,
        "keyring": "01REPO",
        "watched": ("/w",),
    }
    return Found(**values | changes)  # type: ignore[arg-type]


def test_the_plan_says_what_goes_and_what_stays(home: Home) -> None:
    things = plan(found(home), purge=False, executable="/usr/lib/torpor/bin/python3")
    assert [each.name for each in things if each.goes] == ["daemon", "service", "tray", "autostart"]
    assert [each.name for each in things if not each.goes] == [
        "home",
        "note",
        "bucket",
        "keyring",
        "watched",
        "package",
    ]
    assert "apt remove" in things[-1].about
    said = {each.name: each.about for each in things}
    assert "14 backups, 3.0 GiB" in said["home"]
    assert "3 items have not reached it" in said["bucket"]
    purged = plan(found(home), purge=True, executable="/venv/bin/python")
    assert [each.name for each in purged if not each.goes] == ["bucket", "watched", "package"]
    assert "pip uninstall" in purged[-1].about
    assert "only the passphrase" in {each.name: each.about for each in purged}["keyring"]
    assert consent(found(home)) == "delete 14 backups"


def test_a_service_of_another_home_is_left_alone(home: Home) -> None:
    other = Service(True, "/usr/lib/systemd/user/torpor.service", "/somewhere/else")
    (service,) = [each for each in plan(found(home, service=other), purge=True) if each.name == "service"]
    assert not service.goes
    assert "/somewhere/else" in service.about
    package = Service(True, "/usr/lib/systemd/user/torpor.service", str(home.root))
    (service,) = [each for each in plan(found(home, service=package), purge=False) if each.name == "service"]
    assert service.goes
    assert "stays with the package" in service.about


def leave(home: Home, environ: dict[str, str], **changes: object) -> list[str]:
    nothing = {"service": Service(False), "tray": None, "daemon": None, "keyring": None}
    return carry_out(found(home, **nothing | changes), environ, purge=True)


def test_a_number_that_was_of_an_icon_is_nobodys_to_end(home: Home, tmp_path: Path) -> None:
    """While somebody reads the plan, the icon may end, and another process get its number."""
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        assert leave(home, environ, tray=bystander.pid) == ["home"]
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_may_be_saving_keeps_the_home(home: Home, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    staging = Staging(home.store / "staging")
    try:
        with pytest.raises(Conflict, match="may be saving"):
            leave(home, environ)
        assert look(home).backups == 1
    finally:
        staging.close()
    assert leave(home, environ) == ["home"]
