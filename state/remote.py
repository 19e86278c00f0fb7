"""What lies in the bucket: names of objects, and the commit record of a backup. Pure.

```
repo.json                                          what this repository is; written once
keys/<key id>.json                                 master keys, wrapped by a passphrase
blobs/ab/<name>.<upload>                           a blob's cold form; `upload` is new for each upload
manifests/<machine>/<backup id>.<seq>-<mark>.json  a commit record, written last
gc/condemned/<name>.<upload>                       a blob that is going to be deleted
backups/<backup id>.qwnbak                         a plain copy, where `remote_format` asks for it
gc/removed/<backup id>                             a backup that its user took out, on whatever machine; it stays out
```

No name is ever used twice, so a request that arrives late can hurt nothing. A blob's name is its digest, or where there
is a key its keyed hash.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from .errors import BadInput
from .ids import is_backup_id, parse_backup_id, parse_digest
from .manifest import Manifest, layer_blobs
from .outbox import STAGES, Stage, stage_of

LAYOUT = "torpor-repo/v1"
REPO_NAME = "repo.json"
KEYS_PREFIX, BLOBS_PREFIX, RECORDS_PREFIX = "keys/", "blobs/", "manifests/"
MARKS_PREFIX, CONDEMNED_PREFIX, REMOVED_PREFIX = "gc/", "gc/condemned/", "gc/removed/"

PLAIN_PREFIX = "backups/"

_MACHINE = re.compile(r"[0-9a-f]{16}\Z")
_UPLOAD = re.compile(r"[0-9a-z]{26}\Z")
_BLOB = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62}\.[0-9a-z]{26})\Z")
_RECORD = re.compile(r"manifests/([0-9a-f]{16})/([0-7][0-9A-HJKMNP-TV-Z]{25})\.([0-9]{6})-([0-9a-f]{8})\.json\Z")


def blob_name(name: str, upload: str) -> str:
    """Return the object name of one upload of a blob: `name` is 64 hex digits, `upload` a lower-case ULID."""
    if not _UPLOAD.match(upload):
        raise BadInput(f"{upload[:40]!r} is not an upload")
    return f"{BLOBS_PREFIX}{name[:2]}/{parse_digest(name)}.{upload}"


def plain_copy_name(backup_id: str) -> str:
    """Return the object name of a backup's plain copy, for tools that read nothing else."""
    return f"{PLAIN_PREFIX}{parse_backup_id(backup_id)}.qwnbak"


def is_blob_name(text: str) -> bool:
    """Tell whether an object name is that of a blob."""
    return _BLOB.match(text) is not None


def condemned_name(blob: str) -> str:
    """Return the name of the record that condemns a blob's object. Raises: BadInput."""
    found = _BLOB.match(blob)
    if found is None:
        raise BadInput(f"{blob[:120]!r} is not the name of a blob")
    return CONDEMNED_PREFIX + found[2]


def condemned_blob(name: str) -> str | None:
    """Return the blob's object that a record condemns, or None for a foreign name."""
    leaf = name.removeprefix(CONDEMNED_PREFIX)
    blob = f"{BLOBS_PREFIX}{leaf[:2]}/{leaf}"
    return blob if name.startswith(CONDEMNED_PREFIX) and is_blob_name(blob) else None


def removed_name(backup_id: str) -> str:
    """Return the name of what says that a backup was taken out of the bucket. Raises: InvalidId."""
    return REMOVED_PREFIX + parse_backup_id(backup_id)


def removed_backup(name: str) -> str | None:
    """Return the backup that an object says was taken out, or None for a foreign name."""
    backup_id = name.removeprefix(REMOVED_PREFIX)
    return backup_id if name.startswith(REMOVED_PREFIX) and is_backup_id(backup_id) else None


@dataclass(frozen=True, slots=True)
class RecordName:
    """The parts of a commit record's name. `mark` (8 hex digits) is random, so two writers never meet."""

    machine: str
    backup_id: str
    seq: int
    mark: str

    def __str__(self) -> str:
        if not _MACHINE.match(self.machine):
            raise BadInput(f"{self.machine[:40]!r} is not a machine id")
        return f"{RECORDS_PREFIX}{self.machine}/{parse_backup_id(self.backup_id)}.{self.seq:06d}-{self.mark}.json"

    @classmethod
    def parse(cls, text: str) -> RecordName | None:
        """Read an object name; None for a foreign one."""
        found = _RECORD.match(text)
        return cls(found[1], found[2], int(found[3]), found[4]) if found else None


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """Where a blob lies in the bucket: its raw digest and size, the object's name, and the bytes it takes there."""

    digest: str
    size_bytes: int
    name: str
    stored_bytes: int


@dataclass(frozen=True, slots=True)
class RemoteRecord:
    """A commit record: a local manifest verbatim, and where its blobs lie.

    Several records of one backup, of one machine or more, are read together: what any of them names is there.
    `left_out` says why stages are missing that the backup has. Times are seconds since the epoch.
    """

    backup_id: str
    machine: str
    seq: int
    written_at: float
    manifest: bytes
    objects: Mapping[str, RemoteObject]
    stages: tuple[Stage, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    title: str | None = None
    pinned: bool = False
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """A multipart upload that was begun: its id, the size of a part, and the ETags of the parts that are done."""

    upload_id: str
    part_bytes: int
    etags: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """What `repo.json` says. `encrypted` never changes: who reads the bucket may rely on it."""

    repo_id: str
    created_at: float
    encrypted: bool


def blob_associated(digest: str) -> bytes:
    """Return what a blob's cold form is bound to: its 32-byte digest, so no object passes for another."""
    return bytes.fromhex(parse_digest(digest))


def stage_blobs(manifest: Manifest) -> dict[Stage, dict[str, int]]:
    """Return the blobs (digest -> raw size) of each stage that a backup has, in the order in which they go.

    A blob that two stages name is in both. The manifest itself goes with `text`, which every backup has.
    """
    found: dict[Stage, dict[str, int]] = {"text": {}}
    for name, tree in manifest.layers.items():
        blobs = found.setdefault(stage_of(name), {})
        blobs.update((ref.digest, ref.size_bytes) for ref in layer_blobs(tree))
    if manifest.kv_cache is not None:
        blobs = found.setdefault("kv", {})
        blobs.update((ref.digest, ref.size_bytes) for ref in manifest.kv_cache.blocks)
    return {stage: found[stage] for stage in STAGES if stage in found}


def whole_stages(blobs: Mapping[Stage, Mapping[str, int]], there: Collection[str]) -> tuple[Stage, ...]:
    """Return the stages all of whose blobs are there."""
    return tuple(stage for stage, needed in blobs.items() if all(digest in there for digest in needed))
