"""Sealed bytes: AES-256-GCM in chunks, so that memory stays flat and nothing can be cut, added, moved or swapped.

```
object = header  chunk*                     the last chunk, and no other, is marked as final
header = "torporS" 0x01  key id 8  salt 32  check 16        check = first bytes of the BLAKE3 of what is before it
chunk  = length u32 (bit 31: final)  ciphertext  tag 16     length counts ciphertext and tag
```

Each object has a key of its own: HKDF-SHA256 of the master that the header names, with the header's salt. The nonce of
a chunk is its number (11 bytes, big endian) and 1 if it is final, else 0. Associated data of every chunk are the header
and what the caller says the object is, such as its digest: under another name it does not open.
Source: the STREAM construction, Hoang et al., "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator

from blake3 import blake3

from ..state.errors import ObjectDamaged
from .cold import check_magic
from .keys import KeyRing, Master, Random, derive, missing

MAGIC, VERSION = b"torporS", 1
KEY_ID_BYTES, SALT_BYTES, CHECK_BYTES, TAG_BYTES = 8, 32, 16, 16
HEAD_BYTES = len(MAGIC) + 1 + KEY_ID_BYTES + SALT_BYTES + CHECK_BYTES
CHUNK_BYTES = 1 << 20
_LENGTH = struct.Struct("<I")
_FINAL = 1 << 31


class _Chunks:
    """The cipher of one object, and which chunk comes next."""

    def __init__(self, master: Master, header: bytes, associated: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 7 MiB of memory, for who encrypts

        salt = header[len(MAGIC) + 1 + KEY_ID_BYTES : -CHECK_BYTES]
        self._cipher = AESGCM(derive(master.secret, b"object", salt))
        self._associated, self._number = header + associated, 0

    def seal(self, plain: bytes, *, final: bool) -> bytes:
        """Return the next chunk."""
        sealed = self._cipher.encrypt(self._nonce(final), plain, self._associated)
        return _LENGTH.pack(len(sealed) | _FINAL * final) + sealed

    def open(self, sealed: bytes, *, final: bool) -> bytes:
        """Return what the next chunk holds. Raises: ObjectDamaged."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(self._nonce(final), sealed, self._associated)
        except InvalidTag as error:
            raise ObjectDamaged("the encrypted object was altered, or is not the one that it should be") from error

    def _nonce(self, final: bool) -> bytes:
        nonce = self._number.to_bytes(11, "big") + bytes([final])
        self._number += 1
        return nonce


def key_id(head: bytes) -> str | None:
    """Return the id of the key that an object is sealed with, by its first bytes; None when it is not sealed."""
    found = head[len(MAGIC) + 1 :][:KEY_ID_BYTES]
    return found.hex() if head.startswith(MAGIC) and len(found) == KEY_ID_BYTES else None


def _header(master: Master, random: Random) -> bytes:
    body = MAGIC + bytes([VERSION]) + bytes.fromhex(master.id) + random(SALT_BYTES)
    return body + blake3(body).digest(CHECK_BYTES)


def seal(pieces: Iterable[bytes], associated: bytes, ring: KeyRing, random: Random = os.urandom) -> Iterator[bytes]:
    """Yield the sealed form of some bytes that come in pieces of any size."""
    header = _header(ring.current, random)
    chunks, waiting = _Chunks(ring.current, header, associated), bytearray()
    yield header
    for piece in pieces:
        waiting += piece
        while len(waiting) > CHUNK_BYTES:  # a full one waits: it may be the final one
            yield chunks.seal(bytes(memoryview(waiting)[:CHUNK_BYTES]), final=False)
            del waiting[:CHUNK_BYTES]
    yield chunks.seal(bytes(waiting), final=True)


class Opener:
    """Opens sealed bytes that arrive in pieces of any size. At most one chunk waits in memory."""

    def __init__(self, associated: bytes, ring: KeyRing | None) -> None:
        self._associated, self._ring = associated, ring
        self._buffer, self._ended = bytearray(), False
        self._chunks: _Chunks | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in; yield what can be opened by now. The rest waits when the iterator is left early.

        Raises: KeyMissing, ObjectDamaged, NewerFormat.
        """
        self._buffer += data
        return self._drain()

    def finish(self) -> None:
        """Check that the object was whole. Raises: ObjectDamaged."""
        if not self._ended:
            raise ObjectDamaged("the encrypted object was cut short")
        if self._buffer:
            raise ObjectDamaged("the encrypted object has bytes behind its end")

    def _drain(self) -> Iterator[bytes]:
        if self._chunks is None:
            if len(self._buffer) < HEAD_BYTES:
                return
            self._chunks = self._begin(bytes(self._buffer[:HEAD_BYTES]))
            del self._buffer[:HEAD_BYTES]
        while not self._ended and (plain := self._next(self._chunks)) is not None:
            yield plain
        if self._ended and self._buffer:
            raise ObjectDamaged("the encrypted object has bytes behind its end")

    def _begin(self, header: bytes) -> _Chunks:
        check_magic(header, MAGIC, VERSION)
        if blake3(header[:-CHECK_BYTES]).digest(CHECK_BYTES) != header[-CHECK_BYTES:]:
            raise ObjectDamaged("the header of the encrypted object was altered")
        wanted = header[len(MAGIC) + 1 :][:KEY_ID_BYTES].hex()
        if self._ring is None:
            raise missing(wanted)
        return _Chunks(self._ring.master(wanted), header, self._associated)

    def _next(self, chunks: _Chunks) -> bytes | None:
        """Open the next chunk as soon as it is there whole."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (word,) = _LENGTH.unpack_from(self._buffer)
        length, final = word & ~_FINAL, bool(word & _FINAL)
        if not TAG_BYTES <= length <= CHUNK_BYTES + TAG_BYTES or not (final or length == CHUNK_BYTES + TAG_BYTES):
            raise ObjectDamaged("the encrypted object has a chunk that nothing of ours wrote")
        if len(self._buffer) < _LENGTH.size + length:
            return None
        sealed = bytes(memoryview(self._buffer)[_LENGTH.size : _LENGTH.size + length])
        del self._buffer[: _LENGTH.size + length]
        plain = chunks.open(sealed, final=final)
        self._ended = final
        return plain
