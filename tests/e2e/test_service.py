"""The service under a real systemd of a user without rights: installed, ready, kept to its home, watched, removed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.user_systemd import Session, session, why_not
from support.waiting import until

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HASTE = "[Service]\nNice=0\nCPUWeight=10000\n"  # it gives way to others, and the tests beside this one are many


@pytest.fixture(scope="module")
def user() -> Iterator[Session]:
    with session() as found:
        yield found


def writable(mounts: str, path: str) -> bool:
    """Tell whether the mount that a path lies on may be written to."""
    rows = [[part.replace("\\040", " ") for part in line.split()] for line in mounts.splitlines()]
    above = [row for row in rows if path == row[4] or path.startswith(row[4].rstrip("/") + "/")]
    return "rw" in max(above, key=lambda row: len(row[4]))[5].split(",")


def test_it_is_installed_watched_and_removed(user: Session) -> None:
    assert "torpor service install" in user.torpor("service", "status")
    more = user.folder / "home" / ".config" / "systemd" / "user" / "torpor.service.d" / "more.conf"
    user.write(more, HASTE)
    config = user.home / "config.toml"
    user.write(config, 'quota = "much"\n')
    said = " ".join(user.torpor("service", "install", status=8).split())
    assert "the service does not start: its settings are not valid" in said
    failed = user.as_json("service", "status")
    assert (failed["state"], failed["failure"]) == ("failed", "its settings are not valid"), "it is tried once"
    config.unlink()

    found = user.as_json("service", "install", "--tray")
    assert (found["state"], found["enabled"], found["isolated"], found["current"]) == ("active", True, True, True)
    assert (found["home"], found["tray"], found["autostart"]) == (str(user.home), True, False)
    answered = user.as_json("status")
    assert answered["pid"] == found["pid"], "the daemon answers as soon as it is said to run"
    said = answered["summary"]["sentence"]
    until(lambda: user.systemctl("show", "torpor", "--property=StatusText") == f"StatusText={said}\n")

    mounts = user.read(f"/proc/{found['pid']}/mountinfo")
    assert writable(mounts, str(user.home))
    assert writable(mounts, "/tmp")
    assert not writable(mounts, str(user.folder / "home"))
    assert not writable(mounts, "/etc")
    status = dict(line.split(":\t", 1) for line in user.read(f"/proc/{found['pid']}/status").splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16)) == ("1", "2", 0)
    said = {name.split(b"=")[0] for name in user.read(f"/proc/{found['pid']}/environ").encode().split(b"\0")}
    assert not said & {b"S3_SECRET_KEY", b"TORPOR_TOKEN"}

    again = user.as_json("service", "install", "--no-tray")
    assert (again["pid"], again["restarts"], again["tray"]) == (found["pid"], 0, False)

    elsewhere = user.folder / "home" / "else where"
    user.write(more, f"{HASTE}WatchdogSec=2\nRestartSec=0\n")
    moved = user.as_json("home", "move", str(elsewhere))
    assert (moved["service_moved"], moved["daemon_stopped"]) == (True, False)
    found = user.as_json("service", "status")
    assert (found["home"], found["state"], found["current"]) == (str(elsewhere), "active", True)
    assert writable(user.read(f"/proc/{found['pid']}/mountinfo"), str(elsewhere))

    listening = elsewhere / "daemon.json"
    hung = listening.read_bytes()
    user.systemctl("kill", "--signal=STOP", "torpor")
    until(lambda: listening.exists() and listening.read_bytes() != hung, lambda: user.torpor("service", "status"))
    assert user.as_json("service", "status")["restarts"] >= 1

    assert user.as_json("service", "remove") == {"removed": ["service"]}
    gone = user.as_json("service", "status")
    assert (gone["installed"], gone["enabled"], gone["state"]) == (False, False, "inactive")
    assert user.as_json("service", "remove") == {"removed": []}
    assert user.read(str(elsewhere / "logs" / "daemon.log")).rstrip().endswith("INFO torpor.daemon stopped")
    assert (elsewhere / "index.sqlite").exists(), "data stays"
