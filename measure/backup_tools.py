"""Backup programs that people have for any file: restic, borg and kopia, those that are installed.

Each gets what favours it: a repository in a local folder, a cache folder of its own, no compression (a KV cache of
random values has nothing to compress) and as little encryption as the program allows. What it is given is the file of a
program that dumps its state: the same path, written anew with the grown state. Only the run of the tool is timed, not
the dump; the file is in the page cache then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .page_cache import files_under

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """How a program is run. `{folder}` stands for a folder of its own, `{source}` for the file, `{number}` counts."""

    name: str
    environment: Mapping[str, str]
    prepare: tuple[Command, ...]
    backup: Command


TOOLS = (
    Tool(
        "restic",  # it always encrypts
        {"RESTIC_REPOSITORY": "{folder}/repository", "RESTIC_PASSWORD": "x", "RESTIC_CACHE_DIR": "{folder}/cache"},
        (("restic", "init", "--quiet", "--repository-version", "2"),),
        ("restic", "backup", "--quiet", "--compression", "off", "{source}"),
    ),
    Tool(
        "borg",
        {
            "BORG_REPO": "{folder}/repository",
            "BORG_BASE_DIR": "{folder}/cache",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        },
        (("borg", "init", "--encryption", "none"),),
        ("borg", "create", "--compression", "none", "::{number}", "{source}"),
    ),
    Tool(
        "kopia",  # it always encrypts
        {
            "KOPIA_PASSWORD": "x",
            "KOPIA_CONFIG_PATH": "{folder}/cache/kopia.config",
            "KOPIA_CACHE_DIRECTORY": "{folder}/cache",
            "KOPIA_LOG_DIR": "{folder}/cache",
            "KOPIA_CHECK_FOR_UPDATES": "false",
        },
        (
            ("kopia", "repository", "create", "filesystem", "--path", "{folder}/repository"),
            ("kopia", "policy", "set", "--global", "--compression", "none"),
        ),
        ("kopia", "snapshot", "create", "{source}"),
    ),
)


class ToolError(Exception):
    """A program ended with an error: another version, perhaps, with other words."""


class Repository:
    """A tool with a repository in a folder, which it makes. Raises: ToolError."""

    def __init__(self, tool: Tool, folder: Path) -> None:
        self.tool, self._folder, self._number = tool, folder, 0
        (folder / "repository").mkdir(parents=True)
        (folder / "cache").mkdir()
        for command in tool.prepare:
            self._run(command)

    def backup(self, source: Path) -> float:
        """Back a file up; return how long that took. Raises: ToolError."""
        self._number += 1
        started = time.perf_counter()
        self._run(self.tool.backup, source)
        return time.perf_counter() - started

    def size_bytes(self) -> int:
        """Return the size of all files of the repository, without the tool's cache."""
        return sum(path.stat().st_size for path in files_under(self._folder / "repository"))

    def _run(self, command: Command, source: Path | None = None) -> None:
        words = {"folder": str(self._folder), "source": str(source), "number": str(self._number)}
        environment = os.environ | {name: value.format(**words) for name, value in self.tool.environment.items()}
        done = subprocess.run(
            [word.format(**words) for word in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if done.returncode:
            said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            raise ToolError(f"`{' '.join(command)}` failed: {said}")


def installed() -> tuple[list[Tool], list[Tool]]:
    """Return the tools that are on the PATH, and those that are not."""
    found = [tool for tool in TOOLS if shutil.which(tool.name)]
    return found, [tool for tool in TOOLS if tool not in found]
