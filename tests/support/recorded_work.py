"""Mixed work on a home that is recorded: `python -m support.recorded_work HOME SEED STEPS`, under the shim.

What is begun and what is acknowledged is noted in the same record (support/faulty_world.py: `Ledger.learn`).
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from support.faulty_world import World

WRITERS = 3


def note(home: Path, text: str) -> None:
    """Note something in the recording."""
    with suppress(FileNotFoundError):
        os.stat(home / ".note" / text)


def work(home: Path, seed: int, steps: int) -> None:
    """Do this and that; every kind of operation at least once."""
    world = World(home, seed, lambda text: note(home, text))
    world.open()
    operations = [world.save] * 3 + [
        world.save_group,
        world.remove,
        world.pin,
        world.stay,
        world.collect,
        world.reuse,
        world.scrub,
        world.retain,
        world.start,
    ]
    order = [*operations, *(world.rng.choice(operations) for _ in range(steps))]
    for operation in order:
        operation()
        if operation == world.save_group:
            at_once(world)
    world.close()


def at_once(world: World) -> None:
    """Save from several threads at once, through the same files and the same daemon."""
    lock = threading.Lock()
    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(lambda turn: world.save_beside(f"t{turn}", lock), range(WRITERS)))


def main() -> None:
    home, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    work(home, seed, steps)


if __name__ == "__main__":
    main()
