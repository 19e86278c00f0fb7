"""`torpor service` where there is no systemd to ask: what it says, and what the desktop does instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import as_json, run
from torpor.cli.service import _lines, unseen


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a systemd: nothing listens in the runtime folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "home"


def test_nothing_is_installed_and_the_next_step_is_said(home: Path, tmp_path: Path) -> None:
    problem = as_json(home, "service", "install", status=8)
    assert (problem["code"], problem["retryable"]) == ("no-service-manager", False)
    assert "torpor service install --autostart" in problem["hint"]
    assert not (tmp_path / "config").exists()
    assert as_json(home, "service", "remove") == {"removed": []}


def test_the_desktop_starts_the_daemon_and_the_tray_instead(home: Path, tmp_path: Path) -> None:
    said = run(home, "service", "install", "--autostart", "--tray")
    assert "The daemon starts with the desktop.\nThe tray starts with the desktop." in said
    entries = sorted(each.name for each in (tmp_path / "config" / "autostart").iterdir())
    assert entries == ["torpor-daemon.desktop", "torpor-tray.desktop"]
    found = as_json(home, "service", "status")
    assert (found["installed"], found["autostart"], found["tray"], found["state"]) == (False, True, True, "unknown")
    assert found["reason"]
    assert as_json(home, "service", "remove") == {"removed": ["autostart", "tray"]}
    assert not list((tmp_path / "config" / "autostart").iterdir())


def test_settings_of_the_terminal_are_named_and_no_more() -> None:
    environ = {"S3_SECRET_KEY": "x", "TORPOR_PORT": "1", "TORPOR_HOME": "/h", "TORPOR_QUOTA": "", "PATH": "/bin"}
    assert unseen(environ) == ["S3_SECRET_KEY", "TORPOR_PORT"]
    report = dict.fromkeys(("reason", "said", "unit", "autostart", "tray", "installed"))
    assert "S3_SECRET_KEY, TORPOR_PORT." in " ".join(_lines(report, unseen(environ)))
