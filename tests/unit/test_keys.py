"""Rings of keys, passphrases and recovery texts."""

from __future__ import annotations

import base64
import copy
import logging
from typing import Any

import orjson
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from torpor.codec import keys, passphrase
from torpor.codec.keys import Master, blob_leaf, joined, new_ring, read_recovery, recovery_text, ring_of, rotated
from torpor.codec.passphrase import Work, unwrap, wrap
from torpor.state.errors import BadInput, KeyMissing, NewerFormat, ObjectDamaged, TorporError, WrongPassphrase

NOW = 1_800_000_000.0
FAST = Work(n=2, r=1, p=1)
WORDS = "correct horse battery staple"
RING = rotated(new_ring(NOW), NOW + 10)


def resealed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Alter a document as somebody who knows the format would: with a checksum that fits."""
    made = {**copy.deepcopy(document), **changes}
    made["checksum"] = blake3(
        orjson.dumps({k: v for k, v in made.items() if k != "checksum"}, option=orjson.OPT_SORT_KEYS)
    ).hexdigest()
    return made


def wrapped() -> dict[str, Any]:
    return wrap(RING, WORDS, now=NOW, work=FAST)


def test_a_ring_comes_back_under_its_passphrase() -> None:
    ring = ring_of(RING.masters.values(), takes_plain=True)
    for one in (RING, ring):
        assert unwrap(wrap(one, WORDS, now=NOW, work=FAST), WORDS) == one


def test_the_default_work_takes_128_mib() -> None:
    document = wrap(RING, WORDS, now=NOW)
    assert (document["kdf"]["n"], document["kdf"]["r"], document["kdf"]["p"]) == (1 << 17, 8, 1)
    assert unwrap(document, WORDS) == RING


def test_a_document_is_json_of_a_few_hundred_bytes_without_secrets() -> None:
    raw = orjson.dumps(wrapped())
    assert len(raw) < 2000
    for master in RING.masters.values():
        assert master.secret.hex().encode() not in raw
        assert base64.b64encode(master.secret)[:40] not in raw
        assert master.id.encode() in raw
    assert unwrap(orjson.loads(raw), WORDS) == RING


@pytest.mark.parametrize("wrong", ["correct horse battery stapl", "", "Correct horse battery staple", "x" * 5000])
def test_a_wrong_passphrase_is_told_apart(wrong: str) -> None:
    with pytest.raises(WrongPassphrase) as caught:
        unwrap(wrapped(), wrong)
    assert WORDS not in str(caught.value)


def test_accents_typed_in_two_ways_are_the_same() -> None:
    assert unwrap(wrap(RING, "caf\u00e9 caf\u00e9", now=NOW, work=FAST), "cafe\u0301 cafe\u0301") == RING


@pytest.mark.parametrize("bad", ["", "seven77", "x" * 1025])
def test_passphrases_that_protect_nothing_are_refused(bad: str) -> None:
    with pytest.raises(BadInput) as caught:
        wrap(RING, bad, now=NOW, work=FAST)
    assert not bad or bad not in str(caught.value)


def test_every_altered_byte_of_a_document_is_damage() -> None:
    raw = orjson.dumps(wrapped())
    for at in range(len(raw)):
        altered = bytearray(raw)
        altered[at] ^= 1
        try:
            value = orjson.loads(altered)
        except orjson.JSONDecodeError:
            continue
        with pytest.raises((ObjectDamaged, NewerFormat)):
            unwrap(value, WORDS)


@pytest.mark.parametrize(
    "value", [None, [], "text", 7, {}, {"format": "torpor-key/v1"}, {"format": 3}, {"format": "other"}]
)
def test_what_is_no_document_is_damage(value: Any) -> None:
    with pytest.raises(ObjectDamaged):
        passphrase.check_document(value)


def test_a_newer_format_is_named() -> None:
    with pytest.raises(NewerFormat, match="torpor-key/v9"):
        unwrap({**wrapped(), "format": "torpor-key/v9"}, WORDS)


def test_a_field_more_or_less_is_damage() -> None:
    for name in wrapped():
        if name != "format":
            with pytest.raises(ObjectDamaged):
                unwrap({k: v for k, v in wrapped().items() if k != name}, WORDS)
    with pytest.raises(ObjectDamaged):
        unwrap({**wrapped(), "more": 1}, WORDS)


@pytest.mark.parametrize(
    "kdf",
    [
        {"n": 1 << 30},
        {"n": 1 << 22, "r": 1, "p": 1, "more": "128 * n * r is more than 256 MiB"},
        {"r": 1 << 20},
        {"p": 1 << 20},
        {"n": 3},
        {"n": 0},
        {"n": -2},
        {"n": 2.0},
        {"n": "2"},
        {"n": True},
        {"n": None},
        {"salt": 5},
        {"salt": "xyz"},
    ],
)
def test_a_hostile_document_takes_no_memory(kdf: dict[str, Any]) -> None:
    document = wrapped()
    with pytest.raises(ObjectDamaged):
        unwrap(resealed(document, kdf={**document["kdf"], **kdf}), WORDS)


def test_another_way_to_derive_the_key_is_newer() -> None:
    document = wrapped()
    with pytest.raises(NewerFormat):
        unwrap(resealed(document, kdf={**document["kdf"], "name": "argon2id"}), WORDS)


def test_alterations_with_a_fitting_checksum_never_open() -> None:
    document, other = wrapped(), wrapped()
    sealed = bytearray(base64.b64decode(document["wrapped"]))
    sealed[5] ^= 1
    for changes in (
        {"wrapped": base64.b64encode(sealed).decode()},
        {"wrapped": other["wrapped"]},
        {"wrapped": "!"},
        {"nonce": other["nonce"]},
        {"created_at": 5},
        {"keys": document["keys"][:1]},
        {"current": document["keys"][0]},
    ):
        with pytest.raises(ObjectDamaged):
            unwrap(resealed(document, **changes), WORDS)
    for changes in ({"check": other["check"]}, {"kdf": {**document["kdf"], "n": 4}}):
        with pytest.raises(WrongPassphrase):
            unwrap(resealed(document, **changes), WORDS)


def test_the_newest_key_is_current_even_when_the_clock_was_set_back() -> None:
    ring = new_ring(NOW)
    newer = rotated(ring, NOW - 5000)
    assert newer.ids[0] == ring.current.id
    assert newer.current.id not in ring.ids
    with pytest.raises(KeyMissing, match=newer.current.id):
        ring.master(newer.current.id)


def test_rings_are_joined() -> None:
    a, b = new_ring(NOW), new_ring(NOW + 1, takes_plain=True)
    both = joined([b, a, a])
    assert both.ids == (a.current.id, b.current.id)
    assert both.current == b.current
    assert both.takes_plain


def test_names_of_blobs_say_nothing() -> None:
    digest = blake3(b"content").hexdigest()
    assert blob_leaf(digest, None) == digest
    name = blob_leaf(digest, RING)
    assert name == RING.blob_name(digest) != digest
    assert len(name) == 64
    assert name != new_ring(NOW).blob_name(digest)
    with pytest.raises(BadInput):
        blob_leaf("../../etc", RING)


def test_secrets_do_not_show() -> None:
    text = repr(RING) + repr(RING.current) + str(RING)
    logging.getLogger("test").info("%s", RING)
    for master in RING.masters.values():
        assert master.secret.hex() not in text
        assert repr(master.secret) not in text


@pytest.mark.parametrize("masters", [[], [Master(i.to_bytes(32, "big"), i) for i in range(257)]])
def test_rings_have_a_size(masters: list[Master]) -> None:
    with pytest.raises(BadInput):
        ring_of(masters)


@given(
    st.lists(st.builds(Master, st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1)), min_size=1, max_size=5),
    st.booleans(),
)
def test_rings_come_back_from_json_and_from_paper(masters: list[Master], plain: bool) -> None:
    ring = ring_of(masters, takes_plain=plain)
    assert keys.load_ring(keys.dump_ring(ring)) == ring
    text = recovery_text(ring)
    assert read_recovery(text) == ring
    assert (
        read_recovery(text.lower().replace(" ", "").replace("torporrecoverykeyv1", "Torpor  recovery key v1")) == ring
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format":"torpor-ring/v1","takes_plain":false,"masters":[]}',
        b'{"format":"torpor-ring/v1","takes_plain":1,"masters":[]}',
        b'{"format":"torpor-ring/v1","takes_plain":false,"masters":[{"secret":"00","created_at":1}]}',
        b'{"format":"torpor-ring/v1","takes_plain":false,"masters":[{"secret":"'
        + b"00" * 32
        + b'","created_at":"x"}]}',
        b'{"format":"torpor-ring/v9","takes_plain":false,"masters":[{"secret":"' + b"00" * 32 + b'","created_at":1}]}',
    ],
)
def test_what_is_no_ring_is_refused(raw: bytes) -> None:
    with pytest.raises(ObjectDamaged):
        keys.load_ring(raw)


def test_a_mistyped_recovery_text_names_its_line() -> None:
    lines = recovery_text(RING).splitlines()
    for at in (0, 40, 78):
        wrong = list(lines[2])
        wrong[at] = "A" if wrong[at] != "A" else "B"
        with pytest.raises(BadInput, match="line 3"):
            read_recovery("\n".join([*lines[:2], "".join(wrong)]))
    for text in (
        "",
        "hello",
        lines[0],
        "\n".join(lines[1:]),
        "\n".join([lines[0], lines[1][:-1]]),
        lines[0] + "\n\u00e9",
    ):
        with pytest.raises(TorporError) as caught:
            read_recovery(text)
        assert lines[1][:20] not in str(caught.value)
