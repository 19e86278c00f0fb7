"""Objects of a bucket: the cold form of a blob or of a small document, sealed where there is a key.

A document (a commit record) is the cold form of its BLAKE3 digest, 32 bytes, and its own bytes: it has no digest in its
name, so it carries one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import BinaryIO

from blake3 import blake3

from ..state.errors import ObjectDamaged
from . import cold, seal
from .keys import KeyRing, Random

MAX_DOCUMENT_BYTES = 512 << 20  # a manifest of the largest size, and what is said of each of its blobs
_DIGEST_BYTES = 32


def encode(
    source: BinaryIO,
    target: BinaryIO,
    *,
    associated: bytes,
    ring: KeyRing | None,
    compress: bool = True,
    random: Random = os.urandom,
) -> int:
    """Write the stored form of what `source` holds from its position on; return its size in bytes.

    Memory: a few chunks, whatever the size.
    """
    pieces = cold.pack(source, compress=compress)
    return sum(
        target.write(piece) for piece in (pieces if ring is None else seal.seal(pieces, associated, ring, random))
    )


class Decoder:
    """Reads an object that arrives in pieces of any size. `associated` is what it was encoded with.

    What an unencrypted object holds is not proven by anything here: the caller compares its digest. With a ring an
    unencrypted object is refused, unless the ring says that the bucket had some before it had a key.
    """

    def __init__(self, associated: bytes, ring: KeyRing | None) -> None:
        self._associated, self._ring = associated, ring
        self._head, self._begun = b"", False
        self._opener: seal.Opener | None = None
        self._unpacker = cold.Unpacker()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in; yield the raw bytes that can be read by now, at most cold.CHUNK_BYTES each.

        An iterator, because a few hostile bytes may inflate to gigabytes; what is not taken from it comes with the
        next one. Raises: ObjectDamaged, KeyMissing, NewerFormat.
        """
        if not self._begun:
            self._head += data
            if len(self._head) < cold.HEAD_BYTES:
                return iter(())
            data, self._head = self._begin(self._head), b""
        return self._unpacker.feed(data) if self._opener is None else self._unseal(self._opener.feed(data))

    def finish(self) -> None:
        """Check that the object was whole. Raises: ObjectDamaged."""
        if not self._begun:
            raise ObjectDamaged("the object was cut short" if self._head else "the object is empty")
        if self._opener is not None:
            self._opener.finish()
        self._unpacker.finish()

    def _begin(self, head: bytes) -> bytes:
        self._begun = True
        if head.startswith(seal.MAGIC):
            self._opener = seal.Opener(self._associated, self._ring)
        elif self._ring is not None and not self._ring.takes_plain and head.startswith(cold.MAGIC):
            raise ObjectDamaged("the object is not encrypted, and everything in this bucket is: somebody put it there")
        return head

    def _unseal(self, opened: Iterator[bytes]) -> Iterator[bytes]:
        yield from self._unpacker.feed(b"")
        for plain in opened:
            yield from self._unpacker.feed(plain)


def seal_document(raw: bytes, associated: bytes, ring: KeyRing | None, random: Random = os.urandom) -> bytes:
    """Return the stored form of a small document; `associated` is the name under which it is stored."""
    target = io.BytesIO()
    encode(io.BytesIO(blake3(raw).digest() + raw), target, associated=associated, ring=ring, random=random)
    return target.getvalue()


def open_document(
    stored: bytes, associated: bytes, ring: KeyRing | None, most_bytes: int = MAX_DOCUMENT_BYTES
) -> bytes:
    """Return a document, checked. Raises: ObjectDamaged, KeyMissing, NewerFormat."""
    decoder, found = Decoder(associated, ring), bytearray()
    for piece in decoder.feed(stored):
        found += piece
        if len(found) > most_bytes + _DIGEST_BYTES:
            raise ObjectDamaged(f"the document inflates to more than {most_bytes} bytes")
    decoder.finish()
    raw = bytes(memoryview(found)[_DIGEST_BYTES:])
    if len(found) < _DIGEST_BYTES or blake3(raw).digest() != found[:_DIGEST_BYTES]:
        raise ObjectDamaged("the document does not match its checksum")
    return raw
