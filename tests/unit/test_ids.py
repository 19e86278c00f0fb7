"""Ids from outside: what is taken and what is refused."""

from __future__ import annotations

import pytest
from torpor.state.errors import BadInput, InvalidId
from torpor.state.ids import is_backup_id, parse_backup_id, parse_digest, parse_session_id
from torpor.store.blobs import BlobStore
from torpor.store.home import Home
from torpor.store.manifests import ManifestStore

HOSTILE = [
    "", ".", "..", "../x", "a/../b", "a/b", "/etc/passwd", "a\\b", "a\0b", "a b", "a\n", "-x", ".hidden", "a..b",
    "%2e%2e%2f", "x" * 129, "ü", "a\u202eb", "~", "$HOME", "a;b", "a\r\nHost: x", "C:", "con|", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", [t for t in HOSTILE if t != "C:"])
def test_hostile_session_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidId):
        parse_session_id(text)


@pytest.mark.parametrize("text", ["chat-42", "a", "A" * 128, "user@host:3", "2026-11-22.session_1", "x=y+z"])
def test_ordinary_session_ids_are_taken(text: str) -> None:
    assert parse_session_id(text) == text


@pytest.mark.parametrize("text", [*HOSTILE, "01M81P35719XNDZ4R57NMV6DY", "81M81P35719XNDZ4R57NMV6DYZ", "chat-42"])
def test_only_ulids_are_backup_ids(text: str) -> None:
    assert not is_backup_id(text)
    with pytest.raises(InvalidId):
        parse_backup_id(text)


@pytest.mark.parametrize("text", [*HOSTILE, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "../" + "a" * 61])
def test_only_hex_digests_are_digests(text: str, home: object) -> None:
    place = Home(home)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        parse_digest(text)
    with pytest.raises(BadInput):
        BlobStore(place.store).path(text)
    with pytest.raises(BadInput):
        ManifestStore(place.store, place.store).path(text)
