"""What is remembered of the files in watched folders. It outlives a restart, not the loss of the index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from ..state.watching import Signature, WatchedFile
from .index import Index, insert_event
from .schema import watched_files as table

_BATCH = 500  # rows of one statement


class WatchedFiles:
    """The table `watched_files` of an open index."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def of(self, folder: str) -> dict[str, WatchedFile]:
        """Return what is remembered of one folder, by path."""
        with self._index.reading() as connection:
            rows = connection.execute(select(table).where(table.c.folder == folder)).mappings()
            return {file.path: file for file in map(_file, rows)}

    def note(self, file: WatchedFile, event: dict[str, Any] | None) -> None:
        """Remember a file and note the event that tells of it, in one transaction: it is told once."""
        row = _row(file)
        with self._index.writing() as connection:
            connection.execute(upsert(table).values(row).on_conflict_do_update(index_elements=["path"], set_=row))
            if event is not None:
                insert_event(connection, event)

    def tell(self, event: dict[str, Any]) -> None:
        """Note an event that belongs to no file's row."""
        with self._index.writing() as connection:
            insert_event(connection, event)

    def forget(self, paths: Sequence[str]) -> None:
        """Forget files."""
        keys = [os.fsencode(path) for path in paths]
        with self._index.writing() as connection:
            for start in range(0, len(keys), _BATCH):
                connection.execute(delete(table).where(table.c.path.in_(keys[start : start + _BATCH])))

    def forget_folder(self, folder: str) -> None:
        """Forget every file of a folder."""
        with self._index.writing() as connection:
            connection.execute(delete(table).where(table.c.folder == folder))


def _row(file: WatchedFile) -> dict[str, Any]:
    row = asdict(file)
    row |= row.pop("signature")
    row["path"] = os.fsencode(file.path)
    return row


def _file(row: RowMapping) -> WatchedFile:
    values = dict(row)
    signature = Signature(values.pop("size_bytes"), values.pop("mtime_ns"), values.pop("inode"))
    return WatchedFile(**values | {"path": os.fsdecode(values["path"]), "signature": signature})
