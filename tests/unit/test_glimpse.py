"""A backup at a glance: right for the conversations that there are, and harmless for everything else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from support.manifests import hostile_trees, manifest
from torpor.codec.glimpse import glimpse
from torpor.codec.source_media import picture_type, pieces, source, sources
from torpor.codec.transcript import find_messages, read_transcript
from torpor.state.errors import NotFound, TorporError
from torpor.state.glimpse import NOTHING, PREVIEW_CHARS, Medium, one_line
from torpor.state.manifest import BlobRef, Manifest

HI = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "it is\na  cat"}]}
LONG_TEXT = {"$text": {"size_bytes": 32, "blocks": [{"digest": "c" * 64, "size_bytes": 32}]}}


def of(text: Any, **layers: Any) -> Manifest:
    return manifest(layers={"text_context": text, **layers}, kv_cache=None)


def read(ref: BlobRef) -> memoryview:
    return memoryview(bytes(ref.size_bytes))


@pytest.mark.parametrize(
    ("text", "count", "preview"),
    [
        ({"conversation": [HI, ANSWER]}, 2, "it is a cat"),
        ({"messages": [HI, ANSWER, {"role": "tool", "content": "42"}]}, 3, "it is a cat"),
        ({"conversation": {"$tuple": [HI]}}, 1, "hi"),
        ({"conversation": [HI, {"role": "user", "content": LONG_TEXT}]}, 2, "hi"),
        ({"conversation": [{**HI, "children": [ANSWER]}]}, 2, "it is a cat"),
        ({"conversation": {"head": 1, "nodes": {"a": {"id": 1, "message": HI}}}}, 1, "hi"),
        ({"conversation": [HI], "messages": [ANSWER]}, 2, "it is a cat"),
        ({"conversation": [{"role": "user", "content": " "}]}, 1, None),
        ({"conversation": []}, 0, None),
        ({}, 0, None),
        (None, 0, None),
    ],
)
def test_a_conversation_at_a_glance(text: Any, count: int, preview: str | None) -> None:
    made = of(text)
    seen = glimpse(made)
    assert (seen.messages, seen.text) == (count, preview)
    assert len(find_messages(made)) == count, "as many as a page can read"


def test_a_preview_is_one_line_that_nobody_takes_for_something_else() -> None:
    assert one_line("a\n\tb\x1b[31m\u202e\0c") == "a b[31mc"
    assert one_line("x" * 1000) == "x" * (PREVIEW_CHARS - 1) + "…"
    assert len(one_line(" y" * 10_000)) <= PREVIEW_CHARS


def test_what_is_nested_too_deep_is_not_looked_into() -> None:
    deep: Any = HI
    for _ in range(300):
        deep = [deep]
    assert glimpse(of({"conversation": {"x": deep}})) == NOTHING


def test_media_are_counted_by_their_place() -> None:
    inline = {"data": {"$bytes": {"size_bytes": 3, "data": "YWJj"}}, "media_type": "image/png"}
    made = of({}, media=[inline, {"data": 7}, 5, {**inline, "media_type": {"x": 1}}])
    assert [each.medium for each in sources(made)] == [
        Medium(0, "image/png", 3),
        Medium(3, "application/octet-stream", 3),
    ]
    assert glimpse(made).images == (Medium(0, "image/png", 3),)
    assert b"".join(pieces(source(made, 0), read)) == b"abc"
    with pytest.raises(NotFound):
        source(made, 1)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"<svg xmlns=", None),
        (b"<!doctype html>", None),
        (b"", None),
    ],
)
def test_pictures_are_known_by_their_first_bytes(head: bytes, kind: str | None) -> None:
    assert picture_type(memoryview(head)) == kind


@given(text=hostile_trees, media=hostile_trees)
def test_no_manifest_breaks_a_listing(text: Any, media: Any) -> None:
    made = of(text, media=media)
    seen = glimpse(made)
    assert seen.messages >= 0
    for each in sources(made):
        assert each.medium.size_bytes >= 0


@given(text=hostile_trees, media=hostile_trees)
def test_no_manifest_breaks_a_transcript(text: Any, media: Any) -> None:
    made = of({"conversation": [{"role": "user", "content": text}, text], "x": text}, media=media)
    try:
        found = read_transcript(made, read, 0, 50)
    except TorporError:
        return
    assert len(found.messages) <= found.total
