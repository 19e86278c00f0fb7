"""How a machine stands before `torpor init`: what is proposed, and whose the service is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torpor.cli import setting_up
from torpor.cli.first_answers import Answers
from torpor.cli.leaving import Found
from torpor.cli.standing import Standing
from torpor.desktop import autostart, login_entries, service
from torpor.desktop.service import Service
from torpor.desktop.unit import unit_text
from torpor.store.home import Home


@pytest.fixture
def standing(tmp_path: Path) -> Standing:
    """A machine whose systemd runs the daemon of another home."""
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    found = Standing.of(Home(tmp_path / "second"), tmp_path / "second", environ)
    other = Service(True, "/u/torpor.service", "/first", enabled=True, state="active")
    return replace(found, service=other)


def test_the_one_service_of_a_user_is_not_taken_from_another_home(standing: Standing) -> None:
    assert standing.keep == "no"
    assert replace(standing, service=replace(standing.service, enabled=False)).keep == "no"
    assert replace(standing, service=replace(standing.service, home=str(standing.home.root))).keep == "service"
    assert replace(standing, service=Service(False)).keep == "service"


def test_a_home_without_a_service_leaves_that_of_another(standing: Standing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting_up.service, "remove", lambda environ: pytest.fail("the service of another home"))
    as_before = replace(standing, service=replace(standing.service, enabled=False, state="inactive"))
    answers = Answers(standing.home, "20%", None, "no", tray=False)
    setting_up._arrange_login(replace(as_before, login_entry=True), answers, setting_up.Done(), {})


def test_a_unit_knows_its_home_also_where_no_systemd_can_be_asked(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    unit = service.own_unit(environ)
    unit.parent.mkdir(parents=True)
    for home in (None, str(tmp_path / "a 'home' of 50% \\ more")):
        unit.write_text(unit_text(("torpor", "serve"), home))
        found = service.status(environ)
        assert found.reason is not None
        assert found.home == (home or str(tmp_path / ".local/share/torpor"))
    assert Found.of(Home(tmp_path / "other"), environ).service.home != str(tmp_path / "other")


def test_an_entry_knows_its_home(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    odd, usual = Home(tmp_path / "a 'home' of 50%"), Home.from_environment({})
    for home, other in ((odd, usual), (usual, odd)):
        entry = autostart.daemon_entry(login_entries.command_for(home, "serve", environ))
        autostart.enable(entry, environ)
        assert login_entries.is_of(autostart.DAEMON_FILE, home, environ)
        assert not login_entries.is_of(autostart.DAEMON_FILE, other, environ)
    assert not login_entries.is_of(autostart.TRAY_FILE, usual, environ)
