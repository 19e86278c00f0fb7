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
from pathlib import Path
from typing import Any

from torpor.state.errors import TorporError

from support.faulty_fs import KILL, KILL_TORN, FaultyDisk, Op
from support.faulty_world import World


class Work:
    """One home and one disk; every case begins with what the one before left, healed."""

    def __init__(self, root: Path) -> None:
        self.disk, self.world = FaultyDisk.of_this_process(), World(root)
        self._calls: dict[str, dict[Op, int]] = {}
        with self.world.opened():
            for session in "aab":
                self.world.save(session)
            self.world.save_group()

    def run(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do one operation again and again, failing at another call each time: `cases` of them, or at every `every`th."""
        operation: Any = getattr(self.world, asked["operation"])
        ops, action = frozenset(Op(number) for number in asked["ops"]), asked["action"]
        calls = sum(self._calls_of(operation)[op] for op in ops)
        step = asked["every"] or max(calls // asked["cases"], 1)
        fired, wrong = 0, []
        for skip in range(asked["first"] % step, max(calls, 1), step):
            options = {"skip": skip, "times": asked["times"]}
            case = self._killed if action in (KILL, KILL_TORN) else self._failed
            try:
                fired += case(operation, ops, action, options)
            except Exception:
                wrong.append(f"call {skip}: {traceback.format_exc()}")
                if len(wrong) > 4:
                    break
        return {"calls": calls, "fired": fired, "wrong": wrong}

    def _calls_of(self, operation: Any) -> dict[Op, int]:
        """Return how many calls of each kind an operation makes, more or less; it is tried once."""
        if operation.__name__ not in self._calls:
            with self.world.opened():
                self._prepare(operation)
                before = self.disk.calls()
                operation()
                after = self.disk.calls()
                self.world.settle()
            self._calls[operation.__name__] = {op: after[op] - before[op] for op in Op}
        return self._calls[operation.__name__]

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
