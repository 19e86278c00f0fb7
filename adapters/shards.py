"""The safetensors shards of a model folder: which there are, and the digest of every tensor in them, remembered.

A shard is read once, front to back, by several threads with a few MiB of memory each. What was read is remembered by
path, size, mtime, ctime, inode and device: nobody can write to a file and leave all of those as they were.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
from blake3 import blake3

from ..client.remembered import Memory
from ..client.transfer import Progress, no_progress
from ..codec.safetensors_file import Entry, SafetensorsFile
from ..codec.weights import WeightLine
from ..state.errors import BadInput, FileChanged, FileDamaged, InvalidFile, NotFound, UnknownFormat

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHERS = (".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx")
_MAX_INDEX_BYTES = 64 << 20
_PIECE_BYTES = 4 << 20
_SETTLED_NS = 2_000_000_000  # a file changed within the last two seconds may change again and look the same
_THREADS = min(8, max(2, os.cpu_count() or 2))

Clock = Callable[[], int]
Identity = tuple[str, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Span:
    """Where the bytes of one tensor lie in a shard that is open."""

    fd: int
    start: int
    entry: Entry


def identity(path: str, fd: int | None = None) -> Identity:
    """Return what a file is remembered by: path, size, mtime, ctime (ns), inode, device. Raises: NotFound."""
    real = os.path.realpath(path)
    try:
        found = os.stat(real) if fd is None else os.fstat(fd)
    except OSError as error:
        raise NotFound(f"{os.path.basename(path)} cannot be read: {error.strerror}", hint=_COPY) from error
    return real, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


_COPY = "The folder is not whole: fetch the model again, or name the folder that holds all of it."


def shard_paths(folder: str) -> list[str]:
    """Return the shards of a folder, as loading it would take them.

    Raises: NotFound where one is missing, UnknownFormat where the weights are not safetensors, InvalidFile.
    """
    if os.path.isfile(os.path.join(folder, SINGLE)):
        return [os.path.join(folder, SINGLE)]
    index = os.path.join(folder, INDEX)
    if not os.path.isfile(index):
        found = sorted(name for name in os.listdir(folder) if name.endswith(_OTHERS))
        if found:
            raise UnknownFormat(f"{found[0]} is no safetensors file", hint="Convert it with `save_pretrained`.")
        raise NotFound(f"there is neither {SINGLE} nor {INDEX}", hint=_COPY)
    paths = [os.path.join(folder, name) for name in _names(index)]
    missing = [os.path.basename(path) for path in paths if not os.path.isfile(path)]
    if missing:
        raise NotFound(f"{len(missing)} of {len(paths)} shards are missing: {', '.join(missing[:3])}", hint=_COPY)
    return paths


def _names(index: str) -> list[str]:
    if os.path.getsize(index) > _MAX_INDEX_BYTES:
        raise InvalidFile(f"{INDEX} has more than {_MAX_INDEX_BYTES} bytes", hint=_COPY)
    try:
        with open(index, "rb") as file:
            names = sorted(set(orjson.loads(file.read())["weight_map"].values()))
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise InvalidFile(f"{INDEX} does not name shards", hint=_COPY) from error
    if not names or any(not isinstance(name, str) or os.path.basename(name) != name or not name for name in names):
        raise InvalidFile(f"{INDEX} names a file outside the folder, or none", hint=_COPY)
    return names


def identities(folder: str) -> list[Identity]:
    """Return the identity of every shard of a folder. Raises: NotFound, UnknownFormat, InvalidFile."""
    return [identity(path) for path in shard_paths(folder)]


def shard_lines(
    paths: Sequence[str], memory: Memory, progress: Progress = no_progress, clock: Clock = time.time_ns
) -> dict[str, WeightLine]:
    """Return every tensor of some shards by its name; only what is not remembered is read.

    Raises: NotFound, FileDamaged, InvalidFile, TooLarge, FileChanged.
    """
    found: dict[str, WeightLine] = {}
    unread: list[tuple[str, Identity]] = []
    for path in paths:
        mark = identity(path)
        known = _recall(memory, mark)
        if known is None:
            unread.append((path, mark))
        else:
            _add(found, known, path)
    done = _Done(sum(mark[1] for _, mark in unread), progress)
    with ExitStack() as stack:
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="torpor-hash")
        reading = [_Reading(path, mark, stack, done) for path, mark in unread]  # the files close after the threads
        stack.callback(threads.shutdown, cancel_futures=True)
        for shard in reading:
            shard.start(threads)
        for shard in reading:
            lines = shard.lines()
            if clock() - max(shard.mark[2:4]) > _SETTLED_NS:
                memory.put("digest", _key(shard.mark), {x.name: (x.dtype, x.shape, x.digest) for x in lines})
            _add(found, lines, shard.path)
    return found


def _add(found: dict[str, WeightLine], lines: Iterable[WeightLine], path: str) -> None:
    for line in lines:
        if found.setdefault(line.name, line) is not line:
            raise InvalidFile(f"{os.path.basename(path)} holds {line.name[:80]} once more", hint=_COPY)


def _key(mark: Identity) -> str:
    return f"shard:{blake3(orjson.dumps((1, *mark), default=str)).hexdigest()}"


def _recall(memory: Memory, mark: Identity) -> list[WeightLine] | None:
    value = memory.get("digest", _key(mark))
    if not isinstance(value, dict):
        return None
    try:
        return [WeightLine(name, dtype, tuple(shape), digest) for name, (dtype, shape, digest) in value.items()]
    except (TypeError, ValueError):
        return None


class _Done:
    """Counts bytes over all shards and threads."""

    def __init__(self, total_bytes: int, progress: Progress) -> None:
        self._total, self._progress, self._bytes, self._lock = total_bytes, progress, 0, threading.Lock()
        progress(0, total_bytes)

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        with self._lock:
            self._bytes += count
            self._progress(self._bytes, self._total)


class _Reading:
    """A shard that is open: every tensor is digested in the order of its bytes."""

    def __init__(self, path: str, mark: Identity, stack: ExitStack, done: _Done) -> None:
        self.path, self.mark, self._done = path, mark, done
        file = stack.enter_context(_open(path))
        self._fd = file.fileno()
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        try:
            header = SafetensorsFile(file, mark[1])
        except BadInput as error:
            raise type(error)(f"{os.path.basename(path)}: {error.detail}", hint=_COPY) from error
        done.add(header.data_at)
        self._spans = _spans(self._fd, header)
        self._futures: list[Future[WeightLine]] = []

    def start(self, threads: ThreadPoolExecutor) -> None:
        """Let threads read it."""
        name = os.path.basename(self.path)
        self._futures = [threads.submit(_digest, span, name, self._done) for span in self._spans]

    def lines(self) -> list[WeightLine]:
        """Wait for all tensors. Raises: FileDamaged, FileChanged."""
        found = [future.result() for future in self._futures]
        if identity(self.path, self._fd) != self.mark or identity(self.path) != self.mark:
            raise FileChanged(f"{os.path.basename(self.path)} was changed while it was read")
        return found


def _open(path: str) -> BinaryIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise NotFound(f"{os.path.basename(path)} cannot be read: {error.strerror}", hint=_COPY) from error


def _spans(fd: int, header: SafetensorsFile) -> list[_Span]:
    at, found = header.data_at, []
    for entry in header.entries:
        found.append(_Span(fd, at, entry))
        at += entry.size_bytes
    return found


_local = threading.local()


def _digest(span: _Span, name: str, done: _Done) -> WeightLine:
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(bytearray(_PIECE_BYTES))
    hasher, at, left = blake3(), span.start, span.entry.size_bytes
    while left:
        count = os.preadv(span.fd, [buffer[: min(left, _PIECE_BYTES)]], at)
        if count == 0:
            raise FileDamaged(f"{name} ends early", hint=_COPY)
        hasher.update(buffer[:count])
        at, left = at + count, left - count
        done.add(count)
    spec: Any = span.entry.spec
    return WeightLine(span.entry.name, spec.dtype, spec.shape, hasher.hexdigest())
