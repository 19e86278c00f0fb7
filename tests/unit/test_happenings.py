"""What happened at a backup, from the rows of the index and from what two manifests say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.manifests import manifest
from torpor.db.records import record_of
from torpor.state.backup import Backup
from torpor.state.happenings import Facts, happened, is_edit, shared_bytes

BASE = record_of(manifest(), manifest_digest="d" * 64, manifest_bytes=100, pinned=False, expires_at=None)


def backup(**changes: Any) -> Backup:
    plain = {"tokens": 0, "bytes_total": 100, "bytes_written": 100, "model_name": "m", "weights_hash": "w"}
    return replace(BASE, **{**plain, **changes})


def told(child: Backup, parent: Backup | None, facts: Facts | None) -> list[str]:
    return [f"{event.kind} {event.text}" for event in happened(child, parent, facts)]


SAME = Facts(messages=4, messages_before=4, messages_same=4)
KEPT = Facts(messages=6, messages_before=4, messages_same=4)
EDIT = Facts(messages=5, messages_before=6, messages_same=3)
IDS = Facts(ids=900, ids_before=800, ids_same=800)


@pytest.mark.parametrize(
    ("child", "parent", "facts", "expected"),
    [
        ({"tokens": 812}, None, Facts(messages=6), ["save 812 tokens, 6 messages"]),
        ({"tokens": 1}, None, Facts(messages=1), ["save 1 token, 1 message"]),
        ({}, None, Facts(), ["save nothing new"]),
        ({"tokens": 908}, {"tokens": 812}, KEPT, ["save +96 tokens, +2 messages"]),
        ({"tokens": 812}, {"tokens": 812}, SAME, ["save nothing new"]),
        ({"tokens": 12_908}, {}, SAME, ["save +12,908 tokens"]),
        ({}, {}, EDIT, ["edit kept 3 of 6 messages, 2 new"]),
        ({}, {}, replace(EDIT, messages=3), ["edit kept 3 of 6 messages"]),
        ({"tokens": 608}, {"tokens": 800}, Facts(ids=608, ids_before=800, ids_same=512), ["edit kept 512 of 800 tokens, 96 new"]),
        ({}, {}, Facts(ids=12_000, ids_before=11_000, ids_same=1050), ["edit kept 1,050 of 11,000 tokens, 10,950 new"]),
        ({}, {}, replace(EDIT, ids=608, ids_before=800, ids_same=512), ["edit kept 3 of 6 messages, 2 new; kept 512 of 800 tokens, 96 new"]),
        ({"session_id": "t"}, {}, SAME, ["fork of s"]),
        ({"session_id": "t", "tokens": 9}, {}, KEPT, ["fork of s", "save +9 tokens, +2 messages"]),
        ({}, None, Facts(messages=2, imported=True), ["import from a file", "save 2 messages"]),
        ({}, {}, replace(SAME, imported=True), ["import from a file"]),
        ({"model_name": "b"}, {"model_name": "a"}, replace(KEPT, changed=("weights", "vision_weights")), ["switch a -> b (weights, vision weights)", "save +2 messages"]),
        ({}, {}, replace(SAME, changed=("weights",)), ["switch m (weights)"]),
        ({}, {}, replace(SAME, changed=("adapters", "quantization")), ["switch m (quantization, adapters)"]),
        ({"model_name": "b"}, {"model_name": "a"}, SAME, ["save nothing new"]),
        ({"model_name": "b", "weights_hash": None}, {"model_name": "a"}, SAME, ["switch a -> b (weights unknown)"]),
        ({"weights_hash": None}, {}, SAME, ["save nothing new"]),
        ({"model_name": None, "weights_hash": None}, {"model_name": "a"}, SAME, ["save nothing new"]),
        ({"model_name": "b"}, {"model_name": "a"}, replace(EDIT, changed=("weights",)), ["switch a -> b (weights)", "edit kept 3 of 6 messages, 2 new"]),
        ({"tokens": 9, "weights_hash": "v"}, {"tokens": 4}, None, ["switch m (weights)", "save +5 tokens"]),
        ({"tokens": 4}, {"tokens": 9}, None, ["save -5 tokens"]),
        ({"bytes_total": 1000, "bytes_written": 30}, None, Facts(messages=1), ["save 1 message", "reuse 97% shared"]),
        ({"bytes_total": 10, "bytes_written": 30}, None, Facts(messages=1), ["save 1 message"]),
    ],
)  # fmt: skip
def test_what_happened(
    child: dict[str, Any], parent: dict[str, Any] | None, facts: Facts | None, expected: list[str]
) -> None:
    assert told(backup(**child), None if parent is None else backup(**parent), facts) == expected


@pytest.mark.parametrize(
    ("facts", "edit"),
    [
        (IDS, False),
        (replace(IDS, ids_same=799), True),
        (replace(IDS, messages=4, messages_before=4, messages_same=3), False),  # an answer that is still being written
        (replace(KEPT, ids=900, ids_before=800, ids_same=512), True),  # the ids alone went back
        (replace(KEPT, ids=900, ids_before=800, ids_same=512, changed=("weights",)), False),  # rendered by another model
        (replace(EDIT, ids=900, ids_before=800, ids_same=800, changed=("tokenizer",)), True),
        (replace(IDS, ids_same=3, changed=("chat_template",)), False),
        (replace(IDS, ids_same=3, changed=("weights",)), True),  # no messages to ask, and the same tokenizer
    ],
)  # fmt: skip
def test_ids_decide_where_they_can(facts: Facts, edit: bool) -> None:
    assert is_edit(facts) is edit


def test_shared_bytes_are_never_negative() -> None:
    assert shared_bytes(backup(bytes_total=10, bytes_written=30)) == 0
    assert shared_bytes(backup(bytes_total=30, bytes_written=10)) == 20
