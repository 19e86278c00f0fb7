"""What is done with the keys of the configured bucket, and where they are kept on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ..codec.keys import KeyRing, joined, read_recovery, recovery_text
from ..codec.passphrase import Work
from ..state.errors import KeyMissing
from ..state.remote import RepoInfo
from ..sync.bucket import Bucket
from ..sync.keys import described, init_keys, load_documents, rotate_keys
from ..sync.repository import create_info, read_info
from .keys import FILE_WARNING, KeyStore


class KeyDesk:
    """Makes, unlocks and rotates keys. One of these at a time; a passphrase is never kept."""

    def __init__(
        self,
        bucket: Callable[[], Bucket],
        store: KeyStore,
        *,
        hold: Callable[[], AbstractContextManager[object]],
        changed: Callable[[KeyRing], None],
        new_id: Callable[[], str],
        work: Work | None = None,
    ) -> None:
        """Take the parts.

        `bucket` raises SyncOff without one. While `hold` is open nothing is pushed; `changed` is called inside of it.
        """
        self._bucket, self._store, self._hold, self._changed = bucket, store, hold, changed
        self._new_id, self._work, self._lock = new_id, work, threading.Lock()

    def init(self, passphrase: str, recovery: str | None = None) -> dict[str, Any]:
        """Make the bucket's first key, or unlock what it has, and keep the ring here.

        Raises: as sync.keys.init_keys, and KeyStore.save.
        """
        recovered = None if recovery is None else read_recovery(recovery)
        bucket = self._bucket()
        with self._lock, self._hold():
            found = init_keys(bucket, passphrase, recovered=recovered, work=self._work)
            info = read_info(bucket) or create_info(bucket, RepoInfo(self._new_id(), bucket.now(), True))
            here = self._store.find(info.repo_id)[0]
            ring = found.ring if here is None else joined([found.ring, here])
            where = self._keep(info.repo_id, ring)
        return {"made": found.made, "was_plain": found.was_plain, **_summary(ring, where)}

    def rotate(self, passphrase: str, *, new_passphrase: bool) -> dict[str, Any]:
        """Make a new current key. Raises: KeyMissing when this machine has none, and as sync.keys.rotate_keys."""
        bucket = self._bucket()
        with self._lock, self._hold():
            repo_id, ring, _ = self._held(bucket)
            kept: list[str] = []
            made = rotate_keys(
                bucket,
                ring,
                passphrase,
                lambda new: kept.append(self._keep(repo_id, new)),
                new_passphrase=new_passphrase,
                work=self._work,
            )
        return _summary(made, kept[0])

    def describe(self) -> dict[str, Any]:
        """Say which keys there are and where they lie; nothing of it is secret."""
        bucket = self._bucket()
        documents = load_documents(bucket)
        info = read_info(bucket)
        ring, where = (None, None) if info is None else self._store.find(info.repo_id)
        return {
            "encrypted": bool(documents.sound or documents.unreadable or (info is not None and info.encrypted)),
            "repo_id": None if info is None else info.repo_id,
            "documents": described(documents),
            **_summary(ring, where),
        }

    def recovery(self) -> str:
        """Return the recovery text of the keys on this machine: whoever has it can read everything."""
        return recovery_text(self._held(self._bucket())[1])

    def _held(self, bucket: Bucket) -> tuple[str, KeyRing, str]:
        info = read_info(bucket)
        ring, where = (None, None) if info is None else self._store.find(info.repo_id)
        if info is None or ring is None or where is None:
            raise KeyMissing("this machine has no key of the bucket")
        return info.repo_id, ring, where

    def _keep(self, repo_id: str, ring: KeyRing) -> str:
        where = self._store.save(repo_id, ring)
        self._changed(ring)
        return where


def _summary(ring: KeyRing | None, where: str | None) -> dict[str, Any]:
    return {
        "keys": [] if ring is None else [{"id": m.id, "created_at": m.created_at} for m in ring.masters.values()],
        "current": None if ring is None else ring.current.id,
        "takes_plain": ring is not None and ring.takes_plain,
        "kept_in": where,
        "warning": FILE_WARNING if where == "file" else None,
    }
