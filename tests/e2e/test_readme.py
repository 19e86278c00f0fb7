"""The README's snippets, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import run
from support.daemon import Daemon
from support.s3_servers import Place

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_snippets_run_in_order(
    home: Path, weed: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Daemon(home, settings=weed.settings) as daemon:
        _run_snippets(daemon, monkeypatch, capsys, tmp_path)


def _run_snippets(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TORPOR_HOME", str(daemon.home))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 3
    for source in blocks("python"):
        exec(compile(source, "README.md", "exec"), names)
    names["keeper"].close()  # type: ignore[attr-defined]
    out = capsys.readouterr().out
    assert "kv_cache reuse same weights fingerprint" in out
    assert "\nfull\npassed bit by bit\n" in out
    assert " positions taken over: " in out
    assert re.search(r"^prefix from \w{26} with \d+ tokens reused, \d+ new$", out, re.MULTILINE)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) > 5
    for line in commands:
        words = line.split()
        assert words[0] == "torpor"
        run(daemon.home, *words[1:], cwd=tmp_path)


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_docs_name_every_command_and_extra() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    shown = [name for name in extras if name != "tray"]  # nothing to use yet
    assert [name for name in shown if f"`{name}`" not in README] == []
    assert "127.0.0.1:7717" in README


def test_the_command_is_installed() -> None:
    """`torpor` itself, as the wheel's entry point puts it beside the interpreter."""
    command = Path(sys.executable).with_name("torpor")
    assert subprocess.run([command, "--version"], capture_output=True, check=True).stdout.strip()
