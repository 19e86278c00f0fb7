"""A faulty disk under another process: what tests/support/faulty_fs.c does, compiled, armed and read."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("faulty_fs.c")
RULE, CALLS = struct.Struct("<IIIIiIQQ88s"), struct.Struct("<16Q")
RULES = 4
CONTROL_BYTES = 4096


class Op(IntEnum):
    """A kind of call. CREATE is any open that may make a file, LIST an open of a folder."""

    OPEN, CREATE, WRITE, READ, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, TRUNCATE, STAT, CHANGE, LIST, LINK = range(14)


CHANGES = frozenset(Op) - {Op.OPEN, Op.READ, Op.STAT, Op.LIST}
GROWS = frozenset({Op.CREATE, Op.WRITE, Op.MKDIR})
EVERY = frozenset(Op)

# Besides an errno: half of a write; half and then zeros, called a success; kill -9, before or within a write; half, EIO.
SHORT, TORN, KILL, KILL_TORN, HALF_EIO = -1, -2, -3, -4, -5


def compiled() -> Path:
    """Return the shim, made once for each version of its source. Needs a C compiler."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"torpor-faulty-fs-{os.getuid()}-{digest}.so"
    if not library.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise AssertionError("the fault tests need a C compiler: install cc, gcc or clang")
        fresh = library.with_suffix(f".{os.getpid()}")
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", fresh, SOURCE]
        done = subprocess.run([*command, "-ldl", "-lpthread"], capture_output=True, text=True)
        assert done.returncode == 0, f"{compiler} cannot compile {SOURCE.name}:\n{done.stderr}"
        os.replace(fresh, library)
    return library


class FaultyDisk:
    """The rules of one shimmed process (or of several that share them)."""

    def __init__(self, root: Path, control: Path, record: Path | None = None) -> None:
        self.root, self.control, self.record = root, control, record
        control.write_bytes(bytes(CONTROL_BYTES))
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), CONTROL_BYTES)

    def environment(self) -> dict[str, str]:
        """What a process needs so that its disk is this one."""
        found = {"LD_PRELOAD": str(compiled()), "FAULTY_FS_ROOT": str(self.root.resolve())}
        found["FAULTY_FS_CONTROL"] = str(self.control)
        return found | ({"FAULTY_FS_RECORD": str(self.record)} if self.record is not None else {})

    @classmethod
    def of_this_process(cls) -> FaultyDisk:
        """The disk of this very process, which was started with it."""
        found = cls.__new__(cls)
        found.root, found.control = Path(os.environ["FAULTY_FS_ROOT"]), Path(os.environ["FAULTY_FS_CONTROL"])
        found.record = None
        with found.control.open("r+b") as file:
            found._map = mmap.mmap(file.fileno(), CONTROL_BYTES)
        return found

    def arm(
        self,
        ops: frozenset[Op] | Op,
        action: int,
        *,
        path: str = "",
        skip: int = 0,
        times: int = 1,
        per_mille: int = 1000,
        slot: int = 0,
    ) -> None:
        """Let calls go wrong: those of these kinds on paths that contain `path`, from the one behind the first `skip`.

        `times` 0: for ever.
        """
        kinds = [ops] if isinstance(ops, Op) else ops
        mask = sum(1 << op for op in kinds)
        rule = RULE.pack(0, skip, times, per_mille, action, 0, 0, 0, path.encode())
        self._map[slot * RULE.size : (slot + 1) * RULE.size] = rule
        self._map[slot * RULE.size : slot * RULE.size + 4] = struct.pack("<I", mask)  # last: now it counts

    def disarm(self) -> None:
        """Let everything work again; the counts stay."""
        for slot in range(RULES):
            self._map[slot * RULE.size : slot * RULE.size + 4] = bytes(4)

    def _rule(self, slot: int) -> tuple[int, ...]:
        return RULE.unpack_from(self._map, slot * RULE.size)

    def matched(self, slot: int = 0) -> int:
        """How many calls a rule has looked at."""
        return self._rule(slot)[6]

    def fired(self, slot: int = 0) -> int:
        """How many calls went wrong by a rule."""
        return self._rule(slot)[7]

    def calls(self) -> dict[Op, int]:
        """How many calls of each kind there were below the root."""
        found = CALLS.unpack_from(self._map, RULES * RULE.size)
        return {op: found[op] for op in Op}

    @contextmanager
    def failing(self, ops: frozenset[Op] | Op, action: int, **options: int | str) -> Iterator[None]:
        """Arm, and disarm behind it."""
        self.arm(ops, action, **options)  # type: ignore[arg-type]
        try:
            yield
        finally:
            self.disarm()
