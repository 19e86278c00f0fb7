"""Alembic's entry: runs on the connection that db/migrate.py hands over."""

from __future__ import annotations

from alembic import context
from torpor.db.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
