"""A long session that grows: what the save after 64 more tokens costs, in bytes and in time.

Against a full save, against a bare write of the same bytes, and against programs that find by themselves what is new in
a file (backup_tools.py). Their file is the cache as it lies in memory, written anew before each of their turns.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..adapters.transformers import TransformersSession
from ..client import Keeper
from ..codec.torch_bridge import byte_view
from ..state.backup import Backup
from .backup_tools import Repository, Tool, ToolError, installed
from .figures import Figure
from .free_pages import have_at_hand
from .peers import joined, write_raw
from .rig import keeper_in, scratch
from .rounds import console, seconds
from .settings import Settings
from .workload import BLOCK_TOKENS, TOKEN_BYTES, fresh_session, go_on, load, tensors_of

HALF_BLOCK = BLOCK_TOKENS // 2  # at the end of the session; the next save writes it again
MORE_TOKENS = 64
LATER_SAVES, FEW_LATER_SAVES = 8, 4
TOOL_ROUNDS, FEW_TOOL_ROUNDS = 2, 1  # a tool reads all of the file again: seconds to a minute
BYTES_AT_MOST, BYTES_SLACK = 1.02, 128 << 10
TIME_AT_MOST = 1 / 20
FASTER_AT_LEAST = 50.0
GOALS_FROM_TOKENS = 8_192  # the times: of a short session a full save is next to nothing, too


@dataclass(slots=True)
class _ToolSamples:
    """What a tool took, and what we took for the same tokens."""

    tool_s: list[float] = field(default_factory=list)
    tool_grew: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)
    ours_grew: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Samples:
    tokens: int
    full_s: float = 0.0
    later_s: list[float] = field(default_factory=list)
    stall_s: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    raw_s: list[float] = field(default_factory=list)
    tools: dict[str, _ToolSamples] = field(default_factory=dict)


def measure(settings: Settings) -> list[Figure]:
    """Save a session of the largest size once, and then again and again, each time 64 tokens longer."""
    tools, missing = installed()
    for tool in missing:
        console.print(f"[yellow]{tool.name} is not installed: left out[/]")
    samples = _Samples(max(settings.sizes) - HALF_BLOCK)
    with scratch(settings.folder) as folder, keeper_in(folder) as keeper, console.status("") as status:
        growing = _Growing(keeper, fresh_session(load(), samples.tokens), folder)
        status.update("growing session: the first save")
        samples.full_s = growing.save(samples.tokens * TOKEN_BYTES)[0]
        repositories = growing.first_backups(tools)
        growing.later(_Samples(samples.tokens))  # the first of them is not counted
        for number in range(settings.rounds(LATER_SAVES, FEW_LATER_SAVES)):
            status.update(f"growing session: later save {number + 1}")
            growing.later(samples)
            if number < settings.rounds(TOOL_ROUNDS, FEW_TOOL_ROUNDS):
                growing.tools(repositories, samples)
    return list(_figures(samples))


class _Growing:
    """A session, who saves it, and the file that the tools are given."""

    def __init__(self, keeper: Keeper, session: TransformersSession, folder: Path) -> None:
        self._keeper, self._session, self._folder = keeper, session, folder
        self._dumped = folder / "state.raw"

    def save(self, takes_bytes: int) -> tuple[float, float, Backup]:
        """Save what takes as much memory; return how long it took, how long the caller was held, and the backup."""
        gc.collect()
        have_at_hand(takes_bytes)
        started = time.perf_counter()
        handle = self._keeper.save("growing", self._session)
        backup = handle.wait()
        return time.perf_counter() - started, handle.stall_s, backup

    def later(self, samples: _Samples) -> None:
        """Let the session grow and save it, beside a bare write of the new bytes."""
        partial_tokens = self._tokens() % BLOCK_TOKENS
        go_on(self._session, MORE_TOKENS)
        new_bytes = (MORE_TOKENS + partial_tokens) * TOKEN_BYTES
        took_s, stall_s, backup = self.save(new_bytes)
        samples.later_s.append(took_s)
        samples.stall_s.append(stall_s)
        samples.written.append(backup.bytes_written)
        samples.expected.append(new_bytes)
        samples.raw_s.append(self._raw_s(MORE_TOKENS + partial_tokens))

    def first_backups(self, tools: list[Tool]) -> list[Repository]:
        """Make a repository for each tool and back the session up; return those that could."""
        if tools:
            self._dump()
        made: list[Repository] = []
        for tool in tools:
            console.print(f"[dim]{tool.name}: the first backup[/]")
            try:
                repository = Repository(tool, self._folder / tool.name)
                repository.backup(self._dumped)
            except ToolError as error:
                console.print(f"[yellow]{error}: left out[/]")
            else:
                made.append(repository)
        return made

    def tools(self, repositories: list[Repository], samples: _Samples) -> None:
        """Give every tool the grown file, and drop those that fail; ours is the save that was just made."""
        if repositories:
            self._dump()
        for repository in list(repositories):
            before_bytes = repository.size_bytes()
            have_at_hand(self._dumped.stat().st_size // 2)  # as much as they add
            try:
                took_s = repository.backup(self._dumped)
            except ToolError as error:
                console.print(f"[yellow]{error}: left out[/]")
                repositories.remove(repository)
                continue
            found = samples.tools.setdefault(repository.tool.name, _ToolSamples())
            found.tool_s.append(took_s)
            found.tool_grew.append(repository.size_bytes() - before_bytes)
            found.ours_s.append(samples.later_s[-1])
            found.ours_grew.append(samples.written[-1])

    def _tokens(self) -> int:
        return int(self._session.token_ids.shape[-1]) - 1

    def _dump(self) -> None:
        with self._dumped.open("wb") as file:
            for tensor in tensors_of(self._session).values():
                file.write(byte_view(tensor).data)

    def _raw_s(self, tokens: int) -> float:
        data = joined({name: tensor[:, :, -tokens:] for name, tensor in tensors_of(self._session).items()})
        gc.collect()
        have_at_hand(data.nbytes)
        return seconds(lambda: write_raw(self._folder / f"raw-{self._tokens()}", data))


def _figures(samples: _Samples) -> Iterator[Figure]:
    judged = samples.tokens + HALF_BLOCK >= GOALS_FROM_TOKENS
    group, at = "growth", f"later save, +{MORE_TOKENS} at {samples.tokens:,} tokens"
    yield Figure(
        group, f"{at}: bytes", "B", samples.written, "new KV + old partial block", samples.expected,
        BYTES_AT_MOST, slack=BYTES_SLACK,
    )  # fmt: skip
    for name, found in samples.tools.items():
        yield Figure(group, f"{at}: bytes", "B", found.ours_grew, f"what {name} adds", found.tool_grew)
    full = [samples.full_s] * len(samples.later_s)  # of the session before it grew: a little less than it is now
    yield Figure(group, at, "s", samples.later_s, "full save", full, TIME_AT_MOST if judged else None)
    yield Figure(group, at, "s", samples.later_s, "raw write + fsync of the new bytes", samples.raw_s)
    for name, found in samples.tools.items():
        yield Figure(
            group, at, "s", found.ours_s, name, found.tool_s, faster_at_least=FASTER_AT_LEAST if judged else None
        )
    yield Figure(group, f"{at}: caller held", "s", samples.stall_s)
