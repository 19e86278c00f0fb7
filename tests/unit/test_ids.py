"""Ids from outside: what is taken and what is refused."""

from __future__ import annotations

import pytest
from torpor.state.errors import BadInput, InvalidId
from torpor.state.ids import (
    fork_id,
    is_backup_id,
    is_short_id,
    parse_backup_id,
    parse_digest,
    parse_session_id,
    parse_title,
    short_id,
)
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


def test_the_short_form_is_one_that_is_taken() -> None:
    assert short_id("01M81P35719XNDZ4R57NMV6DYZ") == "57NMV6DYZ"[-8:]
    assert is_short_id(short_id("01M81P35719XNDZ4R57NMV6DYZ"))
    assert is_short_id("MV6DYZ")
    assert not is_short_id("V6DYZ")
    assert not is_short_id("01M81P35719XNDZ4R57NMV6DYZ")
    assert not any(map(is_short_id, [*HOSTILE, "mv6dyz", "MV6DYL", "chat-42", "MV6DYZ\n"]))


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 7, 8, 100, 5000])
def test_a_fork_gets_a_free_id_without_asking_for_each(taken: int) -> None:
    used = {"chat-fork", *(f"chat-fork-{n}" for n in range(2, taken + 1))} if taken else set()
    asked: list[str] = []
    found = fork_id("chat", lambda name: asked.append(name) is None and name in used)
    assert found == ("chat-fork" if not taken else f"chat-fork-{taken + 1}")
    assert len(asked) <= 2 * taken.bit_length() + 2


def test_forks_of_forks_count_on_and_stay_valid() -> None:
    used = {"chat", "chat-fork", "chat-fork-2"}
    assert fork_id("chat-fork", used.__contains__) == fork_id("chat-fork-2", used.__contains__) == "chat-fork-3"
    for name in ("a" * 128, "a" * 99 + "." * 1 + "b" * 28, "fork", "x-fork-fork"):
        assert parse_session_id(fork_id(name, set().__contains__))
    assert fork_id("chat", {"chat-fork", "chat-fork-2", "chat-fork-4"}.__contains__) in ("chat-fork-3", "chat-fork-5")


@pytest.mark.parametrize(
    "title", ["Trip to Rome", "  spaces around  ", "\u0646\u06cc\u200c\u0645", "👨\u200d👩\u200d👧", "[bold]x"]
)
def test_titles_that_are_taken(title: str) -> None:
    assert parse_title(title) == title.strip()


@pytest.mark.parametrize("title", ["a\nb", "\x1b[2J", "\u202eevil", "\ud800", "a\0", "x" * 201])
def test_titles_that_are_refused(title: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_title(title)
    assert caught.value.hint


def test_no_title() -> None:
    assert parse_title(None) is parse_title("") is parse_title("  ") is None
