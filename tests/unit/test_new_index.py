"""What the tests start from is, byte for byte, what the migrations make."""

from __future__ import annotations

from pathlib import Path

from support.new_index import by_alembic
from torpor.db.engine import writer_engine
from torpor.db.index import Index


def test_a_replayed_index_is_the_one_that_alembic_makes(tmp_path: Path) -> None:
    replayed, made = tmp_path / "replayed", tmp_path / "made"
    for _ in range(2):
        replayed.unlink(missing_ok=True)
        Index(replayed).close()
    engine = writer_engine(made)
    assert by_alembic(engine, made)
    engine.dispose()
    assert replayed.read_bytes() == made.read_bytes()
    assert not by_alembic(writer_engine(replayed), replayed)
