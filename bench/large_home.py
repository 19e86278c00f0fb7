"""A home as it may look after years: real manifests and rows, and blobs as empty files of the right size.

Backups of many sessions take turns. Each adds a few blobs and names some of its session's before, as a chat does that
is saved after every message.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

from blake3 import blake3
from torpor.codec import manifest_file
from torpor.codec.glimpse import glimpse
from torpor.db.index import Index
from torpor.db.records import record_of
from torpor.state.backup import Backup
from torpor.state.fingerprint import Fingerprint
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, Manifest, manifest_blobs
from torpor.store.home import Home

NEW_BLOBS, NAMED_BLOBS = 10, 60  # of a backup
LAYOUT = KVLayout("uint8", 1, (KVLayer(1, 1, 1),))
SIZE_BYTES = LAYOUT.block_tokens * LAYOUT.token_bytes()
_TURN = 1000


def digest_of(number: int) -> str:
    """Return the digest of a blob."""
    return blake3(b"blob %d" % number).hexdigest()


def build(root: Path, backups: int, sessions: int, *, orphans: int = 0, files: bool = True, said: int = 0) -> None:
    """Make a home of `backups * NEW_BLOBS` blobs; `orphans` more are of no backup, and two days old.

    Each backup adds a turn of two messages to its conversation, which holds the last `said` of them.
    """
    home = Home(root)
    home.create()
    index = Index(home.index)
    index.close()
    connection = sqlite3.connect(home.index, isolation_level=None)
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "foreign_keys = OFF"):
        connection.execute(f"PRAGMA {setting}")
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    made = [(name, sql) for name, sql in indexes if sql is not None]
    for name, _ in made:
        connection.execute(f"DROP INDEX {name}")
    connection.execute("BEGIN")
    started = time.time() - backups * 60.0
    _sessions(connection, sessions, started)
    for manifest in _manifests(backups, sessions, started, said):
        raw = manifest_file.dump(manifest)
        if files:
            (home.store / "manifests" / f"{manifest.id}.qwnbak").write_bytes(manifest_file.pack(raw))
        _insert(connection, manifest, raw)
    connection.execute("COMMIT")
    for _, sql in made:
        connection.execute(sql)
    newest = "SELECT max(created_at) FROM backups WHERE session_id = sessions.id"
    connection.execute(f"UPDATE sessions SET updated_at = ({newest})")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    if files:
        _blobs(home, range(backups * NEW_BLOBS), None)
        _blobs(home, range(1 << 40, (1 << 40) + orphans), time.time() - 2 * 86_400.0)


def _sessions(connection: sqlite3.Connection, count: int, started: float) -> None:
    rows = ((f"session-{number}", started, started) for number in range(count))
    connection.executemany("INSERT INTO sessions (id, created_at, updated_at) VALUES (?, ?, ?)", rows)


def _manifests(backups: int, sessions: int, started: float, said: int) -> Iterator[Manifest]:
    """Yield backups, oldest first; the sessions take turns."""
    for number in range(backups):
        session, turn = number % sessions, number // sessions
        last = (turn + 1) * NEW_BLOBS
        blobs = [_number(session, each, sessions) for each in range(max(0, last - NAMED_BLOBS), last)]
        refs = tuple(BlobRef(digest_of(each), SIZE_BYTES) for each in blobs)
        tokens = len(refs) * LAYOUT.block_tokens
        yield Manifest(
            id=f"01M8{number:022d}",
            session_id=f"session-{session}",
            created_at=started + number * 60.0,
            adapter="large-home",
            layers={
                "metadata": {"model_name": "Qwen3-VL-4B"},
                "text_context": {"messages": _talk(session, turn, said)},
                "tokens": {},
            },
            tokens=tokens + 1,
            parent_id=None if turn == 0 else f"01M8{number - sessions:022d}",
            fingerprint=Fingerprint(*[f"part {each}" for each in range(12)]),
            kv_cache=KVCache(LAYOUT, tokens, "DynamicCache", refs),
            bytes_written=NEW_BLOBS * SIZE_BYTES,
        )


def _talk(session: int, turn: int, said: int) -> list[dict[str, str]]:
    """Return what was said in a session up to a turn, at most so many messages."""
    first = max(2 * (turn + 1) - said, 0) if said else 2 * (turn + 1)
    return [
        {"role": "assistant" if number % 2 else "user", "content": _words(Random(session << 20 | number))}
        for number in range(first, 2 * (turn + 1))
    ]


def _words(random: Random) -> str:
    """Return some words: few of them often, many of them seldom, as people speak; and some Chinese."""
    words = (f"w{int(random.paretovariate(0.6)) % 50_000}" for _ in range(random.randint(5, 60)))
    return " ".join(words) + "".join(chr(random.randint(0x4E00, 0x56FF)) for _ in range(random.randint(0, 20)))


def _number(session: int, each: int, sessions: int) -> int:
    """Return the number of a blob of a session, so that all are used from 0 on."""
    turn, within = divmod(each, NEW_BLOBS)
    return (turn * sessions + session) * NEW_BLOBS + within


def _insert(connection: sqlite3.Connection, manifest: Manifest, raw: bytes) -> None:
    record = record_of(
        manifest,
        manifest_digest=manifest_file.digest_of(raw),
        manifest_bytes=len(raw),
        pinned=False,
        expires_at=manifest.created_at + 365 * 86_400.0,
    )
    row = _row(record)
    shown = glimpse(manifest)
    preview = (manifest.id, shown.messages, shown.text, shown.media, "[]")
    names = ", ".join(row)
    connection.execute(f"INSERT INTO backups ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
    connection.execute("INSERT INTO previews VALUES (?,?,?,?,?)", preview)
    keys = [bytes.fromhex(digest) for digest in manifest_blobs(manifest)]
    at, new = manifest.created_at, keys[-NEW_BLOBS:]
    values = [(key, SIZE_BYTES, "kv_cache", at, 1) for key in new]
    connection.executemany(
        "INSERT INTO blobs (digest, size_bytes, layer, created_at, present) VALUES (?,?,?,?,?)", values
    )
    connection.executemany("INSERT INTO block_keys VALUES (?, ?)", [(blake3(key).digest(), key) for key in new])
    connection.executemany("INSERT INTO backup_blobs VALUES (?, ?)", [(manifest.id, key) for key in sorted(keys)])


def _row(record: Backup) -> dict[str, object]:
    row: dict[str, object] = asdict(record)
    for name in ("title", "absent_bytes", "damaged_bytes"):
        del row[name]
    return row | {"layers": " ".join(record.layers), "manifest_digest": bytes.fromhex(record.manifest_digest)}


def _blobs(home: Home, numbers: range, modified_at: float | None) -> None:
    """Make files that are as long as a blob and hold nothing, a folder at a time."""
    digests = sorted(digest_of(number) for number in numbers)
    for digest in digests:
        path = home.store / "blobs" / digest[:2] / digest
        fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        os.ftruncate(fd, SIZE_BYTES)
        os.close(fd)
        if modified_at is not None:
            os.utime(path, (modified_at, modified_at))
