"""`torpor init` as a person types it and as a script calls it, with a real daemon and a real bucket."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import user_systemd
from support.forked import PRINTING, clean_environment, start
from support.ports import free_port
from support.s3_servers import Place
from support.terminal import CTRL_C, CTRL_D, Terminal, at_terminal
from support.waiting import until
from torpor.cli import running
from torpor.client import connect
from torpor.daemon.settings_files import set_in_toml
from torpor.desktop import autostart
from torpor.desktop.own_command import own_command
from torpor.store.home import Home

WORDS = "a passphrase of somebody"


@dataclass
class Machine:
    """A user of a machine without systemd: folders of their own, and no home yet."""

    folder: Path

    @property
    def home(self) -> Home:
        return Home.at(self.folder / ".local/share/torpor")

    @property
    def environment(self) -> dict[str, str]:
        gone = ("XDG_", "DISPLAY", "WAYLAND_", "DBUS_")
        return (
            {k: v for k, v in clean_environment().items() if not k.startswith(gone)}
            | PRINTING
            | {
                "HOME": str(self.folder),
                "XDG_RUNTIME_DIR": str(self.folder / "run"),
                "TORPOR_PORT": "0",
                "TORPOR_KEY_STORAGE": "file",
            }
        )

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("u"))
    yield made
    for home in {made.home.root, made.folder / "elsewhere"}:
        running.stop(Home.at(home))


def torpor(machine: Machine, *words: str, status: int = 0, **changes: str) -> str:
    with at_terminal(machine.environment | changes, *words) as terminal:
        assert terminal.end() == status, terminal.shown
        return terminal.shown


def as_json(machine: Machine, *words: str, status: int = 0, **changes: str) -> Any:
    return orjson.loads(torpor(machine, *words, "--json", status=status, **changes))


def doctor(machine: Machine) -> dict[str, str]:
    found = as_json(machine, "doctor")["checks"]
    return {check["name"]: f"{check['status']}: {check['detail']}" for check in found if check["status"] != "ok"}


def walk(terminal: Terminal, steps: list[tuple[str, str]]) -> None:
    for question, answer in steps:
        terminal.answer(question, answer)


def s3_steps(place: Place, secret: str | None = None) -> list[tuple[str, str]]:
    return [
        ("Address", place.endpoint),
        ("Bucket", place.bucket),
        ("Access key", place.access_key),
        ("Secret key", place.secret_key if secret is None else secret),
    ]


def test_somebody_answers_three_questions_with_a_bucket(machine: Machine, weed: Place) -> None:
    with at_terminal(machine.environment, "init") as terminal:
        walk(terminal, [("Folder", "relative"), ("Folder", "/proc/none"), ("Folder", "~/elsewhere")])
        walk(terminal, [("At most", "lots"), ("At most", "1K"), ("At most", "5GB"), ("S3", "y")])
        walk(terminal, s3_steps(weed, "hush-hush"))
        assert "SignatureDoesNotMatch" in terminal.until("What now")
        terminal.answer("", "c")
        walk(terminal, s3_steps(weed))
        assert "It works: listed, wrote, read and deleted" in terminal.until("A passphrase encrypts")
        walk(terminal, [("Passphrase", "short"), ("Passphrase", "")])
        assert terminal.end() == 0, terminal.shown
    assert "sample      saved, woken, compared and read from the disk" in terminal.shown
    assert "and it is in the bucket" in terminal.shown
    for secret in ("hush-hush", weed.secret_key):
        assert secret not in terminal.shown
    home = Home.at(machine.folder / "elsewhere")
    assert machine.home.root == home.root, "the default place leads to the chosen one"
    assert 'quota = "5GB"' in (home.root / "config.toml").read_text()
    assert (home.root / ".env").stat().st_mode & 0o777 == 0o600
    assert weed.secret_key in (home.root / ".env").read_text()
    everything = "".join(path.read_text() for path in home.logs.iterdir())
    assert weed.secret_key not in everything
    assert doctor(machine) == {}
    with connect(home=home.root) as keeper:
        before = keeper.api.status()
    again = as_json(machine, "init", "--yes")
    assert again["changed"] == []
    assert again["s3"]["bucket"] == weed.bucket
    assert (again["sample"]["saved_anew"], again["sample"]["in_bucket"]) == (False, True)
    assert again["daemon"]["pid"] == before["pid"], "nothing was asked that needs another start"
    off = as_json(machine, "init", "--yes", "--no-s3")
    assert off["changed"] == ["s3"]
    assert off["daemon"]["restarted"]
    assert off["quota"] == "5GB"


QUESTIONS = ["Folder", "At most", "S3", "Address", "Bucket", "Access key", "Secret key", "Passphrase"]


def test_ctrl_c_at_each_question_changes_nothing(machine: Machine, weed_room: Place) -> None:
    answers = dict([("Folder", ""), ("At most", "1GB"), ("S3", "y"), *s3_steps(weed_room)])
    environment = machine.environment | {"S3_PREFIX": weed_room.prefix}
    before = machine.files()
    for number, question in enumerate(QUESTIONS):
        key = CTRL_D if question == "At most" else CTRL_C
        with at_terminal(environment, "init") as terminal:
            walk(terminal, [(each, answers[each]) for each in QUESTIONS[:number]])
            terminal.until(question)
            terminal.until(": ")
            assert terminal.press(key) == 130, terminal.shown
            assert "nothing was changed" in terminal.shown
        assert machine.files() == before, question
    found = weed_room.client().list_objects_v2(Bucket=weed_room.bucket, Prefix=weed_room.prefix)
    assert found.get("Contents", []) == []


def test_a_script_says_everything_by_options(machine: Machine, moto_room: Place, tmp_path: Path) -> None:
    secret, words = tmp_path / "secret", tmp_path / "words"
    secret.write_text(f"{moto_room.access_key}\n{moto_room.secret_key}\n")
    words.write_text(WORDS + "\n")
    nowhere = f"http://127.0.0.1:{free_port()}"
    s3 = ["--s3-bucket", moto_room.bucket, "--s3-keys-file", str(secret)]
    s3 += ["--s3-prefix", moto_room.prefix]
    before = machine.files()
    refused = as_json(machine, "init", "--yes", *s3, "--s3-endpoint", nowhere, status=8)
    assert (refused["code"], "refuses connections" in refused["detail"]) == ("offline", True)
    assert as_json(machine, "init", status=2)["code"] == "bad-input"
    assert as_json(machine, "init", "--yes", "--quota", "none", status=2)["code"] == "invalid-settings"
    assert as_json(machine, "init", "--yes", "--passphrase-file", str(words), status=2)["code"] == "bad-input"
    short = tmp_path / "short"
    short.write_text("short\n")
    s3 += ["--s3-endpoint", moto_room.endpoint]
    assert as_json(machine, "init", "--yes", *s3, "--passphrase-file", str(short), status=2)["code"] == "bad-input"
    assert machine.files() == before
    plain = as_json(machine, "init", "--yes", *s3, "--no-sample")
    assert (plain["changed"], plain["s3"]["encrypted"]) == (["home", "s3"], False)
    made = as_json(machine, "init", "--yes", "--passphrase-file", str(words))
    assert made["changed"] == ["key"]
    assert made["s3"] | {"repository": None} == {
        "endpoint": moto_room.endpoint,
        "bucket": moto_room.bucket,
        "prefix": moto_room.prefix.strip("/"),
        "tried": True,
        "conditional_put": True,
        "repository": None,
        "encrypted": True,
        "key_kept_in": "file",
    }
    assert made["sample"]["in_bucket"] is True
    assert as_json(machine, "init", "--yes", "--passphrase-file", str(words), "--no-sample")["changed"] == []
    short.write_text("another passphrase\n")
    assert as_json(machine, "init", "--yes", "--passphrase-file", str(short), status=5)["code"] == "wrong-passphrase"
    assert doctor(machine) == {}
    set_in_toml(machine.home.root / "config.toml", "quota", "7GB")  # and killed there, before the daemon was told
    again = as_json(machine, "init", "--yes", "--quota", "7GB", "--no-sample")
    assert (again["changed"], again["daemon"]["restarted"]) == ([], True)
    logs = "".join(path.read_text() for path in machine.home.logs.iterdir())
    assert WORDS not in logs
    assert moto_room.secret_key not in logs
    elsewhere = as_json(machine, "init", "--yes", "--home", str(machine.folder / "other"), status=4)
    assert "torpor home move" in elsewhere["hint"]
    assert not (machine.folder / "other").exists()


def test_a_program_reads_one_json_object_also_at_its_end(machine: Machine) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        tempfile.TemporaryFile() as said,
        open(os.devnull, "wb") as no,
    ):
        keys = {"S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b"}
        words = [
            "init",
            "--yes",
            "--json",
            "--s3-bucket",
            "b",
            "--s3-endpoint",
            f"http://127.0.0.1:{silent.getsockname()[1]}",
        ]
        command = start(words, machine.environment | keys, stdout=said, stderr=no)
        with silent.accept()[0]:  # which is never answered
            until(lambda: command.poll() is not None or command.send_signal(signal.SIGINT), "its end")
        assert command.wait(60) == 130
        said.seek(0)
        assert orjson.loads(said.read() or b"{}") == {}


def test_a_second_home_takes_nothing_from_the_first(machine: Machine) -> None:
    """What starts the first one at login stays, at `init` and at `uninstall`."""
    entries = machine.folder / ".config/autostart"
    for name, command in ((autostart.DAEMON_FILE, "serve"), (autostart.TRAY_FILE, "tray")):
        autostart.enable(autostart.Entry(name, "Torpor", "", own_command(command)), machine.environment)
    before = {path.name: path.read_text() for path in entries.iterdir()}
    other = {"TORPOR_HOME": str(machine.folder / "second"), "DISPLAY": ":99"}
    for more in ([], ["--no-service", "--no-tray"]):
        made = as_json(machine, "init", "--yes", "--no-sample", *more, **other)
        assert made["daemon"]["at_login"] == "no"
        as_json(machine, "uninstall", "--purge", "--consent", "delete 0 backups", **other)
        assert {path.name: path.read_text() for path in entries.iterdir()} == before


def test_settings_that_are_links_and_folders_of_others_are_refused(machine: Machine) -> None:
    busy = machine.folder / "busy"
    busy.mkdir()
    (busy / "letter.txt").write_text("dear")
    assert as_json(machine, "init", "--yes", "--home", str(busy), status=4)["code"] == "unsafe-home"
    assert os.listdir(busy) == ["letter.txt"]
    machine.home.root.mkdir(parents=True)
    kept = machine.folder / "kept.toml"
    kept.write_text("port = 0\n")
    (machine.home.root / "config.toml").symlink_to(kept)
    assert as_json(machine, "init", "--yes", "--quota", "1GB", status=4)["code"] == "unsafe-home"
    assert kept.read_text() == "port = 0\n"


def test_what_was_set_up_is_taken_away_again(machine: Machine) -> None:
    """On a desktop without systemd: autostart entries, the menu; then uninstall, refused and agreed to."""
    desktop = {"DISPLAY": ":99"}
    words = ["--yes", "--home", str(machine.folder / "elsewhere"), "--autostart", "--tray", "--no-sample"]
    made = as_json(machine, "init", *words, **desktop)
    assert made["changed"] == ["home", "place", "login", "tray", "menu"]
    entry = machine.folder / ".config/autostart/torpor-daemon.desktop"
    assert " serve" in entry.read_text()
    full = machine.files()
    plan = as_json(machine, "uninstall", "--purge", "--dry-run", **desktop)
    assert plan["consent"] == "delete 0 backups"
    shown = torpor(machine, "uninstall", "--dry-run", **desktop)
    assert (
        shown.index("Goes") < shown.index(str(entry)) < shown.index("Stays") < shown.index("a new installation goes on")
    )
    assert {each["name"] for each in plan["things"] if each["goes"]} == {
        "daemon",
        "autostart",
        "desktop",
        "home",
        "note",
    }
    assert as_json(machine, "uninstall", "--purge", "--yes", status=2, **desktop)["code"] == "bad-input"
    assert as_json(machine, "uninstall", "--consent", "delete 0 backups", status=2, **desktop)["code"] == "bad-input"
    with at_terminal(machine.environment | desktop, "uninstall", "--purge") as terminal:
        terminal.answer("Type `delete 0 backups`", "yes")
        assert terminal.end() == 130, terminal.shown
    assert machine.files() == full
    with at_terminal(machine.environment | desktop, "uninstall") as terminal:
        terminal.answer("Go on?", "y")
        assert terminal.end() == 0, terminal.shown
    assert "Done. What stays:" in terminal.shown
    assert (machine.folder / "elsewhere" / "token").exists()
    assert not entry.exists()
    assert as_json(machine, "status", status=8)["code"] == "daemon-not-running"
    torpor(machine, "uninstall", "--purge", "--consent", "delete 0 backups", **desktop)
    assert [path for path in machine.files() if (machine.folder / path).is_file() and "mime" not in path] == []
    assert not (machine.folder / "elsewhere").exists()


@pytest.mark.skipif(user_systemd.why_not() is not None, reason=str(user_systemd.why_not()))
def test_under_a_real_systemd_it_runs_as_a_service() -> None:
    with user_systemd.session() as session:
        made = session.as_json("init", "--yes")
        assert (made["daemon"]["way"], made["daemon"]["at_login"]) == ("service", "service")
        assert made["changed"] == ["home", "login"]
        assert made["sample"]["saved_anew"]
        found = {check["name"]: check for check in session.as_json("doctor")["checks"]}
        assert [name for name, check in found.items() if check["status"] != "ok"] == []
        assert found["service"]["detail"].startswith("active")
        again = session.as_json("init", "--yes", "--quota", "1GB", "--no-sample")
        assert (again["daemon"]["way"], again["changed"]) == ("service", ["quota"])
        assert again["daemon"]["restarted"]
        assert "service" in session.as_json("uninstall", "--yes")["done"]
        assert session.systemctl("show", "torpor.service", "--property=ActiveState").strip() == "ActiveState=inactive"
        assert (session.home / "token").exists()
        assert not list((session.folder / "home/.config").rglob("torpor.service"))
