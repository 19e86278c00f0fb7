"""Entries that start a program at login: written whole, quoted right, turned off the way desktops do it."""

from __future__ import annotations

from pathlib import Path

import pytest
from torpor.desktop import autostart
from torpor.desktop.entry_text import command_in, exec_value
from torpor.desktop.own_command import own_command


def test_an_entry_is_off_until_asked_for_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert not autostart.enabled(autostart.TRAY_FILE, environ)
    where = autostart.enable(autostart.tray_entry(["/opt/torpor", "tray"]), environ)
    assert autostart.enabled(autostart.TRAY_FILE, environ)
    assert [path.name for path in where.parent.iterdir()] == [autostart.TRAY_FILE]
    where.write_text(where.read_text() + "Hidden=true\n")
    assert not autostart.enabled(autostart.TRAY_FILE, environ)
    assert autostart.disable(autostart.TRAY_FILE, environ)
    assert not autostart.disable(autostart.TRAY_FILE, environ)
    assert not list(where.parent.iterdir())


def test_commands_are_quoted_as_the_specification_asks() -> None:
    text = autostart.text_of(autostart.tray_entry(["/home/a b/$x/torpor", "50%", 'say "hi"', "back\\slash"]))
    exec_line = next(line for line in text.splitlines() if line.startswith("Exec="))
    assert exec_line == r'Exec="/home/a b/\\$x/torpor" 50%% "say \\"hi\\"" "back\\\\slash"'


def test_our_own_command_is_absolute_and_needs_no_script(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    assert own_command("tray", executable=str(python)) == (str(python), "-P", "-m", "torpor.cli.entry", "tray")
    (tmp_path / "torpor").write_text("")
    assert own_command("tray", executable=str(python)) == (str(tmp_path / "torpor"), "tray")


@pytest.mark.parametrize(
    "words", [["/a b/c", "serve"], ['x"y', "$HOME `id` 100% \\ '"], ["env", "A=b c", "", "/usr/bin/torpor"]]
)
def test_a_command_comes_back_from_its_entry(words: list[str]) -> None:
    assert command_in(exec_value(words)) == words
    assert command_in(exec_value(words, "%F")) == words


def test_an_entry_that_cannot_be_read_as_text_starts_nothing_and_breaks_nobody(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    entry = autostart.place(autostart.TRAY_FILE, environ)
    entry.parent.mkdir()
    entry.write_bytes(b"[Desktop Entry]\nName=\xff\nExec=torpor tray\n")
    assert autostart.enabled(autostart.TRAY_FILE, environ)
    entry.write_text("[Desktop Entry]\nHidden = true\n")
    assert not autostart.enabled(autostart.TRAY_FILE, environ)
    entry.unlink()
    entry.mkdir()
    assert not autostart.enabled(autostart.TRAY_FILE, environ)
