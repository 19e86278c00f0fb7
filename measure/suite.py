"""The suite: every group of figures by name, and a run of some of them, of which one that fails stops no other.

Modules are imported when their group runs: what one of them lacks concerns nobody else.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

from ..state.errors import BadInput, MissingExtra, SyncOff, TorporError
from . import machine
from .figures import Figure
from .rounds import console as notes
from .settings import Settings

TOKEN_BYTES = 144 << 10  # of KV cache, at the geometry of workload.py; that module needs torch
FIXED_DISK_BYTES, FIXED_MEMORY_BYTES = 256 << 20, 1 << 30  # the daemon's home and log; torch, a model, the daemon

State = Literal["done", "left out", "failed"]


@dataclass(frozen=True, slots=True)
class Group:
    """Some figures that are taken together.

    `module` and `function` name what takes them. `disk` and `memory` say how much that has at once, at its largest
    size, in KV caches of that size; `tokens` is the size of groups that have one of their own, `grown_bytes` what a
    session becomes longer by. How long it takes is rough: so many seconds on two cores, and more for each GiB of KV.
    """

    name: str
    title: str
    module: str
    function: str = "measure"
    disk: float = 0.0
    memory: float = 0.0
    tokens: int | None = None
    grown_bytes: int = 0
    seconds: float = 30.0
    seconds_a_gib: float = 0.0

    def figures(self, settings: Settings) -> list[Figure]:
        """Take them."""
        measure: Callable[[Settings], list[Figure]] = getattr(self.imported(), self.function)
        return measure(settings)

    def imported(self) -> ModuleType:
        """Import the module that takes them."""
        return importlib.import_module(self.module, __package__)

    def disk_bytes(self, settings: Settings) -> int:
        """Return what it has on the disk at most."""
        return int(self.disk * self._size(settings)) + self.grown_bytes + FIXED_DISK_BYTES

    def memory_bytes(self, settings: Settings) -> int:
        """Return what it has in memory at most."""
        return int(self.memory * self._size(settings)) + self.grown_bytes + FIXED_MEMORY_BYTES

    def lasts_s(self, settings: Settings) -> float:
        """Return about how long it takes on a machine that does nothing else."""
        rounds = settings.rounds(9, 3) / 9
        return rounds * (self.seconds + self.seconds_a_gib * TOKEN_BYTES * sum(settings.sizes) / 2**30)

    def _size(self, settings: Settings) -> int:
        return TOKEN_BYTES * (self.tokens or max(settings.sizes))


GROUPS = (
    Group(
        "save", "full save: from `save` to committed and durable", ".save",
        disk=6, memory=3, seconds=35, seconds_a_gib=40,
    ),
    Group(
        "restore", "verified restore, files in the page cache", ".restore", "measure_warm",
        disk=5, memory=2.8, seconds=35, seconds_a_gib=80,
    ),
    Group(
        "cold", "verified restore, nothing in the page cache", ".restore", "measure_cold",
        disk=3.5, memory=2.5, seconds=25, seconds_a_gib=60,
    ),
    Group(
        "growth", "a growing session: the save after 64 more tokens", ".growth",
        disk=9, memory=2, grown_bytes=256 << 20, seconds=15, seconds_a_gib=22,
    ),
    Group(
        "stall", "how long a save holds the thread that generates", ".stall",
        disk=1.2, memory=1.2, grown_bytes=1_400 << 20, seconds=45, seconds_a_gib=22,
    ),
    Group("text_save", "a save of text alone, with each message", ".text_save", seconds=25),
    Group("dedupe", "twenty forks of one session", ".dedupe", disk=1.2, memory=2.5, grown_bytes=400 << 20),
    Group(
        "memory", "memory while saving and restoring, beside the tensors", ".memory",
        disk=1.5, memory=2.5, seconds=25, seconds_a_gib=22,
    ),
    Group("load", "many clients at once: each save timed from the moment at which it was due", ".load", seconds=45),
    Group(
        "wake", "waking a real language model, against prefill", ".wake",
        disk=1, memory=1, tokens=8_192, seconds=420,
    ),
    Group("live", "a real language model while it is saved", ".live", disk=1, memory=1, tokens=8_192, seconds=420),
    Group(
        "codec", "lossless ratio and speed on a real KV cache", ".codec_figures",
        disk=1, memory=1, tokens=8_192, seconds=90,
    ),
    Group(
        "llama", "llama.cpp's slots at the same geometry: save, restore, a growing session", ".llama",
        disk=2.5, memory=3.2, seconds=40, seconds_a_gib=60,
    ),
    Group(
        "llama_small", "llama.cpp's slots, a model with a small cache", ".llama", "measure_small",
        disk=1, memory=1, tokens=8_192, seconds=120,
    ),
    Group(
        "bucket", "your bucket: up and down, against plain requests", ".bucket",
        disk=6, memory=3, tokens=512, seconds=60,
    ),
)  # fmt: skip
USUAL = ("save", "restore", "cold", "text_save")  # of a user who asks for nothing else: a minute or two at 1,000 tokens
NOT_ASKED = ("bucket",)  # what leaves the machine is measured only when somebody says so


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a group: its figures, or in words why there are none."""

    group: Group
    state: State
    figures: list[Figure] = field(default_factory=list)
    cores_given: float = 0.0
    reason: str = ""


def chosen(text: str, groups: Sequence[Group] = GROUPS) -> list[Group]:
    """Return the groups that `save,restore` or `all` name, in their own order. Raises: BadInput."""
    named = {each.name: each for each in groups}
    asked = {name.strip() for name in text.split(",")}
    wanted = {name for name in named if name not in NOT_ASKED} if text == "all" else asked
    if unknown := sorted(wanted - named.keys()):
        there = f"There are {', '.join(named)}; or `all`."
        raise BadInput(f"no bench is called {', '.join(map(repr, unknown))[:100]}", hint=there)
    return [each for name, each in named.items() if name in wanted]


def prepare() -> None:
    """Set this process up for figures, and say where they are worth less for it."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    if not machine.always_fresh_memory():
        notes.print("[yellow]this C library may hand out touched pages: warm figures favour whoever comes later[/]")


def run(groups: Sequence[Group], settings: Settings) -> Iterator[Outcome]:
    """Take the figures of one group behind the other."""
    for group in groups:
        yield _outcome(group, settings)


def _outcome(group: Group, settings: Settings) -> Outcome:
    cores = machine.cores_given()
    try:
        figures = group.figures(settings)
    except (MissingExtra, SyncOff) as error:
        return Outcome(group, "left out", reason=f"{error.detail}. {error.hint}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("torpor"):
            return _failed(group, error)
        return Outcome(group, "left out", reason=f"{error.name} is not installed")
    except Exception as error:
        return _failed(group, error)
    return Outcome(group, "done", figures, min(cores, machine.cores_given()))


def _failed(group: Group, error: Exception) -> Outcome:
    if os.environ.get("TORPOR_DEBUG"):
        traceback.print_exception(error)
    said = f"{error.detail}. {error.hint}" if isinstance(error, TorporError) else f"{type(error).__name__}: {error}"
    return Outcome(group, "failed", reason=said)
