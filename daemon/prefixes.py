"""Find the backup that holds the longest prefix of a session's KV blocks (`POST /v1/prefix`)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from ..codec import manifest_file
from ..db import block_keys
from ..state.errors import BackupNotFound, ManifestDamaged
from ..state.ids import DIGEST_PATTERN
from .catalog import Catalog

MAX_KEYS = 65_536  # four million tokens
_HOLDERS = 4  # backups that are looked into for one key


class PrefixQuestion(BaseModel):
    """The logical keys of a session's blocks, from the first on."""

    model_config = ConfigDict(extra="forbid", strict=True)
    keys: list[Annotated[str, Field(pattern=DIGEST_PATTERN)]] = Field(max_length=MAX_KEYS)


@dataclass(frozen=True, slots=True)
class Prefix:
    """A backup whose first `blocks` blocks carry the keys that were asked for, and are there."""

    backup_id: str | None
    blocks: int


def longest_prefix(catalog: Catalog, keys: list[str]) -> Prefix:
    """Return the longest prefix in one backup: the index finds candidates, their manifests decide.

    Nearly always the first candidate is right. Where bytes are shared by backups that do not carry their keys, the
    search goes back by steps that double, so that no question costs more than a few looks.
    """
    best, seen, step = Prefix(None, 0), set[str](), 1
    with catalog.index.reading() as connection:
        depth = block_keys.deepest(connection, keys)
    while depth > best.blocks:
        with catalog.index.reading() as connection:
            candidates = block_keys.holders(connection, keys[depth - 1], _HOLDERS)
        for backup_id in candidates:
            if backup_id not in seen and best.blocks < depth:
                seen.add(backup_id)
                best = max(best, _held(catalog, backup_id, keys), key=lambda prefix: prefix.blocks)
        depth, step = depth - step, 2 * step
    return best


def _held(catalog: Catalog, backup_id: str, keys: list[str]) -> Prefix:
    try:
        kv = manifest_file.load(catalog.manifest_json(backup_id)).kv_cache
    except (BackupNotFound, ManifestDamaged):  # removed a moment ago, or nothing that could be restored
        return Prefix(None, 0)
    if kv is None:
        return Prefix(None, 0)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(kv.keys, keys, strict=False)))
    gone = set(catalog.blobs.missing(kv.blocks[:same]))
    there = sum(1 for _ in takewhile(lambda ref: ref.digest not in gone, kv.blocks[:same]))
    return Prefix(backup_id if there else None, there)


def add_prefixes(app: FastAPI, catalog: Catalog) -> None:
    """Add the route."""

    @app.post("/v1/prefix")
    def prefix(question: PrefixQuestion) -> Response:
        """Return the backup that holds the longest prefix of a chain of block keys."""
        found = longest_prefix(catalog, question.keys)
        return Response(
            orjson.dumps({"backup_id": found.backup_id, "blocks": found.blocks}), media_type="application/json"
        )
