"""Every check of the doctor is made to fail once, and every fix has to mend what it is for."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.commands import as_json, run
from support.daemon import Daemon
from support.manifests import manifest
from torpor.daemon import doctor_files
from torpor.daemon.checkup import Check, Patient, examine, fix_all, refuse_to_fix
from torpor.daemon.compose import compose
from torpor.daemon.doctor import all_looks
from torpor.daemon.doctor_desktop import check_autostart, check_menu, check_tray, judge_service
from torpor.daemon.doctor_index import judge_sqlite
from torpor.daemon.doctor_machine import judge_clock
from torpor.daemon.instance import InstanceLock, load_token
from torpor.daemon.reconcile import reconcile
from torpor.daemon.settings import Settings, load_settings
from torpor.daemon.trusted_time import read_clocks
from torpor.db.damage import mark_damaged
from torpor.desktop import autostart, registration
from torpor.desktop.service import Service
from torpor.state.errors import UnsafeHome
from torpor.state.trusted_clock import judge
from torpor.store.clock_anchor import write_anchor
from torpor.store.home import Home
from torpor.store.staging import Staging

NOW = 1.8e9
LEAF = {"shape": [32], "dtype": "uint8", "kind": "torch", "blocks": [{"digest": "c" * 64, "size_bytes": 32}]}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one backup, whose daemon was stopped."""
    made, before = Home(tmp_path_factory.mktemp("doctor") / "home"), os.umask(0o077)
    made.create()
    load_token(made)
    with ExitStack() as stack:
        catalog = compose(made, Settings(), stack)
        catalog.manifests.write(catalog.staging, "01M81P35719XNDZ4R57NMV6DYZ", _raw())
        reconcile(catalog)
    os.umask(before)
    return made


@pytest.fixture
def home(template: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A copy of it."""
    made, before = Home(tmp_path / "home"), os.umask(0o077)
    shutil.copytree(template.root, made.root, ignore=shutil.ignore_patterns("blobs"))
    (made.store / "blobs").mkdir()
    monkeypatch.setenv("TORPOR_HOME", str(made.root))
    yield made
    os.umask(before)


def _raw() -> bytes:
    from torpor.codec import manifest_file

    layers = {"text_context": {}, "vision_cache": {"v": {"$tensor": LEAF}}}
    return manifest_file.dump(manifest(created_at=NOW - 5, kv_cache=None, layers=layers))


def surroundings(home: Home) -> dict[str, str]:
    """A user with folders of their own, and no service manager."""
    return {"PATH": os.environ["PATH"], "HOME": str(home.root.parent), "XDG_RUNTIME_DIR": str(home.root.parent / "run")}


def patient(home: Home, **changes: Any) -> Patient:
    return replace(Patient(home, surroundings(home), NOW), **changes)


def found(who: Patient) -> dict[str, Check]:
    return {check.name: check for check in examine(who, all_looks())}


def troubles(who: Patient) -> dict[str, str]:
    return {name: check.status for name, check in found(who).items() if check.status != "ok"}


def test_a_home_that_is_well_has_nothing_to_say(home: Home) -> None:
    checks = found(patient(home))
    assert {name for name, check in checks.items() if check.status != "ok"} == set()
    assert {"versions", "home", "permissions", "token", "disk", "sqlite", "index", "blobs", "sidecars", "clock"} <= set(
        checks
    )
    assert {"inotify", "keys", "service", "autostart", "menu", "tray", "settings", "second copy"} <= set(checks)
    assert troubles(patient(Home(home.root / "none"))) == {"home": "warning"}
    assert not (home.root / "none").exists()


def garbage_index(home: Home) -> None:
    home.index.write_bytes(b"garbage" * 1000)


def no_index(home: Home) -> None:
    for path in home.root.glob("index.sqlite*"):
        path.unlink()


def newer_index(home: Home) -> None:
    import sqlite3

    connection = sqlite3.connect(home.index)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()


def lost_manifest(home: Home) -> None:
    (path,) = (home.store / "manifests").iterdir()
    path.with_name("01M81P35719XNDZ4R57NMV6DYY.qwnbak").write_bytes(path.read_bytes())


def damaged_blob(home: Home) -> None:
    with ExitStack() as stack:
        catalog = compose(home, load_settings(), stack)
        with catalog.index.writing() as connection:
            mark_damaged(connection, "c" * 64, 1.0)


def dead_writer(home: Home) -> None:
    staging = Staging(home.store / "staging")
    os.close(staging._lock_fd)
    os.utime(staging.folder, (1.0, 1.0))


def link_in_store(home: Home) -> None:
    (home.store / "trash" / "link").symlink_to("/etc/passwd")


def open_home(home: Home) -> None:
    home.root.chmod(0o755)
    (home.root / "token").chmod(0o644)


HURTS: dict[str, tuple[Any, dict[str, str], set[str]]] = {
    "garbage index": (garbage_index, {"index": "error"}, {"index"}),
    "no index": (no_index, {"index": "error"}, {"index"}),
    "newer index": (newer_index, {"index": "error"}, set()),
    "manifests and index differ": (lost_manifest, {"index": "warning"}, {"index"}),
    "damaged blob": (damaged_blob, {"blobs": "error"}, set()),
    "damaged sidecar": (
        lambda h: (h.store / "sessions/a.json").write_bytes(b"{"),
        {"sidecars": "warning"},
        {"sidecars"},
    ),
    "dead writer": (dead_writer, {"staging": "warning"}, {"staging"}),
    "link": (link_in_store, {"links": "error"}, set()),
    "open to others": (open_home, {"permissions": "error"}, {"permissions"}),
    "short token": (lambda h: h.token.write_bytes(b"short"), {"token": "error"}, {"token"}),
    "sync.json": (lambda h: h.sync_json.write_bytes(b"[1"), {"sync.json": "warning"}, {"sync.json"}),
    "tokens.json": (lambda h: h.tokens_json.write_bytes(b"x"), {"tokens.json": "warning"}, {"tokens.json"}),
    "clock.json": (lambda h: h.clock_json.write_bytes(b""), {"clock.json": "warning"}, {"clock.json"}),
    "watch.json": (lambda h: h.watch_json.write_bytes(b"{"), {"watch.json": "error"}, {"watch.json"}),
    "daemon.json": (lambda h: h.daemon_json.write_bytes(b"{}"), {"daemon.json": "warning"}, {"daemon.json"}),
    "old index": (lambda h: (h.root / "index.damaged-x.sqlite").write_bytes(b"x"), {"old indexes": "warning"}, set()),
    "config.toml": (lambda h: (h.root / "config.toml").write_bytes(b"port = 'x'"), {"settings": "error"}, set()),
    "repo.key": (lambda h: h.repo_key.write_bytes(b"{}"), {"keys": "error"}, set()),
}


@pytest.mark.parametrize("hurt", HURTS)
def test_each_check_can_fail_and_its_fix_mends_it(home: Home, hurt: str) -> None:
    act, expected, fixed = HURTS[hurt]
    act(home)
    checks = examine(patient(home), all_looks())
    seen = {check.name: check.status for check in checks if check.status != "ok"}
    assert expected.items() <= seen.items()
    assert all(check.hint for check in checks if check.status != "ok")
    done = fix_all(checks)
    assert fixed <= set(done)
    if fixed:
        assert not (set(fixed) & set(troubles(patient(home)))) or hurt == "manifests and index differ"
    else:
        assert expected.items() <= troubles(patient(home)).items()


def test_a_home_that_is_no_folder_of_ours(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.root)
    (tmp_path / "file").write_bytes(b"")
    assert troubles(patient(Home(tmp_path / "link")))["home"] == "error"
    assert troubles(patient(Home(tmp_path / "file")))["home"] == "error"


def test_nobody_mends_the_home_of_somebody_else(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_fix(home)
    refuse_to_fix(Home(home.root / "none"))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UnsafeHome):
        refuse_to_fix(home)


def test_a_key_file_that_others_can_read_is_closed(home: Home) -> None:
    home.repo_key.write_bytes(orjson.dumps({"format": "torpor-keys/v1", "rings": {}}))
    home.repo_key.chmod(0o644)
    assert found(patient(home))["keys"].status == "error"
    done = fix_all(found(patient(home)).values())
    assert "rotate" in done["keys"] or "closed" in done["permissions"]
    assert stat.S_IMODE(home.repo_key.stat().st_mode) == 0o600
    assert found(patient(home))["keys"].status == "ok"


def test_a_disk_that_takes_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_files, "LOW_BYTES", 1 << 62)
    monkeypatch.setattr(doctor_files, "LOW_SHARE", 2.0)
    assert found(patient(home))["disk"].status == "warning"
    monkeypatch.setattr(doctor_files, "NO_BYTES", 1 << 62)
    assert found(patient(home))["disk"].status == "error"
    monkeypatch.undo()
    monkeypatch.setenv("TORPOR_HOME", str(home.root))
    monkeypatch.setattr(doctor_files, "LOW_FILES", 1 << 62)
    assert "more files" in found(patient(home))["disk"].detail
    monkeypatch.undo()
    monkeypatch.setenv("TORPOR_HOME", str(home.root))
    (home.store / f".doctor.{os.getpid()}.tmp").mkdir()
    assert "fails: File exists" in found(patient(home))["disk"].detail


def test_a_daemon_that_owns_the_home_and_does_not_answer(home: Home) -> None:
    lock = InstanceLock(home)
    try:
        assert troubles(patient(home)) == {"daemon": "error"}
    finally:
        lock.close()


def test_clocks_versions_and_trays_that_are_wrong(home: Home) -> None:
    assert judge_clock(5.0, None, None, synchronised=True).status == "error"
    assert judge_clock(NOW, NOW + 7200, None, synchronised=True).status == "warning"
    assert judge_clock(NOW, NOW, None, synchronised=False).status == "ok"
    reading = replace(read_clocks(), wall=NOW)
    write_anchor(home.clock_json, judge(None, reading).anchor)
    assert found(patient(home))["clock"].status == "ok"
    check = found(patient(home, now=NOW + 400 * 86_400))["clock"]  # in the same boot
    assert (check.status, "--trust-clock" in check.hint) == ("warning", True)
    assert [judge_sqlite(version).status for version in ((3, 34, 9), (3, 40, 1), (3, 51, 3))] == ["error", "ok", "ok"]


DEAD_BUS = {"DISPLAY": ":0", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}


@pytest.mark.parametrize(("answer", "wanted"), [("true", "ok"), ("false", "warning"), (None, "warning")])
def test_a_tray_that_is_not_shown_matters_to_who_asked_for_one(
    home: Home, tmp_path: Path, answer: str | None, wanted: str
) -> None:
    desktop = surroundings(home) | DEAD_BUS
    if answer is not None:
        _program(tmp_path / "busctl", f"echo b {answer}")
        desktop |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    who = patient(home, environment=desktop)
    assert [check.status for check in check_tray(who)] == ["ok"]
    autostart.enable(autostart.tray_entry(["/bin/true"]), desktop)
    assert [check.status for check in check_tray(who)] == [wanted]


def _program(file: Path, line: str) -> Path:
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)
    return file


def test_entries_whose_program_is_gone(home: Home, tmp_path: Path) -> None:
    desktop = surroundings(home) | DEAD_BUS | {"XDG_DATA_DIRS": str(tmp_path / "none")}
    who = patient(home, environment=desktop)
    assert [check.status for check in (*check_autostart(who), *check_menu(who))] == ["ok", "ok"]
    odd = _program(tmp_path / 'a $dollar "and" 100%', "exit 0")
    autostart.enable(autostart.daemon_entry(["env", "TORPOR_HOME=/x", str(odd), "serve"]), desktop)
    registration.install([str(odd)], desktop)
    well = [*check_autostart(who), *check_menu(who)]
    assert [check.status for check in well] == ["ok", "ok"]
    assert well[0].detail == "at login: daemon"
    odd.unlink()
    gone = [*check_autostart(who), *check_menu(who)]
    assert [check.status for check in gone] == ["error", "error"]
    assert str(odd) in gone[1].detail
    assert "removed" in fix_all(gone)["autostart"]
    assert [check.status for check in check_autostart(who)] == ["ok"]


SERVICE = Service(True, "/u", "/h", enabled=True, state="active", pid=7)


@pytest.mark.parametrize(
    ("changes", "answers", "status", "said"),
    [
        ({}, 7, "ok", "from login to logout"),
        ({"lingers": True}, 7, "ok", "also without a login"),
        ({"enabled": False}, 7, "ok", "off at the next login"),
        ({}, 8, "warning", "process 8 answers"),
        ({"current": False}, 7, "warning", "another installation"),
        ({"state": "inactive", "pid": None}, None, "warning", "does not run"),
        ({"state": "inactive", "pid": None}, 8, "warning", "another daemon runs"),
        ({"state": "failed", "pid": None, "failure": "its settings are not valid"}, None, "error", "settings"),
    ],
)
def test_a_service_is_judged(home: Home, changes: dict[str, Any], answers: int | None, status: str, said: str) -> None:
    check = judge_service(replace(SERVICE, **changes), answers, patient(home))
    assert (check.status, said in check.detail) == (status, True)
    assert bool(check.hint) == (status != "ok")


def test_few_inotify_watches(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "proc/sys/fs/inotify"
    folder.mkdir(parents=True)
    (folder / "max_user_watches").write_text("100\n")
    (folder / "max_user_instances").write_text("128\n")
    check = found(patient(home, system=tmp_path))["inotify"]
    assert (check.status, "100" in check.detail, "sysctl" in check.hint) == ("warning", True, True)


def test_a_keyring_that_is_demanded_and_not_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_KEY_STORAGE", "keyring")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    assert found(patient(home))["keys"].status == "error"


def s3(**changes: str) -> dict[str, str]:
    values = {"PERSISTENCE_BACKEND": "s3", "S3_ENDPOINT": "http://127.0.0.1:9", "S3_BUCKET": "b"}
    return values | {"S3_ACCESS_KEY": "k", "S3_SECRET_KEY": "s", "S3_CONNECT_TIMEOUT_S": "1"} | changes


def test_a_storage_that_nobody_reaches_without_a_daemon(home: Home) -> None:
    check = found(patient(home, environment=s3()))["second copy"]
    assert (check.status, "127.0.0.1:9" in check.detail) == ("warning", True)
    assert found(patient(home, environment=s3(S3_BUCKET="")))["settings"].status == "error"


SYNC: dict[str, Any] = {
    "on": True, "state": "idle", "reason": None, "hint": None, "bucket": "b", "endpoint": None, "waiting_count": 0,
    "dead_count": 0, "dead": [], "warnings": [], "encrypted": True, "readable": None, "quirks": {},
}  # fmt: skip
SCRUB: dict[str, Any] = {"trouble": None, "unsure": 0, "state": "idle", "ended_at": NOW - 10}
STATUS: dict[str, Any] = {"version": "0.0.1", "watches": []}


class Asked:
    """A daemon's answers, and what was posted to it."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers, self.posted = {"sync": SYNC, "scrub": SCRUB, "status": STATUS} | answers, list[str]()

    def __call__(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if body is not None:
            self.posted.append(path)
            return {"retried": 3}
        return self.answers[path.removeprefix("/v1/")]


WATCH = {"folder": "/f", "problem": None, "failing_count": 0}
SAID: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "another version": ({}, {"versions": "warning"}),
    "denied": ({"sync": SYNC | {"state": "denied", "reason": "no"}}, {"second copy": "error"}),
    "offline": ({"sync": SYNC | {"state": "offline", "reason": "no"}}, {"second copy": "warning"}),
    "given up": ({"sync": SYNC | {"dead_count": 1, "dead": [{"error": "x"}]}}, {"given up": "error"}),
    "plain": ({"sync": SYNC | {"encrypted": False, "readable": "by all"}}, {}),
    "warned": ({"sync": SYNC | {"on": False, "warnings": ["a .env counts not"]}}, {}),
    "scrub stopped": ({"scrub": SCRUB | {"trouble": "EIO"}}, {"scrub": "error"}),
    "unsure": ({"scrub": SCRUB | {"unsure": 2}}, {"scrub": "warning"}),
    "never": ({"scrub": SCRUB | {"state": "off"}}, {"scrub": "warning"}),
    "folder": ({"status": STATUS | {"watches": [WATCH | {"problem": {"detail": "d", "hint": "h"}}]}}, {"watched folder": "error"}),
    "files": ({"status": STATUS | {"watches": [WATCH | {"failing_count": 2}]}}, {"watched folder": "warning"}),
}  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_what_a_daemon_says_is_told(home: Home, said: str) -> None:
    answers, expected = SAID[said]
    asked = Asked(**answers)
    checks = examine(patient(home, ask=asked), all_looks())
    assert expected.items() <= {check.name: check.status for check in checks if check.status != "ok"}.items()
    if said == "warned":
        assert [check.status for check in checks if check.name == "second copy"] == ["warning", "ok"]
    if said == "given up":
        assert fix_all(checks)["given up"] == "trying 3 again"
        assert asked.posted == ["/v1/sync/retry"]


def test_damaged_blobs_are_tried_again_by_the_daemon_that_runs(home: Home) -> None:
    damaged_blob(home)
    asked = Asked()
    fix_all(examine(patient(home, ask=asked), all_looks()))
    assert asked.posted == ["/v1/scrub"]


def test_a_check_that_fails_is_a_finding(home: Home) -> None:
    def check_something(who: Patient) -> Iterator[Check]:
        raise PermissionError(13, "no")
        yield Check("", "ok", "")

    (check,) = examine(patient(home), [check_something])
    assert (check.name, check.status) == ("something", "error")


def test_the_command_with_and_without_a_daemon(home: Home) -> None:
    home.store.chmod(0o755)
    value = as_json(home.root, "doctor", "--fix")
    assert value["counts"]["error"] == 0
    assert "permissions" in value["fixed"]
    with Daemon(home.root) as daemon:
        lost = as_json(home.root, "verify", "--all", status=7)
        assert [(each["state"], each["mode"]) for each in lost["backups"]] == [("damaged", "text-only")]
        assert "text-only" in run(home.root, "verify", "s", status=7)
        assert as_json(home.root, "verify", status=2)["code"] == "bad-input"
        assert daemon.stop() == 0
