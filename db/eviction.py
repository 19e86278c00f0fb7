"""Which blobs could leave, put in order by the backups that name them; and that they have left.

A blob goes with the last of the backups that name it (state/eviction.py). So the survey looks at each blob that is here
and at all who name it, once; its memory is that of one row a backup, in a scratch table on disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, text

from ..state.eviction import KINDS, NEWEST, ORDINARY, PINNED, Kind, Standing
from .retention import REBUILDABLE, has, lone, of_bucket, safe, scratch, unqueue

_COLUMNS = """id TEXT PRIMARY KEY, place INTEGER UNIQUE, tier INTEGER, used_at REAL,
    dropped INTEGER, safe INTEGER, vision INTEGER, kv INTEGER, lone INTEGER, busy INTEGER"""
# 0 to 2: the kinds, as KINDS has them; 9: it stays.
_KIND = f"""
    CASE WHEN max(p.busy) THEN 9
         WHEN b.layer = 'vision_cache' AND max(p.lone) THEN CASE WHEN min(p.vision OR NOT p.lone) THEN 1 ELSE 9 END
         WHEN b.layer IN {REBUILDABLE} THEN
              CASE WHEN min(p.dropped) THEN 0
                   WHEN max(CASE b.layer WHEN 'kv_cache' THEN p.kv ELSE p.vision END) THEN 1
                   ELSE 2 END
         WHEN min(p.safe) THEN 1
         ELSE 9 END"""
# A page saves its text behind each message: its session wakes from the newest KV cache, which is an earlier backup's.
_HAS_KV = "(' ' || k.layers || ' ' LIKE '% kv_cache %')"
_NAMED = "CROSS JOIN backup_blobs l ON l.digest = b.digest CROSS JOIN temp.standing p ON p.id = l.backup_id"


@dataclass(frozen=True, slots=True)
class Survey:
    """What was known when the plan was made: backups that entered the index behind `last_row` are new."""

    standings: list[Standing]
    last_row: int


@dataclass(frozen=True, slots=True)
class Gone:
    """A blob that is no longer kept here; its file may go."""

    digest: str
    size_bytes: int


def in_order(connection: Connection) -> AbstractContextManager[None]:
    """Hold the order of the backups with a connection, for `survey` and `victims`."""
    return scratch(connection, "standing", _COLUMNS)


def survey(connection: Connection, machine: str | None, busy: Collection[str]) -> Survey:
    """Put the backups in order, with the bytes that go with each. Blobs that a busy one names are left out.

    `machine` is this one's name in the bucket, None without one. Inside of `in_order`.
    """
    connection.execute(
        text(f"""
            INSERT INTO temp.standing
            SELECT id, row_number() OVER (ORDER BY tier, used_at, id), tier, used_at,
                   dropped, safe, vision, kv, lone, id IN :busy
            FROM (
                SELECT k.id, k.used_at, k.dropped_at IS NOT NULL AS dropped,
                       CASE WHEN k.pinned THEN {PINNED}
                            WHEN row_number() OVER (PARTITION BY k.session_id ORDER BY k.created_at DESC, k.id DESC) = 1
                              OR row_number() OVER (PARTITION BY k.session_id, {_HAS_KV}
                                                    ORDER BY k.created_at DESC, k.id DESC) = {_HAS_KV}
                            THEN {NEWEST} ELSE {ORDINARY} END AS tier,
                       {safe("k")} AS safe, {has("vision", "k.id")} AS vision, {has("kv", "k.id")} AS kv,
                       {lone("k")} AS lone
                FROM backups k
            )
        """).bindparams(bindparam("busy", expanding=True)),  # noqa: S608
        of_bucket(machine) | {"busy": list(busy)},
    )
    last_row = connection.scalar(text("SELECT coalesce(max(rowid), 0) FROM backups")) or 0
    return Survey(list(_standings(connection)), last_row)


def _standings(connection: Connection) -> Iterator[Standing]:
    sums = ", ".join(f"coalesce(sum(size_bytes) FILTER (WHERE kind = {n}), 0)" for n in range(len(KINDS)))
    rows = connection.execute(
        text(f"""
            SELECT p.id, p.tier, p.used_at, {sums}
            FROM (SELECT max(p.place) AS place, b.size_bytes, {_KIND} AS kind
                  FROM blobs b {_NAMED} WHERE b.present GROUP BY b.digest) g
            JOIN temp.standing p ON p.place = g.place
            WHERE kind < {len(KINDS)} GROUP BY g.place
        """)  # noqa: S608
    )
    for row in rows:
        yield Standing(*row)


def victims(connection: Connection, backup_id: str, kind: Kind) -> list[str]:
    """Return the blobs of a kind that go with a backup of the survey."""
    rows = connection.execute(
        text(f"""
            SELECT digest FROM (
                SELECT b.digest, max(p.place) AS place, {_KIND} AS kind
                FROM backup_blobs m CROSS JOIN blobs b ON b.digest = m.digest {_NAMED}
                WHERE m.backup_id = :id AND b.present GROUP BY b.digest
            ) WHERE kind = :kind AND place = (SELECT place FROM temp.standing WHERE id = :id)
        """),  # noqa: S608
        {"id": backup_id, "kind": KINDS.index(kind)},
    )
    return [digest.hex() for (digest,) in rows]


def leftovers(connection: Connection, backup_id: str) -> list[str]:
    """Return the blobs of a dropped backup that nobody keeps any more.

    Those that name a blob are asked from the newest on: if one keeps it, it is most likely that one.
    """
    keeper = f"""SELECT 1 FROM backup_blobs l JOIN backups k ON k.id = l.backup_id
                WHERE l.digest = b.digest AND (k.dropped_at IS NULL OR (b.layer = 'vision_cache' AND {lone("k")}))
                ORDER BY l.backup_id DESC LIMIT 1"""  # noqa: S608
    rows = connection.execute(
        text(f"""
            SELECT b.digest FROM backup_blobs m CROSS JOIN blobs b ON b.digest = m.digest
            WHERE m.backup_id = :id AND b.present AND b.layer IN {REBUILDABLE}
              AND ({keeper}) IS NULL
        """),  # noqa: S608
        {"id": backup_id},
    )
    return [digest.hex() for (digest,) in rows]


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms blobs leave: the kind and tier of the plan, what was known then, and who is busy now."""

    kind: Kind
    tier: int
    last_row: int
    machine: str | None
    busy: frozenset[str]


def still(connection: Connection, digests: Sequence[str], terms: Terms) -> list[Gone]:
    """Return those of some blobs for which it is still right to leave.

    What has happened since the survey counts: who names a blob now, what is pinned, what is being sent.
    """
    rows = connection.execute(
        text(_STILL[terms.kind]).bindparams(bindparam("digests", expanding=True), bindparam("busy", expanding=True)),
        of_bucket(terms.machine)
        | {"digests": _keys(digests), "busy": sorted(terms.busy), "last_row": terms.last_row}
        | {"pins_too": terms.tier >= PINNED},
    )
    return [Gone(digest.hex(), size) for digest, size in rows]


def let_go(connection: Connection, digests: Sequence[str], terms: Terms, now: float) -> list[Gone]:
    """Note that blobs are no longer here, those that are `still` to leave, and return them.

    Backups whose KV cache or embeddings only this machine had are noted as dropped; what of them waits to go up, no
    longer does.
    """
    gone = still(connection, digests, terms)
    if gone:
        keys = _keys([each.digest for each in gone])
        connection.execute(_of("UPDATE blobs SET present = 0 WHERE digest IN :digests"), {"digests": keys})
        if terms.kind != "fetchable":
            _drop_namers(connection, keys, now)
    return gone


def keepers(connection: Connection, digests: Sequence[str]) -> list[tuple[str, str]]:
    """Return the backups (id, session) that name some blobs and were not dropped."""
    named = _of(
        "SELECT DISTINCT k.id, k.session_id FROM backup_blobs l JOIN backups k ON k.id = l.backup_id"
        " WHERE l.digest IN :digests AND k.dropped_at IS NULL"
    )
    return [(row.id, row.session_id) for row in connection.execute(named, {"digests": _keys(digests)})]


def _keys(digests: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(digest) for digest in digests]


def _drop_namers(connection: Connection, keys: list[bytes], now: float) -> None:
    named = _of("SELECT DISTINCT backup_id FROM backup_blobs WHERE digest IN :digests")
    ids = list(connection.scalars(named, {"digests": keys}))
    for at in range(0, len(ids), 500):
        some = ids[at : at + 500]
        note = text("UPDATE backups SET dropped_at = :now WHERE id IN :ids AND dropped_at IS NULL")
        connection.execute(note.bindparams(bindparam("ids", expanding=True)), {"now": now, "ids": some})
        unqueue(connection, some)


def _of(statement: str) -> Any:
    return text(statement).bindparams(bindparam("digests", expanding=True))


_SENT = """EXISTS (SELECT 1 FROM outbox o WHERE o.backup_id = k.id AND o.kind = 'push' AND o.state = 'leased'
                   AND o.stage IN ('kv', 'vision'))"""
_FETCHABLE = f"""
    CASE b.layer WHEN 'kv_cache' THEN max({has("kv", "k.id")}) WHEN 'vision_cache' THEN
                 CASE WHEN max({lone("k")}) THEN min({has("vision", "k.id")} OR NOT {lone("k")})
                      ELSE max({has("vision", "k.id")}) END
                 ELSE min({safe("k")}) END"""


def _still(condition: str) -> str:
    return f"""
        SELECT b.digest, b.size_bytes
        FROM blobs b CROSS JOIN backup_blobs l ON l.digest = b.digest CROSS JOIN backups k ON k.id = l.backup_id
        WHERE b.digest IN :digests AND b.present GROUP BY b.digest
        HAVING NOT max(k.id IN :busy) AND {condition}"""  # noqa: S608


_MADE_AGAIN = f"b.layer IN {REBUILDABLE} AND NOT (b.layer = 'vision_cache' AND max({lone('k')}))"
_STILL: dict[Kind, str] = {
    "leftover": _still(f"{_MADE_AGAIN} AND min(k.dropped_at IS NOT NULL) AND NOT max({_SENT})"),
    "fetchable": _still(_FETCHABLE),
    "rebuildable": _still(
        f"{_MADE_AGAIN} AND NOT max({_SENT}) AND max(k.rowid) <= :last_row AND (:pins_too OR NOT max(k.pinned))"
    ),
}
