"""A ring of keys under a passphrase: the key document of a bucket.

```
{"format": "torpor-key/v1", "id", "created_at", "keys": [ids], "current": id,
 "kdf": {"name": "scrypt", "n", "r", "p", "salt"}, "nonce", "check", "wrapped", "checksum"}
```

scrypt makes 48 bytes of the passphrase: a key for AES-256-GCM, and 16 bytes that stand in `check`. `wrapped` is the
ring under that key, with everything but `wrapped` and `checksum` as associated data (JSON, keys sorted).
`checksum` is the BLAKE3 of all the rest: it tells a torn document from a wrong passphrase, and proves nothing else.
Binary fields are hexadecimal, `wrapped` is base64.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from blake3 import blake3

from ..state.errors import BadInput, NewerFormat, ObjectDamaged, WrongPassphrase
from .keys import MAX_MASTERS, KeyRing, Random, dump_ring, load_ring

FORMAT = "torpor-key/v1"
MIN_PASSPHRASE_CHARS, MAX_PASSPHRASE_CHARS = 8, 1024
MAX_DOCUMENT_BYTES = 128 << 10
# What a document may demand of the one who reads it: 256 MiB of memory, and a few seconds.
MAX_SCRYPT_BYTES, MAX_SCRYPT_R, MAX_SCRYPT_P = 256 << 20, 32, 4
_FIELDS = {"format", "id", "created_at", "keys", "current", "kdf", "nonce", "check", "wrapped", "checksum"}
_ID = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True, slots=True)
class Work:
    """What a guess at the passphrase costs: 128 * n * r bytes of memory, p times. Source: RFC 7914."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1


def check_passphrase(text: str) -> str:
    """Check a passphrase that is going to protect something. Raises: BadInput, without repeating it."""
    if not MIN_PASSPHRASE_CHARS <= len(text) <= MAX_PASSPHRASE_CHARS:
        raise BadInput(
            f"a passphrase has {MIN_PASSPHRASE_CHARS} to {MAX_PASSPHRASE_CHARS} characters",
            hint="Six words drawn by chance are better than one with digits in it.",
        )
    return text


def wrap(
    ring: KeyRing, passphrase: str, *, now: float, random: Random = os.urandom, work: Work | None = None
) -> dict[str, Any]:
    """Return the key document of a ring. Raises: BadInput."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    work, salt = work or Work(), random(32)
    key, check = _stretch(check_passphrase(passphrase), salt, work)
    document: dict[str, Any] = {
        "format": FORMAT,
        "id": random(8).hex(),
        "created_at": int(now),
        "keys": list(ring.ids),
        "current": ring.current.id,
        "kdf": {"name": "scrypt", "n": work.n, "r": work.r, "p": work.p, "salt": salt.hex()},
        "nonce": random(12).hex(),
        "check": check.hex(),
    }
    sealed = AESGCM(key).encrypt(bytes.fromhex(document["nonce"]), dump_ring(ring), _canonical(document))
    document["wrapped"] = base64.b64encode(sealed).decode()
    document["checksum"] = blake3(_canonical(document)).hexdigest()
    return document


def check_document(value: Any) -> dict[str, Any]:
    """Check a key document before anything is done with it. Raises: ObjectDamaged, NewerFormat."""
    if not isinstance(value, dict) or not isinstance(value.get("format"), str):
        raise _damaged("is not one of ours")
    if value["format"] != FORMAT and value["format"].startswith("torpor-key/"):
        raise NewerFormat(f"the bucket's key document has the format {value['format'][:40]!r}")
    if value.keys() != _FIELDS or value["format"] != FORMAT or not _is_sound(value):
        raise _damaged("was altered or cut short")
    return value


def _is_sound(value: Mapping[str, Any]) -> bool:
    texts = (value["id"], value["nonce"], value["check"], value["wrapped"], value["checksum"])
    if not all(isinstance(text, str) for text in texts) or type(value["created_at"]) is not int:
        return False
    try:
        expected = blake3(_canonical({k: v for k, v in value.items() if k != "checksum"})).hexdigest()
    except (TypeError, ValueError):  # what JSON cannot say
        return False
    keys = value["keys"]
    named = isinstance(keys, list) and 0 < len(keys) <= MAX_MASTERS
    return (
        value["checksum"] == expected
        and named
        and all(isinstance(key, str) and _ID.match(key) for key in (*keys, value["current"], value["id"]))
        and len(value["nonce"]) == 24
        and len(value["check"]) == 32
    )


def unwrap(document: Mapping[str, Any], passphrase: str) -> KeyRing:
    """Open a key document. Raises: WrongPassphrase, ObjectDamaged, NewerFormat."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    value = check_document(dict(document))
    try:
        salt, nonce = bytes.fromhex(value["kdf"]["salt"]), bytes.fromhex(value["nonce"])
        check, wrapped = bytes.fromhex(value["check"]), base64.b64decode(value["wrapped"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("was altered") from error
    if len(passphrase) > MAX_PASSPHRASE_CHARS:
        raise WrongPassphrase("the passphrase does not open this bucket's keys")
    key, found = _stretch(passphrase, salt, _work(value["kdf"]))
    if not hmac.compare_digest(found, check):
        raise WrongPassphrase("the passphrase does not open this bucket's keys")
    head = {k: v for k, v in value.items() if k not in ("wrapped", "checksum")}
    try:
        return load_ring(AESGCM(key).decrypt(nonce, wrapped, _canonical(head)))
    except (InvalidTag, ValueError) as error:
        raise _damaged("was altered; the passphrase is right") from error


def _work(kdf: Any) -> Work:
    """Read the cost, bounded: a hostile document must not take all memory, nor the whole day."""
    if not isinstance(kdf, dict) or kdf.get("name") != "scrypt":
        raise NewerFormat("the bucket's key document derives its key in a way that is not known here")
    n, r, p, salt = (kdf.get(name) for name in ("n", "r", "p", "salt"))
    if not (type(n) is type(r) is type(p) is int and n > 1 and n & (n - 1) == 0 and isinstance(salt, str)):
        raise _damaged("was altered")
    if not (0 < r <= MAX_SCRYPT_R and 0 < p <= MAX_SCRYPT_P and 128 * n * r <= MAX_SCRYPT_BYTES):
        raise _damaged(f"asks for more than {MAX_SCRYPT_BYTES >> 20} MiB of memory to try a passphrase")
    return Work(n, r, p)


def _stretch(passphrase: str, salt: bytes, work: Work) -> tuple[bytes, bytes]:
    """Return the key and the check value of a passphrase; the same text typed on another keyboard is the same."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    text = unicodedata.normalize("NFC", passphrase).encode(errors="surrogatepass")
    made = Scrypt(salt=salt, length=48, n=work.n, r=work.r, p=work.p).derive(text)
    return made[:32], made[32:]


def _canonical(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _damaged(what: str) -> ObjectDamaged:
    return ObjectDamaged(
        f"the bucket's key document {what}",
        hint="`torpor key rotate` on a machine that has the key writes a new one; a recovery text serves as well.",
    )
