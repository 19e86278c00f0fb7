"""A new index in this process is a copy of one that the migrations have made once: they take 40 ms, hundreds of times.

Daemons and commands, which are processes of their own, make theirs as ever.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from sqlalchemy import Engine
from torpor.db import index
from torpor.db.engine import writer_engine

_migrate = index.migrate


def copy_new_indexes() -> None:
    """Make it so, for the whole run."""
    index.migrate = _copied


def _copied(engine: Engine, path: Path) -> bool:
    if path.exists() and path.stat().st_size:
        return _migrate(engine, path)
    path.write_bytes(_new())
    return True


@functools.cache
def _new() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        engine = writer_engine(path)
        _migrate(engine, path)
        engine.dispose()
        assert [each.name for each in Path(folder).iterdir()] == [path.name]  # nothing of it is in a log of writes
        return path.read_bytes()
