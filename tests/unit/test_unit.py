"""The unit's text as systemd reads it, and what is known of a service without asking systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torpor.desktop import service
from torpor.desktop.systemctl import why_not
from torpor.desktop.unit import UNIT, unit_text
from torpor.state.errors import BadInput, NoServiceManager

HAS_SYSTEMD = shutil.which("systemd-analyze") is not None
ODD = '/tmp/50% $HOME "it\'s" \\ ;#é'


def analyse(tmp_path: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / UNIT
    file.write_text(text)
    environ = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    return subprocess.run(["systemd-analyze", "--user", *words, str(file)], env=environ, capture_output=True, text=True)


@pytest.mark.skipif(not HAS_SYSTEMD, reason="systemd is not installed")
@pytest.mark.parametrize("home", [None, "/home/u/.local/share/torpor", ODD])
@pytest.mark.parametrize("isolated", [False, True])
def test_systemd_finds_nothing_wrong_with_it(home: str | None, isolated: bool, tmp_path: Path) -> None:
    done = analyse(tmp_path, unit_text(("/bin/true", "serve"), home, isolated=isolated), "verify", "--man=no")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not HAS_SYSTEMD, reason="systemd is not installed")
def test_systemd_would_see_what_is_wrong(tmp_path: Path) -> None:
    text = unit_text(("/bin/true", "serve")).replace("ProtectSys", "ProtectSis").replace("Type=notify", "Type=loud")
    assert "loud" in analyse(tmp_path, text, "verify", "--man=no").stderr


@pytest.mark.skipif(not HAS_SYSTEMD, reason="systemd is not installed")
@pytest.mark.parametrize(("isolated", "most"), [(True, 4.7), (False, 6.5)])
def test_it_is_as_closed_as_a_users_service_gets(isolated: bool, most: float, tmp_path: Path) -> None:
    done = analyse(tmp_path, unit_text(("/bin/true",), isolated=isolated), "security", "--offline=yes", "--no-pager")
    found = re.search(r"exposure level for torpor.service: ([\d.]+)", done.stdout)
    assert found is not None, done.stderr
    assert float(found[1]) <= most, done.stdout


def test_odd_paths_are_quoted() -> None:
    lines = unit_text(("/opt/a b/torpor", "serve", "$x", "%h"), ODD, isolated=True).splitlines()
    escaped = '/tmp/50%% $HOME \\"it\'s\\" \\\\ ;#é'
    assert 'ExecStart="/opt/a b/torpor" serve $$x %%h' in lines
    assert f'Environment="TORPOR_HOME={escaped}"' in lines
    assert f'ReadWritePaths="{escaped}" -/tmp -/var/tmp -%h/.aws/sso/cache' in lines
    assert "Environment=TORPOR_HOME=%h/.local/share/torpor" in unit_text(("/bin/true",))


@pytest.mark.parametrize("home", ["/a\nExecStartPre=/bin/x", "/a\x7f", "/a\udcff", "/a ", " /a"])
def test_what_no_unit_can_hold_is_refused(home: str) -> None:
    with pytest.raises(BadInput, match="cannot stand in a unit"):
        unit_text(("/bin/true",), home)


def test_without_systemd_files_are_what_is_known(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "PATH": os.environ["PATH"]}
    assert why_not(environ) is not None
    with pytest.raises(NoServiceManager):
        service.install(("/bin/true",), "/h", environ)
    assert not service.own_unit(environ).exists()
    assert service.remove(environ) is False
    assert service.status(environ).installed is False

    unit = service.own_unit(environ)
    link = unit.parent / "default.target.wants" / UNIT
    link.parent.mkdir(parents=True)
    unit.write_text(unit_text(("/bin/true",), "/h", isolated=True))
    link.symlink_to(unit)
    found = service.status(environ, ("/bin/true",), "/h")
    assert (found.installed, found.enabled, found.isolated, found.current) == (True, True, True, True)
    assert (found.state, found.runs, found.unit) == ("unknown", False, str(unit))
    assert service.status(environ, ("/bin/false",), "/h").current is False
    assert service.remove(environ) is True
    assert not unit.exists()
    assert not link.is_symlink()


def test_a_package_that_brings_the_same_unit_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "usr" / UNIT
    packaged.parent.mkdir()
    packaged.write_text(unit_text(("/usr/bin/torpor", "serve")))
    monkeypatch.setattr(service, "PACKAGED", (packaged,))
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    default, other = str(tmp_path / ".local/share/torpor"), "/elsewhere"
    found = service.status(environ, ("/usr/bin/torpor", "serve"), default)
    assert (found.installed, found.unit, found.current) == (True, str(packaged), True)
    assert service.status(environ, ("/usr/bin/torpor", "serve"), other).current is False
    assert service.status(environ, ("/venv/torpor", "serve"), default).current is False


def systemctl_says(folder: Path, status: int) -> dict[str, str]:
    """Put a systemctl into a folder that starts only what asks for no namespaces; return an environment with it."""
    (folder / "run" / "systemd").mkdir(parents=True)
    (folder / "run" / "systemd" / "private").touch()
    unit = folder / ".config" / "systemd" / "user" / UNIT
    script = folder / "bin" / "systemctl"
    script.parent.mkdir()
    script.write_text(
        f"""#!/bin/sh
isolated() {{ grep -q PrivateUsers=yes {unit}; }}
case "$*" in
*show*) isolated && echo ActiveState=failed || echo ActiveState=active
    isolated && echo Result=exit-code && echo ExecMainStatus={status} ;;
*"start "*) isolated && exit 1 ;;
esac
exit 0
"""
    )
    script.chmod(0o755)
    (folder / "bin" / "unshare").symlink_to("/bin/true")
    path = f"{script.parent}:{os.environ['PATH']}"
    return {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "PATH": path}


@pytest.mark.parametrize("status", [217, 218, 226])
def test_where_no_namespaces_are_to_be_had_it_goes_without(status: int, tmp_path: Path) -> None:
    environ = systemctl_says(tmp_path, status)
    found = service.install(("/bin/true",), "/h", environ)
    assert (found.state, found.isolated) == ("active", False)
    assert "PrivateUsers" not in service.own_unit(environ).read_text()
