"""Small files of the bucket as bytes: repo.json, commit records, condemnations. Canonical JSON, sorted keys.

A record is sealed under its own name: compressed, and encrypted where there is a key. Another machine wrote it, or
whoever can write to the bucket, so everything is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from blake3 import blake3

from ..state.errors import BadInput, InvalidManifest, NewerFormat, ObjectDamaged, TooLarge, UnknownRepository
from ..state.ids import parse_title
from ..state.manifest import MAX_COUNT, Manifest, manifest_blobs
from ..state.outbox import STAGES
from ..state.remote import (
    BLOBS_PREFIX,
    LAYOUT,
    RecordName,
    RemoteObject,
    RemoteRecord,
    RepoInfo,
    is_blob_name,
    stage_blobs,
    whole_stages,
)
from . import manifest_file
from .keys import KeyRing
from .objects import open_document, seal_document

RECORD_FORMAT = "torpor-record/v1"
MAX_RECORD_BYTES = 64 << 20  # of JSON: 300,000 KV blocks, or a conversation of as many bytes
MAX_STORED_BYTES = MAX_RECORD_BYTES + (1 << 20)
MAX_SMALL_BYTES = 64 << 10
_MAX_REASON_CHARS = 500
_T = TypeVar("_T")


def dump_repo(info: RepoInfo) -> bytes:
    """Return repo.json."""
    value = {
        "layout": LAYOUT,
        "repo_id": info.repo_id,
        "created_at": info.created_at,
        "encrypted": info.encrypted,
    }
    return orjson.dumps(value | {"blake3": _digest(value)}, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


def _digest(value: Mapping[str, Any]) -> str:
    return blake3(orjson.dumps(dict(value), option=orjson.OPT_SORT_KEYS)).hexdigest()


def load_repo(raw: bytes) -> RepoInfo:
    """Read repo.json. Raises: UnknownRepository (nobody's, or a newer layout), ObjectDamaged."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise UnknownRepository("repo.json in the bucket is not JSON") from None
    layout = value.get("layout") if isinstance(value, dict) else None
    if layout != LAYOUT:
        raise UnknownRepository(f"the bucket's layout is {str(layout)[:60]!r}, expected {LAYOUT!r}")
    if _digest({key: item for key, item in value.items() if key != "blake3"}) != value.get("blake3"):
        raise ObjectDamaged("repo.json in the bucket does not match its digest")
    repo_id, created_at, encrypted = value.get("repo_id"), value.get("created_at"), value.get("encrypted")
    if not isinstance(repo_id, str) or not 0 < len(repo_id) <= 64 or type(encrypted) is not bool:
        raise UnknownRepository("repo.json in the bucket says neither its id nor whether it is encrypted")
    return RepoInfo(repo_id, float(created_at) if _is_number(created_at) else 0.0, encrypted)


def dump_condemned(blob: str, machine: str, at: float) -> bytes:
    """Return the content of a condemnation, for people: only its name and the server's time count."""
    return orjson.dumps({"object": blob, "machine": machine, "at": at}, option=orjson.OPT_SORT_KEYS)


def dump_record(record: RemoteRecord, name: str, ring: KeyRing | None) -> bytes:
    """Return the stored form of a commit record. Raises: TooLarge."""
    value = {
        "format": RECORD_FORMAT,
        "backup_id": record.backup_id,
        "machine": record.machine,
        "seq": record.seq,
        "written_at": record.written_at,
        "manifest": record.manifest.decode(),
        "objects": [_object_row(record.objects[digest]) for digest in sorted(record.objects)],
        "stages": list(record.stages),
        "left_out": dict(record.left_out),
        "title": record.title,
        "pinned": record.pinned,
        "expires_at": record.expires_at,
    }
    raw = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if len(raw) > MAX_RECORD_BYTES:
        hint = "It stays on this machine; `torpor export --bundle` writes it to a file."
        raise TooLarge(f"the record of backup {record.backup_id} has {len(raw)} bytes", hint=hint)
    return seal_document(raw, name.encode(), ring)


def _object_row(found: RemoteObject) -> list[Any]:
    return [found.digest, found.size_bytes, found.name.removeprefix(BLOBS_PREFIX), found.stored_bytes]


def load_record(stored: bytes, name: str, ring: KeyRing | None) -> RemoteRecord:
    """Read a commit record, every field checked. Raises: ObjectDamaged, KeyMissing, NewerFormat."""
    raw = open_document(stored, name.encode(), ring, most_bytes=MAX_RECORD_BYTES)
    try:
        return _record(orjson.loads(raw), name)
    except (KeyError, TypeError, ValueError) as error:
        raise ObjectDamaged(f"{name} is not a sound record: {type(error).__name__}") from error
    except NewerFormat:
        raise
    except BadInput as error:
        raise ObjectDamaged(f"{name} is not a sound record: {error.detail}") from error


def _record(value: Any, text: str) -> RemoteRecord:
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    _check_format(value.get("format"), text)
    name = RecordName.parse(text)
    if name is None or (value["backup_id"], value["machine"]) != (name.backup_id, name.machine):
        raise ValueError("it says another name than its own")
    raw = _of(str, value["manifest"]).encode()
    manifest = manifest_file.load(raw)
    if manifest.id != name.backup_id or _of(int, value["seq"]) != name.seq:
        raise ValueError("its manifest is another backup's")
    objects = _objects(_of(list, value["objects"]), manifest)
    return RemoteRecord(
        backup_id=manifest.id,
        machine=name.machine,
        seq=name.seq,
        written_at=_time(value["written_at"]),
        manifest=raw,
        objects=objects,
        stages=_stages(_of(list, value["stages"]), manifest, objects),
        left_out=_reasons(_of(dict, value["left_out"])),
        title=parse_title(None if value["title"] is None else _of(str, value["title"])),
        pinned=_of(bool, value["pinned"]),
        expires_at=None if value["expires_at"] is None else _time(value["expires_at"]),
    )


def _check_format(found: Any, name: str) -> None:
    if found == RECORD_FORMAT:
        return
    if isinstance(found, str) and found.startswith("torpor-record/"):
        raise NewerFormat(f"{name} is a {found[:40]!r}, written by a newer version")
    raise ValueError("it is of some other format")


def _objects(rows: list[Any], manifest: Manifest) -> dict[str, RemoteObject]:
    sizes, found = manifest_blobs(manifest), dict[str, RemoteObject]()
    for row in rows:
        digest, size, leaf, stored = _of(list, row)
        name = BLOBS_PREFIX + _of(str, leaf)
        if digest not in sizes or digest in found or sizes[digest][0] != _of(int, size) or not is_blob_name(name):
            raise InvalidManifest("an object that is none of the manifest's blobs")
        if not 0 <= _of(int, stored) <= MAX_COUNT:
            raise InvalidManifest("an object of an impossible size")
        found[digest] = RemoteObject(digest, size, name, stored)
    return found


def _stages(names: list[Any], manifest: Manifest, objects: Mapping[str, RemoteObject]) -> tuple[Any, ...]:
    whole = whole_stages(stage_blobs(manifest), objects)
    if len(set(names)) != len(names) or not set(names) <= set(whole):
        raise InvalidManifest("stages whose blobs it does not name")
    return tuple(stage for stage in STAGES if stage in names)


def _reasons(found: dict[str, Any]) -> dict[str, str]:
    for stage, reason in found.items():
        if stage not in STAGES or len(_of(str, reason)) > _MAX_REASON_CHARS or not reason.isprintable():
            raise ValueError("a reason for no stage")
    return found


def _of(kind: type[_T], value: Any) -> _T:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e11


def _time(value: Any) -> float:
    if not _is_number(value):
        raise ValueError("a time that is none")
    return float(value)
