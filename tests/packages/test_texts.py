"""The manual, the completions and the icons: every command is in them, and the programs that read them do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _packaging() -> Iterator[None]:
    """Scripts of packaging/ are no package: they are imported from their folder."""
    sys.path.insert(0, str(ROOT / "packaging"))
    yield
    sys.path.remove(str(ROOT / "packaging"))


def test_the_manual_names_every_command_and_option() -> None:
    from command_tree import command_tree
    from manual import manual

    tree = command_tree()
    page = manual(tree, "1.0", "2026-01-01", {1: "Failed."})
    for command in tree.walk():
        if command.words and not command.commands:
            assert f".SS torpor {' '.join(command.words)}".replace("-", "\\-") in page
        for option in command.options:
            assert option.names[-1].replace("-", "\\-") in page
    if shutil.which("man"):
        done = subprocess.run(
            ["man", "--warnings=w", "-l", "-"],
            input=page,
            capture_output=True,
            text=True,
            env={"MANWIDTH": "80", "PATH": "/usr/bin:/bin"},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "torpor sync pause" in done.stdout


@pytest.mark.parametrize("line", ["sync p", "export abc --fo", "se", "import /etc/host"])
def test_bash_completes(line: str) -> None:
    from command_tree import command_tree
    from completions import bash

    words = ["torpor", *line.split(" ")]
    asks = f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}; _torpor; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{bash(command_tree())}\n{asks}"], capture_output=True, text=True)
    assert done.stderr == ""
    found = set(done.stdout.split())
    expected = {
        "sync p": {"pause", "policy"},
        "export abc --fo": {"--format", "--force"},
        "se": {"search", "serve", "service"},
        "import /etc/host": {str(path) for path in Path("/etc").glob("host*")},
    }
    assert found == expected[line]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_fish_completes(tmp_path: Path) -> None:
    from command_tree import command_tree
    from completions import fish

    file = tmp_path / "torpor.fish"
    file.write_text(fish(command_tree()))
    asks = f'source {file}; complete -C "torpor sync p"; complete -C "torpor export abc --fo"'
    done = subprocess.run(
        ["fish", "--no-config", "-c", asks],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {"pause", "policy", "--format", "--force"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_reads_it(tmp_path: Path) -> None:
    """What it would offer, by its own function, with `_describe` saying what it was given."""
    from command_tree import command_tree
    from completions import zsh

    (tmp_path / "_torpor").write_text(zsh(command_tree()))
    asks = (
        f"fpath=({tmp_path} $fpath); autoload -Uz _torpor; compdef() {{ :; }}\n"
        "_describe() { print -rl -- ${(P)2}; }\n"
        "words=(torpor sync p) CURRENT=3; _torpor; words=(torpor export abc --fo) CURRENT=4; _torpor"
    )
    done = subprocess.run(["zsh", "-f", "-c", asks], capture_output=True, text=True)
    offered = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert done.stderr == ""
    assert {"pause", "resume", "policy", "--format", "--force"} <= offered
    assert "serve" not in offered


def test_the_icon_is_the_dashboards_own() -> None:
    from icons import SIZES, picture

    svg = (ROOT / "web" / "dashboard" / "icon.svg").read_text()
    for size in SIZES:
        image = picture(svg, size)
        assert image.size == (size, size)
        assert image.getpixel((0, 0)) == (0, 0, 0, 0)  # beside the disc
        assert image.getpixel((size * 15 // 22, size * 6 // 22)) == (0x1F, 0x3A, 0x5F, 255)  # the night
        assert image.getpixel((size * 6 // 22, size * 13 // 22))[:2] == (0xF4, 0xD5)  # the moon
