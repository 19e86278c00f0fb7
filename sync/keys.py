"""Keys in the bucket: documents under `keys/`, each a ring wrapped by a passphrase. Usually there is one.

Every change writes a new document and reads it back before anything older is deleted, so a key that something
is encrypted with never exists on one machine alone. Nobody locks: of two machines that make the first key at once, each
looks again after its write, and who finds another's key that its own passphrase does not open takes its own back.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from ..codec import seal
from ..codec.keys import KeyRing, Random, joined, new_ring, rotated
from ..codec.passphrase import MAX_DOCUMENT_BYTES, Work, check_document, check_passphrase, unwrap, wrap
from ..state.errors import (
    BadInput,
    Conflict,
    KeyMissing,
    NewerFormat,
    ObjectDamaged,
    ObjectNotFound,
    TorporError,
    WrongPassphrase,
)
from ..state.remote import BLOBS_PREFIX, KEYS_PREFIX, RECORDS_PREFIX
from .bucket import Bucket
from .repository import put_once, read_info, read_small

MAX_DOCUMENTS = 64  # rotation leaves one; more are somebody's attempt to keep us busy

_LOST_HINT = "Give the recovery text (`torpor key init --recovery-file`), or run `torpor key rotate` where the key is."


@dataclass(frozen=True, slots=True)
class Documents:
    """The key documents of a bucket by name, and those that cannot be read, with the reason."""

    sound: dict[str, dict[str, Any]] = field(default_factory=dict)
    unreadable: dict[str, TorporError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A ring that a passphrase opened. `made`: it was made just now. `was_plain`: there are unencrypted backups."""

    ring: KeyRing
    made: bool
    was_plain: bool


def load_documents(bucket: Bucket) -> Documents:
    """Read all key documents. Raises: ObjectDamaged when there are absurdly many, and the bucket's errors."""
    found = Documents()
    names = sorted(info.name for info in islice(bucket.list(KEYS_PREFIX), MAX_DOCUMENTS + 1))
    if len(names) > MAX_DOCUMENTS:
        raise ObjectDamaged(f"the bucket has more than {MAX_DOCUMENTS} key documents", hint="Somebody put them there.")
    for name in names:
        try:
            found.sound[name] = _read(bucket, name)
        except ObjectNotFound:
            continue  # another machine has just replaced it
        except (ObjectDamaged, NewerFormat) as error:
            found.unreadable[name] = error
    return found


def _read(bucket: Bucket, name: str) -> dict[str, Any]:
    raw = read_small(bucket, name, MAX_DOCUMENT_BYTES)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        value = None
    document = check_document(value)
    if name != _name(document):
        raise ObjectDamaged(f"{name} holds another key document")
    return document


def _name(document: dict[str, Any]) -> str:
    return f"{KEYS_PREFIX}{document['id']}.json"


def unlock(bucket: Bucket, passphrase: str) -> KeyRing:
    """Return all keys of the bucket that a passphrase opens.

    Raises: KeyMissing when the bucket has none, WrongPassphrase, ObjectDamaged, NewerFormat, the bucket's errors.
    """
    documents = load_documents(bucket)
    if not documents.sound and not documents.unreadable:
        raise KeyMissing("the bucket has no key document", hint="`torpor key init` makes one.")
    return joined(_open_all(documents, passphrase))


def _open_all(documents: Documents, passphrase: str) -> list[KeyRing]:
    """Open what the passphrase opens, at least one. Raises: WrongPassphrase, ObjectDamaged, NewerFormat."""
    opened, errors = [], list(documents.unreadable.values())
    for document in documents.sound.values():
        try:
            opened.append(unwrap(document, passphrase))
        except (WrongPassphrase, ObjectDamaged, NewerFormat) as error:
            errors.append(error)
    if not opened:  # a wrong passphrase first: that is what can be mended by typing
        raise min(errors, key=lambda error: not isinstance(error, WrongPassphrase))
    return opened


def init_keys(
    bucket: Bucket,
    passphrase: str,
    *,
    recovered: KeyRing | None = None,
    random: Random = os.urandom,
    work: Work | None = None,
) -> Unlocked:
    """Unlock the bucket's keys with a passphrase, or give a bucket without any its first one.

    With `recovered` (from paper), those keys go under the passphrase; documents that hold nothing else are replaced.

    Raises: WrongPassphrase, BadInput (a passphrase that is too short), ObjectDamaged, NewerFormat; KeyMissing when the
    bucket is encrypted and its key documents are gone; Conflict when another machine was first; the bucket's errors.
    """
    documents = load_documents(bucket)
    if recovered is not None:
        _check_recovered(bucket, documents, recovered)
        document = _write(bucket, recovered, passphrase, random, work)
        _delete_replaced(bucket, documents, recovered, document)
        return Unlocked(recovered, False, recovered.takes_plain)
    if documents.sound or documents.unreadable:
        ring = joined(_open_all(documents, passphrase))
        return Unlocked(ring, False, ring.takes_plain)
    check_passphrase(passphrase)
    ring = new_ring(bucket.now(), random, takes_plain=_holds_plain(bucket))
    document = _write(bucket, ring, passphrase, random, work)
    return Unlocked(_settled(bucket, ring, passphrase, document), True, ring.takes_plain)


def _holds_plain(bucket: Bucket) -> bool:
    """Tell whether there are unencrypted backups. Raises: KeyMissing when there are encrypted ones."""
    info = read_info(bucket)
    newest = _newest_record(bucket)
    if (info is not None and info.encrypted) or (newest is not None and _key_of(bucket, newest) is not None):
        raise KeyMissing("what is in the bucket is encrypted, and its key documents are gone", hint=_LOST_HINT)
    return newest is not None or any(True for _ in bucket.list(BLOBS_PREFIX))


def _newest_record(bucket: Bucket) -> str | None:
    newest = max(bucket.list(RECORDS_PREFIX), key=lambda found: found.modified_at, default=None)
    return None if newest is None else newest.name


def _key_of(bucket: Bucket, name: str) -> str | None:
    """Return the id of the key that an object is sealed with, None when it is not."""
    head = b""
    with bucket.get(name) as pieces:
        for piece in pieces:
            head += piece
            if len(head) >= seal.HEAD_BYTES:
                break
    return seal.key_id(head)


def _check_recovered(bucket: Bucket, documents: Documents, ring: KeyRing) -> None:
    """Refuse the keys of another bucket. Raises: BadInput."""
    expected = {key for value in documents.sound.values() for key in value["keys"]}
    if (newest := _newest_record(bucket)) is not None and (key := _key_of(bucket, newest)) is not None:
        expected.add(key)
    if expected and not expected & set(ring.ids):
        raise BadInput("the recovery text is that of another bucket", hint="Nothing was changed.")


def _write(bucket: Bucket, ring: KeyRing, passphrase: str, random: Random, work: Work | None) -> str:
    """Write a key document and read it back; return its name. Only then may the ring be used."""
    document = wrap(ring, passphrase, now=bucket.now(), random=random, work=work)
    name = _name(document)
    put_once(bucket, name, orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
    if _read(bucket, name) != document:
        raise ObjectDamaged("the storage gave back another key document than it took", hint="Nothing uses the key yet.")
    return name


def _settled(bucket: Bucket, ring: KeyRing, passphrase: str, name: str) -> KeyRing:
    """Look whether another machine made a key at the same moment. Raises: Conflict, with ours taken back."""
    others = load_documents(bucket)
    if name not in others.sound:
        raise Conflict("another machine has just taken this key back", hint="Run `torpor key init` again.")
    try:
        opened = [unwrap(value, passphrase) for other, value in others.sound.items() if other != name]
        if others.unreadable:
            raise next(iter(others.unreadable.values()))
    except (WrongPassphrase, ObjectDamaged, NewerFormat) as error:
        bucket.delete(name)
        raise Conflict(
            "another machine has just made a key under another passphrase",
            hint="Run `torpor key init` again with that machine's passphrase.",
        ) from error
    return joined([ring, *opened])


def rotate_keys(
    bucket: Bucket,
    ring: KeyRing,
    passphrase: str,
    keep: Callable[[KeyRing], object],
    *,
    new_passphrase: bool = False,
    random: Random = os.urandom,
    work: Work | None = None,
) -> KeyRing:
    """Make a new current key under the passphrase; `keep` stores the ring on this machine.

    The passphrase must open what the bucket has, so that a slip of the finger locks nobody out; with `new_passphrase`
    it is a new one. The old documents go last.

    Raises: WrongPassphrase, BadInput, ObjectDamaged, NewerFormat, the bucket's errors, and what `keep` raises.
    """
    documents = load_documents(bucket)
    rings = [ring] if new_passphrase else [ring, *_open_known(documents, passphrase)]
    made = rotated(joined(rings), bucket.now(), random)
    name = _write(bucket, made, passphrase, random, work)
    keep(made)
    _delete_replaced(bucket, documents, made, name)
    return made


def _open_known(documents: Documents, passphrase: str) -> list[KeyRing]:
    if not documents.sound and not documents.unreadable:
        raise KeyMissing(
            "the bucket's key documents are gone, so no passphrase can be checked",
            hint="`torpor key rotate --new-passphrase` writes a new one.",
        )
    return _open_all(documents, passphrase)


def _delete_replaced(bucket: Bucket, documents: Documents, ring: KeyRing, name: str) -> None:
    """Delete documents that hold no key beyond those of the one that was written; others stay."""
    known = set(ring.ids)
    for other, value in documents.sound.items():
        if other != name and set(value["keys"]) <= known:
            bucket.delete(other)


def described(documents: Documents) -> list[dict[str, Any]]:
    """Say of each document what is no secret: its name, keys, time, and the cost of a guess."""
    shown = [
        {
            "name": name,
            "keys": value["keys"],
            "current": value["current"],
            "created_at": value["created_at"],
            "kdf": {k: v for k, v in value["kdf"].items() if k != "salt"},
            "problem": None,
        }
        for name, value in documents.sound.items()
    ]
    return shown + [{"name": name, "problem": error.detail} for name, error in documents.unreadable.items()]
