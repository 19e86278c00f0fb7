"""Operations on a home whose disk is faulty: `python -m support.faulty_work HOME`, under tests/support/faulty_fs.c.

Reads a line of JSON a command on stdin: an operation, a fault, and at which of the operation's calls. Answers with the
number of cases, how many faults came to be, and what was wrong behind them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torpor.state.errors import TorporError

from support.faulty_fs import KILL, KILL_TORN, FaultyDisk, Op
from support.faulty_world import World

LIMIT = 5000  # calls of one operation: more would mean that it never ends


class Work:
    """One home and one disk; every case begins with what the one before left, healed."""

    def __init__(self, root: Path) -> None:
        self.disk, self.world = FaultyDisk.of_this_process(), World(root)
        with self.world.opened():
            for session in "aab":
                self.world.save(session)
            self.world.save_group()

    def run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do one operation again and again, failing at another call each time."""
        operation: Any = getattr(self.world, asked["operation"])
        ops, action = frozenset(Op(number) for number in asked["ops"]), asked["action"]
        kills = action in (KILL, KILL_TORN)
        cases = fired = 0
        wrong: list[str] = []
        for skip in self._turns(asked["every"], asked["first"]):
            options = {"path": asked["path"], "skip": skip, "times": asked["times"]}
            try:
                came = (self._killed if kills else self._failed)(operation, ops, action, options)
            except Exception:
                wrong.append(f"call {skip}: {traceback.format_exc()}")
                came = True
                if len(wrong) > 4:
                    break
            cases, fired = cases + 1, fired + came
            if not came:
                break  # the operation has no more calls
        return {"cases": cases, "fired": fired, "wrong": wrong}

    def _turns(self, every: int, first: int) -> Iterator[int]:
        yield from range(first, LIMIT, every)
        raise AssertionError("this goes on for ever")

    def _failed(self, operation: Any, ops: frozenset[Op], action: int, options: Any) -> bool:
        """Fail at a call, look, do it again without a fault, start anew, look again."""
        world = self.world
        with world.opened():
            self._prepare(operation)
            self.disk.arm(ops, action, **options)
            try:
                operation()
            except TorporError:
                pass
            finally:
                self.disk.disarm()
            came = self.disk.fired() > 0
            if world.catalog is None:
                world.open()
            world.verify()
            operation()
            world.verify()
        with world.opened():
            world.verify()
            world.settle()
        return came

    def _prepare(self, operation: Any) -> None:
        getattr(self.world, f"before_{operation.__name__}", lambda: None)()

    def _killed(self, operation: Any, ops: frozenset[Op], action: int, options: Any) -> bool:
        """Kill a child within a call, start anew, look."""
        self.world.skip_ids()
        out, into = os.pipe()
        child = os.fork()
        if not child:
            self._in_child(operation, ops, action, options, into)
        os.close(into)
        with os.fdopen(out, "rb") as pipe:
            said = pipe.read().decode().splitlines()
        _, status = os.waitpid(child, 0)
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert died or os.waitstatus_to_exitcode(status) == 0, said
        self.disk.disarm()
        self.world.skip_ids()
        for note in said:
            self.world.ledger.learn(note)
        with self.world.opened():
            self.world.verify()
            self.world.save()
            self.world.verify()
            self.world.settle()
        return died

    def _in_child(self, operation: Any, ops: frozenset[Op], action: int, options: Any, into: int) -> None:
        try:
            self.world.note_with(lambda text: os.write(into, text.encode() + b"\n"))
            self.world.open()
            self._prepare(operation)
            self.disk.arm(ops, action, **options)
            operation()
            self.disk.disarm()
            os._exit(0)
        except BaseException:
            os.write(into, traceback.format_exc().encode())
            os._exit(1)


def main() -> None:
    work = Work(Path(sys.argv[1]))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(work.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
