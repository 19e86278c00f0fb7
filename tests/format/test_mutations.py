"""One change anywhere in a sound file: it is noticed, or what is read is a state all the same."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import lz4.frame
import orjson
import pytest
from fuzz.targets import bundle_file, only_known_errors, safetensors_file, v1_file
from hypothesis import given
from hypothesis import strategies as st
from support.shelf import Shelf
from support.states import kv_cache, saved
from torpor.codec import manifest_file
from torpor.codec.bundle import Bundle, write_bundle
from torpor.codec.safetensors_file import SafetensorsFile, write_safetensors
from torpor.codec.v1_write import Losses, write_v1
from torpor.state.errors import TorporError
from torpor.state.manifest import KVLayer, KVLayout, Manifest

SHELF = Shelf()
STATE = {
    "text_context": {"a": ["é🙂", (1, float("nan")), {1: b"x"}], "long": "text " * 300},
    "vision_cache": {"b": bytes(40_000)},
}
SAVED: Manifest = saved(STATE, SHELF, kv_cache(KVLayout("int8", 1, (KVLayer(1, 2, 2),), 4), 6, SHELF))
RAW = manifest_file.dump(SAVED)
BUNDLE = b"".join(write_bundle(RAW, SHELF.read))
SAFETENSORS = b"".join(write_safetensors(RAW, SHELF.read))
V1 = b"".join(write_v1(SAVED, SHELF.read, "0", Losses(), strict=False))
TENSOR = {
    "shape": [2],
    "dtype": "uint8",
    "data": base64.b64encode(lz4.frame.compress(b"ab")).decode(),
    "compressed": True,
}
# As other programs write it: without a checksum, so that a change can reach the state.
BARE = lz4.frame.compress(
    orjson.dumps({"metadata": {"format": "qwen-state/v1"}, "vision_cache": [TENSOR], "text_context": "é"})
)
CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
FOREIGN = (CORPUS / "safetensors_file" / "foreign.safetensors").read_bytes()


@st.composite
def changed(draw: st.DrawFn, file: bytes) -> bytes:
    """A file with a bit flipped, a byte replaced, its end cut off, a part taken out or something put in."""
    at = draw(st.integers(0, len(file) - 1))
    match draw(st.sampled_from(["flip", "replace", "cut", "take", "insert", "append"])):
        case "flip":
            return file[:at] + bytes([file[at] ^ 1 << draw(st.integers(0, 7))]) + file[at + 1 :]
        case "replace":
            return file[:at] + draw(st.binary(min_size=1, max_size=1)) + file[at + 1 :]
        case "cut":
            return file[:at]
        case "take":
            return file[:at] + file[at + draw(st.integers(1, 600)) :]
        case "insert":
            return file[:at] + draw(st.binary(min_size=1, max_size=9)) + file[at:]
        case _:
            return file + draw(st.binary(min_size=1, max_size=600))


@given(changed(BUNDLE))
def test_a_change_in_a_bundle_is_noticed_or_carries_nothing(file: bytes) -> None:
    only_known_errors(bundle_file, file)
    try:
        bundle = Bundle(io.BytesIO(file), len(file))
        blobs = dict(bundle.blobs())
    except TorporError:
        return
    assert bundle.raw == RAW
    assert {ref.digest: data for ref, data in blobs.items()} == SHELF


@given(changed(SAFETENSORS))
def test_a_change_in_a_backup_as_safetensors_is_noticed_or_carries_nothing(file: bytes) -> None:
    only_known_errors(safetensors_file, file)
    try:
        found = SafetensorsFile(io.BytesIO(file), len(file))
        blobs = dict(found.blobs())
    except TorporError:
        return
    assert found.manifest == SAVED
    assert {ref.digest: data for ref, data in blobs.items()} == SHELF


@pytest.mark.parametrize("file", [V1, BARE], ids=["ours", "no checksum"])
@given(st.data())
def test_a_change_in_a_v1_file_is_noticed_or_leaves_a_state(file: bytes, draw: st.DataObject) -> None:
    only_known_errors(v1_file, draw.draw(changed(file)))


@given(changed(FOREIGN))
def test_a_change_in_a_safetensors_file_is_noticed_or_leaves_a_state(file: bytes) -> None:
    only_known_errors(safetensors_file, file)


FILES: list[tuple[Callable[[bytes], None], bytes]] = [
    (bundle_file, BUNDLE),
    (safetensors_file, SAFETENSORS),
    (v1_file, V1),
]


@pytest.mark.parametrize(("target", "file"), FILES, ids=["bundle", "safetensors", "v1"])
def test_bytes_turned_over_all_along_a_file_are_noticed(target: Callable[[bytes], None], file: bytes) -> None:
    codes = []
    for at in range(0, len(file), max(len(file) // 300, 1)):
        codes.append(only_known_errors(target, file[:at] + bytes([file[at] ^ 0xFF]) + file[at + 1 :]))
    assert codes.count("none") < len(codes) // 10
