"""What is read of a backup for the search and for listings, and entered in turns that let commits through."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import orjson
from blake3 import blake3

from ..codec import manifest_file
from ..codec.glimpse import glimpse
from ..codec.messages import Found
from ..codec.transcript import find_messages, role_of, words_of
from ..db import search
from ..db.previews import insert_previews, without_preview
from ..db.search import TITLE, Entry, Target
from ..db.words import can_have_words, compact_some, has_words, make_words, remake_words
from ..state.errors import BadInput, Damaged, IndexDamaged, NotFound
from ..state.glimpse import NOTHING, Glimpse
from ..state.manifest import BlobRef, Manifest
from .catalog import Catalog

log = logging.getLogger("torpor.search")
MOST_MESSAGES, MOST_CHARS = 20_000, 200_000  # of a session, its newest; of a message, its beginning
_AT_ONCE = 200  # messages of one transaction
_PREVIEWS = 20  # of one transaction
_UNREADABLE = (BadInput, NotFound, Damaged)


class SearchReading:
    """Enters what is said in backups into the index. For one thread at a time.

    Long work ends early once `stopping` says so; what is half entered then is ended at the next start.
    """

    def __init__(self, catalog: Catalog, stopping: Callable[[], bool] = lambda: False) -> None:
        self._catalog, self._index, self._stopping = catalog, catalog.index, stopping

    def is_empty(self) -> bool:
        """Tell whether nothing can be searched."""
        with self._index.reading() as connection:
            return search.is_empty(connection)

    def behind(self) -> list[str]:
        """Return the sessions that are to be read, the newest first; none where words cannot be indexed."""
        with self._index.reading() as connection:
            if has_words(connection):
                return search.behind(connection)
        with self._index.writing() as connection:
            if not can_have_words(connection):
                return []
            make_words(connection)
        return self.behind()

    def remake(self) -> list[str]:
        """Make the index of words anew; return the sessions that are to be read, which are all."""
        with self._index.writing() as connection:
            remake_words(connection)
        return self.behind()

    def read(self, session_id: str) -> bool:
        """Enter what is new of a session; False when the index of words is damaged.

        What changes while it is read has to be read again.
        """
        try:
            self._read(session_id)
        except IndexDamaged as error:
            log.warning("the index of words is damaged: %s", error.detail)
            return False
        return True

    def _read(self, session_id: str) -> None:
        with self._index.reading() as connection:
            if not has_words(connection):
                return
            target = search.target_of(connection, session_id)
            if target is None or search.is_searched(connection, target):
                return
            known = search.known_digests(connection, session_id)
        there = _Messages(self._manifest(target.backup_id), target.title, self._catalog.blobs.read)
        stale = [position for position, digest in known.items() if there.digest(position) != digest]
        missing = [each for each in there.positions() if known.get(each) != there.digest(each)]
        self._enter(target, stale, missing, there)

    def _enter(self, target: Target, stale: Collection[int], missing: Sequence[int], there: _Messages) -> None:
        """Enter messages, some at a time; the first of them together with what goes."""
        for at in range(0, max(len(missing), 1), _AT_ONCE):
            if self._stopping():
                return
            entries = [there.entry(position) for position in missing[at : at + _AT_ONCE]]
            with self._index.writing() as connection:
                if at == 0 and not search.begin_entering(connection, target, stale):
                    return
                if not search.enter(connection, target, entries, last=at + _AT_ONCE >= len(missing)):
                    return

    def _manifest(self, backup_id: str) -> Manifest | None:
        """Return a manifest, None when it cannot be read: then nothing of it is found."""
        try:
            return manifest_file.load(self._catalog.manifest_json(backup_id))
        except _UNREADABLE:
            return None

    def fill_previews(self, before: str | None) -> str | None:
        """Enter previews of some backups that have none, older than a backup; return the oldest, None at the end."""
        with self._index.reading() as connection:
            lacking = without_preview(connection, before, _PREVIEWS)
        made: list[tuple[str, Glimpse]] = []
        for backup_id in lacking:
            manifest = self._manifest(backup_id)
            made.append((backup_id, NOTHING if manifest is None else glimpse(manifest)))
        if made:
            with self._index.writing() as connection:
                insert_previews(connection, made)
        return lacking[-1] if lacking else None

    def compact(self) -> None:
        """Take the words of what was removed out of the file for good, in steps that let commits through."""
        with self._index.reading() as connection:
            more = begin = has_words(connection)
        while more and not self._stopping():
            with self._index.writing() as connection:
                more = compact_some(connection, begin=begin)
            begin = False


class _Messages:
    """The messages of a backup by position, the title of its session among them; texts are read when asked for."""

    def __init__(self, manifest: Manifest | None, title: str | None, read: Callable[[BlobRef], memoryview]) -> None:
        self._title, self._read = title, read
        try:
            found = [] if manifest is None else find_messages(manifest)
        except BadInput:
            found = []
        first = max(len(found) - MOST_MESSAGES, 0)
        self._found: dict[int, Found] = dict(enumerate(found[first:], first))
        self._digests = {position: _digest(each.node) for position, each in self._found.items()}
        if title is not None:
            self._digests[TITLE] = _digest(title)

    def positions(self) -> list[int]:
        return sorted(self._digests)

    def digest(self, position: int) -> bytes | None:
        return self._digests.get(position)

    def entry(self, position: int) -> Entry:
        digest = self._digests[position]
        if position == TITLE:
            return Entry(TITLE, "title", digest, self._title or "")
        node = self._found[position].node
        return Entry(position, role_of(node), digest, words_of(node, self._read, MOST_CHARS))


def _digest(node: object) -> bytes:
    return blake3(orjson.dumps(node)).digest(length=16)
