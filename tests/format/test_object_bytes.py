"""Golden bytes of what lies in a bucket: what one version wrote, every later one reads."""

from __future__ import annotations

import io

import orjson
from torpor.codec.keys import new_ring, read_recovery, recovery_text
from torpor.codec.objects import Decoder, encode, open_document, seal_document
from torpor.codec.passphrase import Work, unwrap, wrap

PLAIN = "746f72706f725301"  # "torporS", version 1
KEY_ID = "c4b7baf2993f41ef"
COUNTED = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
SEALED = (
    PLAIN + KEY_ID + COUNTED + "0c84ccf51cd260d8d4377678df17b0eb"
    "32000080762e634286c45c4fe277d60d543e24b7051afdd3c603eb20c677b434f923ee872bd11c0bff164055f74ce1b3e9ca7c860bea"
)
COLD = "746f72706f724301" + "010006000000" + b"torpor".hex() + "000000000000" + "0600000000000000"
PLANES = (
    "746f72706f724301" + "020264000000" + "11000000"
    "00254a6f94b9de03284d7297bce1062b50759abfe4092e53789dc2e70c31567ba0c5ea0f34597ea3c8ed12375c81a6cbf015"
    "28b52ffd2032450000103f3f010045000b" + "000000000000" + "6400000000000000"
)
EXCHANGED = (
    "746f72706f724302" + "820264000000" + "1b000000"
    "00a54aef14b95e8328cd72973ce106ab50f51abf64892ed3789d42e70cb156fb20c56a8f34d97ea348ed12b75c8126cb7095"
    "28b52ffd2032950000603f3f3f3fbfbfbfbfbfbfbf3f0100f51423" + "000000000000" + "6400000000000000"
)
DOCUMENT = (
    "746f72706f7243010100220000006e46dd10defc9b56c29a6ec56b508c21f54c08192194e4df25bf36f0c9c3c279" + b"{}".hex()
) + ("000000000000" + "2200000000000000")
KEYS = (
    '{"format":"torpor-key/v1","id":"0001020304050607","created_at":1800000000,"keys":["c4b7baf2993f41ef"],'
    '"current":"c4b7baf2993f41ef","kdf":{"name":"scrypt","n":2,"r":1,"p":1,"salt":"'
    + COUNTED
    + '"},"nonce":"000102030405060708090a0b","check":"1150d01a8668be5bd22facc8c17fda8b","wrapped":"'
    "d0jlPbA1k0If+Y43dnBjgbSOktgxu7Ow0wpeFmp+qB32KptQazi9wvzl+ZPsgTG9pIuTHPI7+YOx9fjq/BJskx65DqlcsAn75HqHDtWn0D3S7YZ6"
    "sz5Xj4NE2it1xtIsWz/QFVh/CzIldKDlHRYyQLcHCB/2OzhEjYAPu3kn0Oj1bGEC/BaIjkB5GQOEigsBYeqmKOnXl28DGQ1GXHDTfXpu70bYUC05"
    'zRxJBOg6lBSG","checksum":"50c59a9964d7d74d938593d327e25c28b80674e3d77ee84d7cb51ed7a0e7f28c"}'
)
PAPER = "torpor recovery key v1\nABVU TUQA AAAQ EAYE AUDA OCAJ BIFQ YDIO B4IB CEQT CQKR MFYY DENB WHA5 DYP7 GHRO\n"
NAME = "a6cd207c114bc03459153b225891daa6c80412b92639551d0d960a785537167b"


def counted(size: int) -> bytes:
    """Stand in for randomness."""
    return bytes(range(size))


RING = new_ring(1_800_000_000, counted)


def read(stored: str, associated: bytes, *, sealed: bool) -> bytes:
    decoder = Decoder(associated, RING if sealed else None)
    found = b"".join(decoder.feed(bytes.fromhex(stored)))
    decoder.finish()
    return found


def test_objects_are_read() -> None:
    assert read(SEALED, b"\x01" * 32, sealed=True) == b"torpor"
    assert read(COLD, b"", sealed=False) == b"torpor"
    assert read(PLANES, b"", sealed=False) == bytes(x for i in range(50) for x in (i * 37 % 256, 0x3F))
    assert read(EXCHANGED, b"", sealed=False) == bytes(x for i in range(50) for x in (i * 37 % 256, 0x3F | i % 2 << 7))
    assert open_document(bytes.fromhex(DOCUMENT), b"any", None) == b"{}"


def test_objects_are_written_so() -> None:
    """What zstd packs may come out otherwise with another version of it; the rest may not."""
    for expected, ring, associated in ((SEALED, RING, b"\x01" * 32), (COLD, None, b"")):
        target = io.BytesIO()
        encode(io.BytesIO(b"torpor"), target, associated=associated, ring=ring, random=counted)
        assert target.getvalue().hex() == expected
    assert seal_document(b"{}", b"any", None).hex() == DOCUMENT


def test_key_documents() -> None:
    assert unwrap(orjson.loads(KEYS), "correct horse") == RING
    made = wrap(RING, "correct horse", now=1_800_000_000, random=counted, work=Work(2, 1, 1))
    assert orjson.dumps(made).decode() == KEYS


def test_keys_and_names() -> None:
    assert RING.current.id == KEY_ID
    assert RING.blob_name("ab" * 32) == NAME
    assert recovery_text(RING) == PAPER
    assert read_recovery(PAPER) == RING
