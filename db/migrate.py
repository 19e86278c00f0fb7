"""Bring the index to the newest schema. Alembic is imported only when there is something to do."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect

from ..state.errors import NewerIndex
from .schema import REVISION

MIGRATIONS = Path(__file__).parent / "migrations"


def current_revision(connection: Connection) -> str | None:
    """Return the schema revision of an index, or None for an empty file."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return revision


def is_known(revision: str) -> bool:
    """Tell whether this version can read an index of some schema, as it is or after a migration."""
    return revision == REVISION or revision in _known_revisions()


def _known_revisions() -> set[str]:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}


def migrate(engine: Engine, path: Path) -> bool:
    """Upgrade the index if needed; return whether it was. An existing one is copied beside itself first.

    Raises: NewerIndex when it was written by a newer version; it is left untouched.
    """
    with engine.connect() as connection:
        revision = current_revision(connection)
    if revision == REVISION:
        return False
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None:
        if revision not in known:
            raise NewerIndex(
                f"the index has schema {revision}, which this version does not know",
            )
        _copy(engine, path.with_name(f"{path.name}.before-{REVISION}"))
    from alembic import command

    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return True


def _copy(engine: Engine, copy: Path) -> None:
    with suppress(FileNotFoundError):
        copy.unlink()
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM INTO ?", (str(copy),))
    finally:
        raw.close()
