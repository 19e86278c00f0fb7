"""A full save, durable and committed, against writing the same bytes, at every length that is asked for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession
from ..store.files import write_all
from . import workload
from .figures import Figure
from .peers import WRITERS, joined, write_raw
from .rig import keeper_in, scratch, settle
from .rounds import Action, Contender, interleave
from .settings import JUDGED_FROM_TOKENS, Settings
from .workload import BLOCK_TOKENS, TOKEN_BYTES, another, fresh_session, tensors_of

T = TypeVar("T")
RAW, SIDE_BY_SIDE = "raw write + fsync", "raw, 9 MiB files, four at once"
SLOW = "v1 file + fsync"  # as slow as it is, one length says all
AT_MOST = {RAW: 1.10, "safetensors + fsync": 1.0, "torch.save + fsync": 1.0}
WRITERS_AT_ONCE = 4
LARGE_BYTES, HUGE_BYTES = 1 << 30, 4 << 30  # from here on few rounds, and none that is not counted: each is a minute


def measure(settings: Settings) -> list[Figure]:
    """Save with torpor and with every peer, round by round, at each length."""
    loaded, shortest = workload.load(), min(settings.sizes)
    return [
        figure
        for tokens in settings.sizes
        for figure in _figures(
            loaded,
            settings,
            tokens,
            with_slow=tokens == shortest and not settings.brief and tokens * TOKEN_BYTES < LARGE_BYTES,
        )
    ]


def _figures(loaded: Loaded, settings: Settings, tokens: int, *, with_slow: bool) -> Iterator[Figure]:
    size_bytes = tokens * TOKEN_BYTES
    large = size_bytes >= LARGE_BYTES
    rounds = settings.rounds(2 if size_bytes >= HUGE_BYTES else 3, 1) if large else settings.rounds(9, 3)
    with scratch(settings.folder) as folder, ExitStack() as stack:
        contenders = _contenders(loaded, folder, stack, tokens, with_slow=with_slow)
        samples = interleave(
            f"full save of {tokens:,} tokens", rounds, contenders, warm_up=not large, takes_bytes=size_bytes
        )
    ours, judged = samples.pop("torpor"), tokens >= JUDGED_FROM_TOKENS
    for name, taken in samples.items():
        yield Figure(
            "save", f"full save, {tokens:,} tokens", "s", ours, name, taken, AT_MOST.get(name) if judged else None
        )


def _contenders(
    loaded: Loaded, folder: Path, stack: ExitStack, tokens: int, *, with_slow: bool
) -> dict[str, Contender]:
    """Return who writes what. In memory are one cache, and one copy of it for those who write a single buffer."""
    session = fresh_session(loaded, tokens)
    tensors = tensors_of(session)
    found: dict[str, Contender] = {
        "torpor": saver(stack, session, folder, partial(fresh_session, loaded, BLOCK_TOKENS)),
        RAW: _writer(folder, "raw", write_raw, lambda: joined(tensors)),
        SIDE_BY_SIDE: _writer(folder, "parts", write_side_by_side, lambda: joined(tensors)),
    }
    if tokens * TOKEN_BYTES >= HUGE_BYTES:
        del found[SIDE_BY_SIDE]
    for name, write in WRITERS.items():
        if with_slow or name != SLOW:
            found[name] = _writer(folder, name.split()[0], write, lambda: tensors)
    return found


def saver(
    stack: ExitStack, session: TransformersSession, folder: Path, first: Callable[[], TransformersSession]
) -> Contender:
    """Save into a home of its own each time: the one before is removed, as the files of the others are.

    `first` makes the short session that each daemon is given before.
    """
    numbers = itertools.count()
    least_bytes = sum(tensor.nbytes for tensor in tensors_of(session).values())

    def prepare() -> Action:
        stack.close()
        made = another(session)
        keeper = stack.enter_context(keeper_in(stack.enter_context(scratch(folder))))
        keeper.save("first", first()).wait()  # connected, and its threads run
        settle(folder)

        def save() -> None:
            backup = keeper.save(f"full-{next(numbers)}", made).wait()
            if backup.bytes_written < least_bytes:
                raise RuntimeError(f"only {backup.bytes_written} bytes were written: this was no full save")

        return save

    return prepare


def _writer(folder: Path, name: str, write: Callable[[Path, T], None], make: Callable[[], T]) -> Contender:
    numbers = itertools.count()

    def prepare() -> Action:
        for old in folder.glob(f"{name}-*"):  # of the round before
            old.unlink()
        settle(folder)
        return partial(write, folder / f"{name}-{next(numbers)}", make())

    return prepare


def write_side_by_side(path: Path, data: memoryview) -> None:
    """Write a buffer to files of a block's size, some at once, the disk being asked to begin at once; sync each."""
    step = BLOCK_TOKENS * TOKEN_BYTES

    def write(at: int) -> None:
        with Path(f"{path}-{at}").open("xb", buffering=0) as file:
            write_all(file.fileno(), [data[at : at + step]])
            os.fsync(file.fileno())

    with ThreadPoolExecutor(WRITERS_AT_ONCE) as threads:
        list(threads.map(write, range(0, data.nbytes, step)))
