"""Where everything lies: one home folder, and no file outside it.

token            bearer token, 0600                     daemon.json   where the running daemon listens, 0600
daemon.lock      held by the running daemon             torpor.sock   its Unix socket, 0600
index.sqlite     the index (can be rebuilt)             logs/         rotating log
config.toml      settings, if the user wrote any        .env          where the bucket is, likewise
watch.json       the watched folders that were added, 0600
sync.json        pause, limits and policy of the second copy, 0600
clock.json       the last moment whose time was trusted, 0600
machine-id       what tells this home from others that use the same bucket
tokens.json      tokens with scopes, by their hashes alone, 0600
moved-to         in an old home, alone: where it is now
earlier-places   where it was before, in a home that was moved
moving-from      in a folder that a home is being copied to: not a home yet
bench/           what `torpor bench` measured, a file a run
repo.key         keys of encrypted buckets where no keyring has them, 0600
store/blobs/ab/<digest>           raw bytes, named by their BLAKE3 digest
store/manifests/<ulid>.qwnbak     LZ4 frame of canonical JSON; its presence is the commit
store/sessions/<digest>.json      pins, TTLs and titles of one session
store/outgoing/                   encrypted or compressed blobs on their way to the bucket, where they are large
store/staging/<writer>/           files not yet published; garbage as soon as the writer's lock is free
store/groups/<ulid>.pending       a group that is being committed; left after a crash, its members are removed
store/quarantine/<digest>         damaged blobs, put aside until they are healed or nobody needs them
index.sqlite.before-<schema>      the index as it was before an upgrade; it may be removed
index.damaged-<time>.sqlite       an index that was damaged, kept when it was made again; it may be removed
index.rebuilding                  that an index is being made again, and where the old one lies
<name>.damaged                    a small file that could not be read, moved aside (sidecars: <digest>.damaged)
store/trash/                      removed manifests, until the index has let go of them too
store/trash/blobs/ab/<digest>     blobs that no backup needs any more, until a second look an hour later
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import platformdirs

from ..state.errors import UnsafeHome
from .files import make_private_folder, refuse_foreign_folder, sync_folder, translated
from .moved import follow

_SETTINGS = ("config.toml", ".env")  # may be links to where somebody keeps settings; nothing is written through them


@dataclass(frozen=True, slots=True)
class Home:
    """The paths under one home folder."""

    root: Path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Home:
        """Return the home that `TORPOR_HOME` names, else the platform's data folder for torpor."""
        named = environment.get("TORPOR_HOME")
        folder = Path(named).expanduser() if named else Path(platformdirs.user_data_dir("torpor", appauthor=False))
        return cls.at(folder)

    @classmethod
    def at(cls, folder: str | Path) -> Home:
        """Return the home of a folder, where it was moved to. Raises: UnsafeHome, StoreFailed."""
        return cls(follow(Path(os.path.abspath(folder))))

    @property
    def token(self) -> Path:
        """Return the path of the bearer token."""
        return self.root / "token"

    @property
    def daemon_json(self) -> Path:
        """Return the path of the file that says where the daemon listens."""
        return self.root / "daemon.json"

    @property
    def lock(self) -> Path:
        """Return the path of the instance lock."""
        return self.root / "daemon.lock"

    @property
    def socket(self) -> Path:
        """Return the path of the Unix socket."""
        return self.root / "torpor.sock"

    @property
    def index(self) -> Path:
        """Return the path of the SQLite index."""
        return self.root / "index.sqlite"

    @property
    def tokens_json(self) -> Path:
        """Return the path of the list of tokens with scopes."""
        return self.root / "tokens.json"

    @property
    def watch_json(self) -> Path:
        """Return the path of the list of watched folders."""
        return self.root / "watch.json"

    @property
    def repo_key(self) -> Path:
        """Return the path of the file with the keys of encrypted buckets."""
        return self.root / "repo.key"

    @property
    def sync_json(self) -> Path:
        """Return the path of what the user said of the second copy."""
        return self.root / "sync.json"

    @property
    def clock_json(self) -> Path:
        """Return the path of the last moment whose time was trusted."""
        return self.root / "clock.json"

    @property
    def machine_id(self) -> Path:
        """Return the path of this home's id among the machines of a bucket."""
        return self.root / "machine-id"

    @property
    def outgoing(self) -> Path:
        """Return the folder of what is on its way to the bucket."""
        return self.store / "outgoing"

    @property
    def trashed_blobs(self) -> Path:
        """Return the folder of blobs that wait to be removed."""
        return self.store / "trash" / "blobs"

    @property
    def logs(self) -> Path:
        """Return the folder of the logs."""
        return self.root / "logs"

    @property
    def bench(self) -> Path:
        """Return the folder of what was measured."""
        return self.root / "bench"

    @property
    def store(self) -> Path:
        """Return the folder of the store."""
        return self.root / "store"

    def create(self) -> None:
        """Make the folders that are missing, for the owner alone. Raises: UnsafeHome, StoreFailed, StoreFull."""
        refuse_foreign_folder(self.root)
        above = self._nearest()
        make_private_folder(self.root)
        self._close_files(self.root)
        make_private_folder(self.store)
        for name in ("blobs", "manifests", "sessions", "groups", "staging", "trash", "quarantine"):
            make_private_folder(self.store / name)
        make_private_folder(self.logs)
        self._close_files(self.logs)
        self._create_shards()
        for folder in above:
            with translated("sync", folder), suppress(PermissionError):  # it may be somebody else's, and closed
                sync_folder(folder)

    def _nearest(self) -> list[Path]:
        """Return the folders that hold the names on the way to this home which may be new: its parent, at least."""
        with translated("look into", self.root.parent):
            missing = list(takewhile(lambda folder: not folder.exists(), self.root.parents))
        return [*missing, (missing[-1] if missing else self.root).parent]

    def _close_files(self, folder: Path) -> None:
        """Close files of the home to others, whatever umask they were made under. Raises: UnsafeHome, StoreFailed."""
        with translated("look into", folder), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # of a daemon that runs: its files come and go
                    self._close(entry)

    @staticmethod
    def _close(entry: os.DirEntry[str]) -> None:
        status = entry.stat(follow_symlinks=False)
        if entry.name in _SETTINGS and (entry.is_symlink() or status.st_uid != os.geteuid()):
            return
        if entry.is_symlink() or status.st_uid != os.geteuid():
            raise UnsafeHome(f"{entry.path} is a symbolic link, or not yours")
        if entry.is_file(follow_symlinks=False) and status.st_mode & 0o077:
            os.chmod(entry.path, 0o600)

    def _create_shards(self) -> None:
        """Make all 256 shards at once and durably, so that no writer has to see to another's folder."""
        with translated("look into", self.store / "blobs"):
            shards = [self.store / "blobs" / f"{i:02x}" for i in range(256)]
            missing = [shard for shard in shards if shard.is_symlink() or not shard.is_dir()]  # a link is refused
        for shard in missing:
            make_private_folder(shard)
        with translated("sync", self.store):  # always: a process before may have been killed between the two
            for folder in (self.store / "blobs", self.store, self.root):
                sync_folder(folder)
