"""Groups: backups that are committed as one, all or none, and how they are listed.

A group's mark (store/pending_groups.py) is durable before its first manifest, and removed after the transaction that
puts all members into the index. So a start-up that finds a mark finds either all members in the index, and they stay,
or none, and their manifests are removed.
"""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from ..codec import manifest_file
from ..db import groups
from ..state.backup import Group
from ..state.errors import BackupNotFound, BadInput, Conflict, GroupNotFound, ManifestDamaged
from ..state.ids import is_backup_id, parse_backup_id, parse_session_id
from ..state.manifest import MAX_GROUP, Manifest
from .answers import json_answer
from .catalog import Catalog
from .metrics import Metrics
from .metrics_api import counted
from .upload import receive_manifests


class Groups:
    """Commits and finds groups. Safe to call from several threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self._checkpoint, self._lock = catalog, catalog.checkpoint, threading.Lock()

    def commit(self, group_id: str, body: bytes) -> Group:
        """Commit the manifests of a group. Doing it again with the same content changes nothing.

        Durability: on return all of them survive power loss; whatever happens before, none does.
        Raises: BadInput, InvalidManifest, MissingBlobs, Conflict, StoreFull, StoreFailed.
        """
        manifests, pending = read_members(group_id, body), self._catalog.pending_groups
        with self._lock:
            there = self._count(manifests)
            if 0 < there < len(manifests):
                raise Conflict(f"group {group_id} was committed, and {len(manifests) - there} of it were removed since")
            if not there:
                pending.begin(group_id)
                self._checkpoint("group.noted")
            try:
                self._catalog.commit_all(manifests)
            except BaseException:
                if not there and not self._count(manifests):
                    pending.end(group_id)
                raise
            self._checkpoint("group.indexed")
            pending.end(group_id)
            self._checkpoint("group.settled")
        return self.find(group_id)

    def _count(self, manifests: list[Manifest]) -> int:
        return sum(self._catalog.manifests.has(manifest.id) for manifest in manifests)

    def find(self, ref: str) -> Group:
        """Return a group by its id, or the newest of a name. Raises: GroupNotFound, InvalidId, ManifestDamaged."""
        with self._catalog.index.reading() as connection:
            if is_backup_id(ref):
                try:
                    members = groups.members(connection, ref)
                except GroupNotFound:
                    members = groups.members(connection, groups.newest_id(connection, ref))
            else:
                members = groups.members(connection, groups.newest_id(connection, parse_session_id(ref)))
        group_id, name = members[0].group_id, members[0].group_name
        assert group_id is not None
        assert name is not None
        sizes = (self._size(member.id) for member in members)
        size = next((size for size in sizes if size is not None), None)
        if size is None:
            raise ManifestDamaged(f"no manifest of group {group_id} can be read")
        return Group(group_id, name, size, min(b.created_at for b in members), tuple(members))

    def list(self, limit: int) -> list[dict[str, Any]]:
        """Return groups, newest first, each with its size and how many of it are there."""
        with self._catalog.index.reading() as connection:
            rows = groups.list_groups(connection, limit)
            firsts = [groups.members(connection, row.id)[0].id for row in rows]
        return [asdict(row) | {"size": self._size(first)} for row, first in zip(rows, firsts, strict=True)]

    def _size(self, backup_id: str) -> int | None:
        """Return how many a group was, as one of its manifests says."""
        try:
            group = manifest_file.load(self._catalog.manifest_json(backup_id)).group
        except (BackupNotFound, ManifestDamaged):
            return None
        return None if group is None else group.size


def read_members(group_id: str, body: bytes) -> list[Manifest]:
    """Read the body of a commit: `{"manifests": [...]}`, every member of the same group. Raises: BadInput."""
    parse_backup_id(group_id)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the group is not JSON: {error}") from error
    given = value.get("manifests") if isinstance(value, dict) and set(value) == {"manifests"} else None
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_GROUP:
        raise BadInput(f'a group is {{"manifests": [...]}} with 1 to {MAX_GROUP} manifests')
    members = [manifest_file.from_value(each) for each in given]
    for what, found in (("backup", [m.id for m in members]), ("session", [m.session_id for m in members])):
        if len(set(found)) < len(found):
            raise BadInput(f"a {what} stands twice in the group")
    first = members[0].group
    if first is None or first.id != group_id or any(m.group != first for m in members):
        raise BadInput(f"not every manifest is of group {group_id}")
    if first.size != len(members):
        raise BadInput(f"a group of {first.size} came with {len(members)} manifests")
    return members


def add_groups(app: FastAPI, catalog: Catalog, metrics: Metrics) -> None:
    """Add the routes."""
    found = Groups(catalog)

    @app.get("/v1/groups")
    def list_groups(limit: int = Query(50, ge=1, le=1000)) -> Response:
        """List groups, newest first."""
        return json_answer({"groups": found.list(limit)})

    @app.get("/v1/groups/{ref}")
    def get_group(ref: str) -> Response:
        """Return one group with its backups, by its id or as the newest of a name."""
        return json_answer(asdict(found.find(ref)))

    @app.put("/v1/groups/{group_id}", status_code=201)
    async def put_group(group_id: str, request: Request) -> Response:
        """Commit all manifests of a group, or none; the same content a second time changes nothing."""
        body = await receive_manifests(request)
        with counted(metrics, request) as done:
            group = await run_in_threadpool(found.commit, group_id, body)
            done.append(group.size)
        return json_answer(asdict(group), 201)
