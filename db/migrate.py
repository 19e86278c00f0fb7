"""Bring the index to the newest schema. Alembic is imported only when there is something to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from ..state.errors import NewerIndex, StoreFailed, StoreFull
from .engine import connect
from .schema import REVISION

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"


def is_known(revision: str) -> bool:
    """Tell whether this version can read an index of some schema, as it is or after a migration."""
    return revision == REVISION or revision in _known_revisions(_config())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _known_revisions(config: Config) -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def migrate(engine: Engine, path: Path) -> bool:
    """Upgrade the index if needed; return whether it was. An existing one is copied beside itself first.

    All of it is one transaction: a crash in it, or a full disk, leaves the older index as it was.
    Raises: NewerIndex when it was written by a newer version; it is left untouched. StoreFull, StoreFailed.
    """
    revision = _revision_of(path)
    if revision == REVISION:
        return False
    config = _config()
    if revision is not None:
        if revision not in _known_revisions(config):
            raise NewerIndex(
                f"the index has schema {revision}, which this version does not know",
            )
        _copy(engine, path.with_name(f"{path.name}.before-{REVISION}"))
    from alembic import command

    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return True


def _revision_of(path: Path) -> str | None:
    """Return the schema revision of an index, or None for none or an empty one; nothing of it is changed."""
    with _translated("look at", path):
        try:
            if not path.stat().st_size:
                return None
        except FileNotFoundError:
            return None
    with closing(connect(path, read_only=True)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchall():
            return None
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return None if found is None else str(found[0])


def _copy(engine: Engine, copy: Path) -> None:
    """Copy the index; a copy that has its name is whole, and on the disk."""
    unfinished = copy.with_name(copy.name + ".tmp")
    with _translated("write", unfinished), suppress(FileNotFoundError):
        unfinished.unlink()
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM INTO ?", (str(unfinished),))  # which syncs nothing
    finally:
        raw.close()
    with _translated("write", copy):
        _sync(unfinished)
        os.replace(unfinished, copy)
        _sync(copy.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _translated(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreFailed
        raise kind(f"cannot {action} {path}: {error.strerror}") from error
