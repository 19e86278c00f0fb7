"""repo.json and commit records as bytes: what was written comes back, and anybody may have written the rest."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.codec.keys import new_ring
from torpor.codec.objects import seal_document
from torpor.codec.remote_files import MAX_RECORD_BYTES, dump_record, dump_repo, load_record, load_repo
from torpor.state.errors import NewerFormat, ObjectDamaged, TooLarge, TorporError, UnknownRepository
from torpor.state.manifest import manifest_blobs
from torpor.state.remote import RecordName, RemoteObject, RemoteRecord, RepoInfo, blob_name, stage_blobs

MANIFEST = manifest()
UPLOAD = "0" * 26
OBJECTS = {d: RemoteObject(d, n, blob_name(d, UPLOAD), n + 9) for d, (n, _) in manifest_blobs(MANIFEST).items()}
RECORD = RemoteRecord(
    backup_id=MANIFEST.id,
    machine="0123456789abcdef",
    seq=3,
    written_at=1.5e9,
    manifest=manifest_file.dump(MANIFEST),
    objects=OBJECTS,
    stages=tuple(stage_blobs(MANIFEST)),
    title="Ein Gespräch",
    pinned=True,
    expires_at=2e9,
)
NAME = str(RecordName(RECORD.machine, RECORD.backup_id, RECORD.seq, "89abcdef"))
RING = new_ring(1)


@pytest.mark.parametrize("ring", [None, RING])
def test_a_record_comes_back(ring: Any) -> None:
    assert load_record(dump_record(RECORD, NAME, ring), NAME, ring) == RECORD


def test_part_of_a_backup_says_why() -> None:
    some = {d: o for d, o in OBJECTS.items() if d not in stage_blobs(MANIFEST)["kv"]}
    stages = tuple(stage for stage in RECORD.stages if stage != "kv")
    record = replace(RECORD, objects=some, stages=stages, left_out={"kv": "the policy"}, title=None, expires_at=None)
    assert load_record(dump_record(record, NAME, None), NAME, None) == record


def test_a_record_under_another_name_is_damaged() -> None:
    other = NAME.replace("89abcdef", "89abcde0")
    for ring in (None, RING):
        with pytest.raises(ObjectDamaged):
            load_record(dump_record(RECORD, NAME, ring), NAME.replace(".000003-", ".000004-"), ring)
    with pytest.raises(ObjectDamaged):
        load_record(dump_record(RECORD, NAME, RING), other, RING)


def fields() -> dict[str, Any]:
    value = orjson.loads(manifest_file.dump(MANIFEST))
    assert value["id"] == MANIFEST.id
    return {
        "format": "torpor-record/v1",
        "backup_id": RECORD.backup_id,
        "machine": RECORD.machine,
        "seq": 3,
        "written_at": 1.5e9,
        "manifest": RECORD.manifest.decode(),
        "objects": [[o.digest, o.size_bytes, o.name[6:], o.stored_bytes] for o in OBJECTS.values()],
        "stages": list(RECORD.stages),
        "left_out": {},
        "title": None,
        "pinned": False,
        "expires_at": None,
    }


def load(value: Any) -> RemoteRecord:
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    return load_record(seal_document(raw, NAME.encode(), None), NAME, None)


_first = fields()["objects"][0]
HOSTILE: dict[str, Any] = {
    "no object": [],
    "another backup": {"backup_id": "01M81P35719XNDZ4R57NMV6D00"},
    "another machine": {"machine": "f" * 16},
    "another seq": {"seq": 4},
    "a seq that is none": {"seq": True},
    "a manifest of another backup": {
        "manifest": manifest_file.dump(manifest(id="01M81P35719XNDZ4R57NMV6D00")).decode()
    },
    "no manifest": {"manifest": "{}"},
    "an object twice": {"objects": [_first, _first]},
    "an object of nothing": {"objects": [["e" * 64, 1, f"ee/{'e' * 64}.{UPLOAD}", 1]]},
    "an object of another size": {"objects": [[_first[0], _first[1] + 1, *_first[2:]]]},
    "an object somewhere else": {"objects": [[*_first[:2], "../repo.json", 9]]},
    "an object of less than nothing": {"objects": [[*_first[:3], -1]]},
    "an object of a petabyte": {"objects": [[*_first[:3], 1 << 60]]},
    "an object that is a word": {"objects": ["abcd"]},
    "objects that are none": {"objects": {"a": 1}},
    "a stage without its blobs": {"objects": []},
    "a stage of no kind": {"stages": ["text", "all"]},
    "a stage twice": {"stages": ["text", "text"]},
    "stages that cannot be compared": {"stages": [["text"]]},
    "a reason for nothing": {"left_out": {"all": "no"}},
    "a reason that moves the cursor": {"left_out": {"kv": "\x1b[2J"}},
    "an endless reason": {"left_out": {"kv": "a" * 501}},
    "an endless title": {"title": "a" * 201},
    "a title that is a number": {"title": 5},
    "a time that is none": {"written_at": "now"},
    "a time beyond all": {"expires_at": 1e12},
    "a pin that is a number": {"pinned": 1},
    "another format": {"format": "tar"},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_records_are_damaged(change: Any) -> None:
    assert load(fields()).objects == OBJECTS
    with pytest.raises(ObjectDamaged):
        load({**fields(), **change} if change else change)


@pytest.mark.parametrize("missing", fields())
def test_a_record_without_a_field_is_damaged(missing: str) -> None:
    value = fields()
    del value[missing]
    with pytest.raises(ObjectDamaged):
        load(value)


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[" * 5000, b'"\\ud800"', b'{"format": NaN}'])
def test_bytes_that_are_no_record_are_damaged(raw: bytes) -> None:
    with pytest.raises(ObjectDamaged):
        load(raw)


def test_a_newer_record_is_told_apart() -> None:
    with pytest.raises(NewerFormat):
        load({**fields(), "format": "torpor-record/v2"})


@pytest.mark.parametrize("ring", [None, RING])
def test_no_flipped_byte_passes(ring: Any) -> None:
    raw, chance = dump_record(RECORD, NAME, ring), random.Random(5)
    for _ in range(150):
        at, flip = chance.randrange(len(raw)), 1 << chance.randrange(8)
        with contextlib.suppress(TorporError):  # there are bits in a frame's head that say nothing
            assert load_record(raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :], NAME, ring) == RECORD
    with pytest.raises(TorporError):
        load_record(raw[:-1], NAME, ring)


def test_a_record_that_would_be_too_large_is_not_written() -> None:
    with pytest.raises(TooLarge):
        dump_record(replace(RECORD, manifest=b" " * MAX_RECORD_BYTES), NAME, None)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.text(max_size=5),
        lambda x: st.lists(x, max_size=4),
    )
)
def test_fields_of_any_kind_are_damaged_or_read(value: Any) -> None:
    for name in fields():
        with contextlib.suppress(ObjectDamaged):
            load({**fields(), name: value})


def test_repo_json_comes_back() -> None:
    info = RepoInfo("01M81P35719XNDZ4R57NMV6DYZ", 1.5e9, True)
    assert load_repo(dump_repo(info)) == info


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"layout": "torpor-repo/v2"}', b'{"layout": ["torpor-repo/v1"]}'])
def test_what_is_not_ours_is_another_repository(raw: bytes) -> None:
    with pytest.raises(UnknownRepository):
        load_repo(raw)


def test_no_flipped_byte_of_repo_json_passes() -> None:
    info = RepoInfo("01M81P35719XNDZ4R57NMV6DYZ", 1.5e9, False)
    raw = dump_repo(info)
    for at in range(len(raw)):
        for flip in (1, 8):
            with contextlib.suppress(UnknownRepository, ObjectDamaged):
                assert load_repo(raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]) == info  # white space, perhaps
