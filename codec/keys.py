"""Keys of a bucket: random master keys in a ring, and the ring wrapped by a passphrase.

A master never encrypts anything itself: each object has a key of its own, derived from a master and the object's salt
(codec/seal.py). The newest master serves what is written; the others stay, to read what is there.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from blake3 import blake3

from ..state.errors import BadInput, KeyMissing, ObjectDamaged
from ..state.ids import parse_digest

SECRET_BYTES = 32
MAX_MASTERS = 256
RING_FORMAT = "torpor-ring/v1"
RECOVERY_TITLE = "torpor recovery key v1"
Random = Callable[[int], bytes]


def derive(secret: bytes, purpose: bytes, salt: bytes | None = None, size: int = 32) -> bytes:
    """Derive bytes for one purpose by HKDF-SHA256. Source: RFC 5869."""
    from cryptography.hazmat.primitives.hashes import SHA256  # 7 MiB of memory, for who encrypts
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=size, salt=salt, info=b"torpor/v1/" + purpose).derive(secret)


@dataclass(frozen=True, slots=True)
class Master:
    """A master key. `created_at` is in whole seconds since the epoch."""

    secret: bytes = field(repr=False)
    created_at: int

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES or not 0 <= self.created_at < 1 << 32:
            raise BadInput("that is not a master key")

    @property
    def id(self) -> str:
        """Return the key's id, 16 hex digits. It follows from the secret, and nothing follows from it."""
        return derive(self.secret, b"id", size=8).hex()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Master keys by id, in the order of their making; the last one is the current.

    `takes_plain`: the bucket had unencrypted backups before it had a key, so that objects without encryption are read.
    Without it one of them is a forgery.
    """

    masters: dict[str, Master] = field(repr=False)
    takes_plain: bool = False

    def __post_init__(self) -> None:
        if not 0 < len(self.masters) <= MAX_MASTERS:
            raise BadInput(f"a ring of {len(self.masters)} keys (1 to {MAX_MASTERS})")

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the ids of all keys, oldest first."""
        return tuple(self.masters)

    @property
    def current(self) -> Master:
        """Return the key for everything that is written."""
        return next(reversed(self.masters.values()))

    def master(self, key_id: str) -> Master:
        """Return a key. Raises: KeyMissing."""
        found = self.masters.get(key_id)
        if found is None:
            raise missing(key_id)
        return found

    def blob_name(self, digest: str) -> str:
        """Return the name of a blob in the bucket: 64 hex digits that say nothing of its content."""
        key = derive(self.current.secret, b"names")
        return blake3(bytes.fromhex(parse_digest(digest)), key=key).hexdigest()


def missing(key_id: str) -> KeyMissing:
    """Return the error for a key that this machine does not have."""
    return KeyMissing(f"this is encrypted with key {key_id}, which this machine does not have")


def blob_leaf(digest: str, ring: KeyRing | None) -> str:
    """Return the name of a blob in the bucket: its digest, or where there is a key its keyed hash."""
    return parse_digest(digest) if ring is None else ring.blob_name(digest)


def ring_of(masters: Iterable[Master], *, takes_plain: bool = False) -> KeyRing:
    """Return a ring; the master that was made last is the current one."""
    ordered = sorted(masters, key=lambda master: (master.created_at, master.id))
    return KeyRing({master.id: master for master in ordered}, takes_plain)


def new_ring(now: float, random: Random = os.urandom, *, takes_plain: bool = False) -> KeyRing:
    """Return a ring of one new master."""
    return ring_of([Master(random(SECRET_BYTES), int(now))], takes_plain=takes_plain)


def rotated(ring: KeyRing, now: float, random: Random = os.urandom) -> KeyRing:
    """Return a ring with a new current master, and all the others for reading."""
    made = Master(random(SECRET_BYTES), max(int(now), ring.current.created_at + 1))  # a clock may have been set back
    return ring_of([*ring.masters.values(), made], takes_plain=ring.takes_plain)


def joined(rings: Iterable[KeyRing]) -> KeyRing:
    """Return a ring with the keys of several."""
    found = list(rings)
    return ring_of((m for r in found for m in r.masters.values()), takes_plain=any(r.takes_plain for r in found))


def dump_ring(ring: KeyRing) -> bytes:
    """Return a ring as JSON, with its secrets."""
    masters = [{"secret": m.secret.hex(), "created_at": m.created_at} for m in ring.masters.values()]
    return orjson.dumps({"format": RING_FORMAT, "takes_plain": ring.takes_plain, "masters": masters})


def load_ring(raw: bytes) -> KeyRing:
    """Read a ring. Raises: ObjectDamaged."""
    try:
        value = orjson.loads(raw)
        return _ring(value)
    except (ValueError, KeyError, TypeError, BadInput) as error:
        raise ObjectDamaged("what should be a ring of keys is none", hint=_RING_HINT) from error


_RING_HINT = "Unlock the bucket anew with `torpor key init`."


def _ring(value: Any) -> KeyRing:
    if value["format"] != RING_FORMAT or type(value["takes_plain"]) is not bool:
        raise ValueError
    masters = [Master(bytes.fromhex(m["secret"]), m["created_at"] + 0) for m in value["masters"]]
    return ring_of(masters, takes_plain=value["takes_plain"])


def recovery_text(ring: KeyRing) -> str:
    """Write a ring down for paper: a line a master, groups of four letters and digits, each line checked."""
    return "\n".join([RECOVERY_TITLE, *(_recovery_line(m, ring.takes_plain) for m in ring.masters.values())]) + "\n"


def _recovery_line(master: Master, takes_plain: bool) -> str:
    body = bytes([takes_plain]) + master.created_at.to_bytes(4, "big") + master.secret
    text = base64.b32encode(body + blake3(body).digest(3)).decode()
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def read_recovery(text: str) -> KeyRing:
    """Read a recovery text; case and spaces do not count. Raises: BadInput, naming the line that is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or " ".join(lines[0].lower().split()) != RECOVERY_TITLE:
        raise BadInput("that is not a recovery text", hint=f"It begins with the line {RECOVERY_TITLE!r}.")
    if not 1 < len(lines) <= MAX_MASTERS + 1:
        raise BadInput("the recovery text has no keys, or too many", hint=_RECOVERY_HINT)
    found = [_read_line(line, number) for number, line in enumerate(lines[1:], 2)]
    return ring_of((master for _, master in found), takes_plain=any(plain for plain, _ in found))


_RECOVERY_HINT = "Each line below the first is 16 groups of four characters, A to Z and 2 to 7."


def _read_line(line: str, number: int) -> tuple[bool, Master]:
    try:
        raw = base64.b32decode("".join(line.split()).upper().encode())
    except (binascii.Error, ValueError) as error:
        raise BadInput(f"line {number} of the recovery text is mistyped", hint=_RECOVERY_HINT) from error
    body, check = raw[:-3], raw[-3:]
    if len(raw) != SECRET_BYTES + 8 or blake3(body).digest(3) != check:
        raise BadInput(f"line {number} of the recovery text is mistyped", hint=_RECOVERY_HINT)
    return bool(body[0]), Master(body[5:], int.from_bytes(body[1:5], "big"))
