"""Scopes, origins, tokens and pairing: who gets in, decided without a socket."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from support.bucket_daemon import BucketDaemon
from torpor.daemon.pair_api import add_pairing, add_tokens
from torpor.daemon.pairing import MAX_WAITING, Pairing
from torpor.daemon.scopes import CODED, OPEN, ROUTES, RouteScopes, unlisted
from torpor.daemon.tokens import MAX_TOKENS, Tokens
from torpor.state.access import OWNER, PAGE_SCOPES, SCOPES, Access, Allowance, parse_label, parse_origin, parse_scopes
from torpor.state.errors import (
    BadInput,
    Conflict,
    NotFound,
    StoreFailed,
    TooManyAttempts,
    Unauthorized,
    UnsafeHome,
)
from torpor.store.token_list import TokenRecord, write_tokens

PAGE = "http://localhost:3000"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Tokens:
    return Tokens(tmp_path / "tokens.json", "owner-token", clock)


@pytest.fixture
def pairing(tokens: Tokens, clock: Clock) -> Pairing:
    return Pairing(tokens, clock, clock)


def test_rows_name_scopes_that_exist() -> None:
    assert {scope for row in ROUTES.values() for scope in row.split()} <= set(SCOPES) | OWNER
    assert not {tuple(row.split()) for row in ROUTES} & (OPEN | CODED)


def test_every_route_has_a_row(tmp_path: Path, tokens: Tokens, pairing: Pairing) -> None:
    daemon = BucketDaemon(tmp_path / "home")
    try:
        app = daemon.app()
        add_tokens(app, tokens)
        add_pairing(app, pairing)
        assert unlisted(app.routes) == []
        app.get("/v1/new")(lambda: None)
        assert unlisted(app.routes) == ["GET /v1/new"]
    finally:
        daemon.close()


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("GET", "/v1/status", [{"read", "save", "restore"}]),
        ("HEAD", "/v1/status", [{"read", "save", "restore"}]),
        ("DELETE", "/v1/backups/x", [{"manage"}]),
        ("POST", "/v1/key/recovery", [OWNER]),
        ("GET", "/v1/nowhere", [OWNER]),
        ("TRACE", "/v1/status", [OWNER]),
        ("GET", "/v1/status/", [OWNER]),
        ("GET", "//v1/status", [OWNER]),
        ("GET", "/v1/backups/a/b/manifest", [OWNER]),
        ("get", "/v1/status", [OWNER]),
    ],
)
def test_what_is_not_listed_is_the_owners(method: str, path: str, needed: list[set[str]]) -> None:
    assert RouteScopes().needed(method, path) == needed


def test_a_path_that_two_rows_fit_needs_both() -> None:
    rows = RouteScopes({"GET /a/{b}": "read", "GET /a/keys": "owner"})
    needed = rows.needed("GET", "/a/keys")
    assert not all(Access("t", frozenset({"read"})).may(any_of) for any_of in needed)
    assert all(Access("o", OWNER).may(any_of) for any_of in needed)


@pytest.mark.parametrize(
    "origin",
    [
        PAGE,
        "https://example.com",
        "https://a.example:8443",
        "http://[::1]:5173",
        "http://app.localhost",
        "tauri://localhost",
    ],
)
def test_origins_that_may_be_approved(origin: str) -> None:
    assert parse_origin(origin) == origin


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://example.com", "http://192.168.1.7:3000", "https://", "https://a/b", "https://a b", "HTTPS://A",
     "https://a:0", "https://a:999999", "http://localhost.evil.example", "http://evillocalhost", "https://a\r\nx: y",
     "https://user@a", "https://" + "a" * 300, "http://127.0.0.1.evil.example"],
)  # fmt: skip
def test_origins_that_may_not(origin: str) -> None:
    with pytest.raises(BadInput):
        parse_origin(origin)


@pytest.mark.parametrize("names", [[], ["owner"], ["read", "root"], [""]])
def test_scopes_that_cannot_be_given(names: list[str]) -> None:
    with pytest.raises(BadInput):
        parse_scopes(names)


@pytest.mark.parametrize("label", ["", " ", "a\nb", "a\x1b[2J", "x" * 81])
def test_labels_are_one_line(label: str) -> None:
    with pytest.raises(BadInput):
        parse_label(label)


def test_an_allowance_fills_again(clock: Clock) -> None:
    allowance = Allowance(2, 10.0, clock)
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    clock.now += 10
    assert [allowance.take() for _ in range(2)] == [True, False]
    clock.now += 1e6
    assert [allowance.take() for _ in range(3)] == [True, True, False]


def test_only_hashes_are_kept_and_they_outlive_a_restart(tmp_path: Path, tokens: Tokens, clock: Clock) -> None:
    record, token = tokens.new("Prometheus", ["metrics"])
    raw = (tmp_path / "tokens.json").read_bytes()
    assert token.encode() not in raw
    assert token.removeprefix("torpor_").encode() not in raw
    assert hashlib.sha256(token.encode()).hexdigest().encode() in raw
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    clock.now = 7300.0
    found = tokens.check(token.encode())
    assert found == Access("Prometheus", frozenset({"metrics"}))
    tokens.flush()
    again = Tokens(tmp_path / "tokens.json", "owner-token", clock)
    assert again.check(token.encode()) == found
    assert [(each.id, each.used_at) for each in again.listed()] == [(record.id, 7200.0)]  # the hour, not the second


def test_a_revoked_token_is_void_at_once_and_gone_from_the_file(tmp_path: Path, tokens: Tokens, clock: Clock) -> None:
    record, token = tokens.new("page", ["read"], PAGE)
    assert tokens.approved(PAGE)
    tokens.revoke(record.id)
    assert tokens.check(token.encode()) is None
    assert not tokens.approved(PAGE)
    assert orjson.loads((tmp_path / "tokens.json").read_bytes()) == {"tokens": []}
    with pytest.raises(NotFound):
        tokens.revoke(record.id)
    assert Tokens(tmp_path / "tokens.json", "owner-token", clock).check(token.encode()) is None


def test_a_token_that_cannot_be_revoked_on_disk_is_void_all_the_same(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    tokens = Tokens(folder / "tokens.json", "owner-token", clock)
    record, token = tokens.new("page", ["read"])
    (folder / "tokens.json").unlink()
    folder.rmdir()
    with pytest.raises(StoreFailed):
        tokens.revoke(record.id)
    assert tokens.check(token.encode()) is None


def test_a_revocation_that_could_not_be_written_is_written_later(tmp_path: Path, clock: Clock) -> None:
    folder, away = tmp_path / "home", tmp_path / "away"
    folder.mkdir()
    tokens = Tokens(folder / "tokens.json", "owner-token", clock)
    record, token = tokens.new("page", ["read"])
    folder.rename(away)
    with pytest.raises(StoreFailed):
        tokens.revoke(record.id)
    away.rename(folder)
    tokens.flush()
    assert Tokens(folder / "tokens.json", "owner-token", clock).check(token.encode()) is None


def test_there_is_an_end_to_tokens(tmp_path: Path, clock: Clock) -> None:
    records = [TokenRecord(f"{n:08}", f"{n:064}", "t", ("read",), None, 1.0) for n in range(MAX_TOKENS)]
    write_tokens(tmp_path / "tokens.json", records)
    tokens = Tokens(tmp_path / "tokens.json", "owner-token", clock)
    assert tokens.listed() == records
    with pytest.raises(Conflict):
        tokens.new("t", ["read"])


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b'{"tokens": [1]}', b'{"tokens": [{"id": "x"}]}', b'{"tokens": {}, "x": 1}',
            b'{"tokens":[{"id":"aaaaaaaa","sha256":"","label":"x","scopes":["read"],"origin":null,"created_at":1}]}',
            b'{"tokens":[{"id":"aaaaaaaa","sha256":"' + b"0" * 64 + b'","label":"x","scopes":["owner"],"origin":null,"created_at":1}]}'],
)  # fmt: skip
def test_a_list_that_we_did_not_write_opens_nothing(tmp_path: Path, clock: Clock, raw: bytes) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(raw)
    tokens = Tokens(path, "owner-token", clock)
    assert tokens.listed() == []
    assert tokens.check(b"owner-token") == Access("owner", OWNER)
    if raw != b'{"tokens": {}, "x": 1}':  # an empty list, oddly written
        assert path.with_name("tokens.json.damaged").read_bytes() == raw


def test_a_link_in_place_of_the_list_is_refused(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "elsewhere").write_text('{"tokens": []}')
    (tmp_path / "tokens.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeHome):
        Tokens(tmp_path / "tokens.json", "owner-token", clock)


def test_a_page_gets_its_token_once(pairing: Pairing, tokens: Tokens) -> None:
    request, secret = pairing.ask(PAGE, "My page", ["save", "restore"])
    assert pairing.claim(PAGE, secret)[0].state == "pending"
    assert [each.code for each in pairing.waiting()] == [request.code]
    pairing.approve(request.code.replace("-", " "))
    found, token = pairing.claim(PAGE, secret)
    assert (found.state, found.scopes) == ("approved", ("restore", "save"))
    assert token is not None
    assert tokens.check(token.encode()) == Access("My page", frozenset({"save", "restore"}), PAGE)
    with pytest.raises(Unauthorized):
        pairing.claim(PAGE, secret)
    assert pairing.waiting() == []


def test_the_secret_of_one_page_is_nothing_to_another(pairing: Pairing) -> None:
    request, secret = pairing.ask(PAGE, "page", ["read"])
    pairing.approve(request.code)
    with pytest.raises(Unauthorized):
        pairing.claim("https://evil.example", secret)
    assert pairing.claim(PAGE, secret)[1]


def test_less_than_asked_for_may_be_given_and_never_more(pairing: Pairing) -> None:
    request, secret = pairing.ask(PAGE, "page", ["read", "save"])
    with pytest.raises(BadInput):
        pairing.approve(request.code, ["restore"])
    pairing.approve(request.code, ["read"])
    assert pairing.claim(PAGE, secret)[0].scopes == ("read",)


@pytest.mark.parametrize("scope", [*sorted(set(SCOPES) - set(PAGE_SCOPES)), "owner"])
def test_some_scopes_are_for_no_page(pairing: Pairing, tokens: Tokens, scope: str) -> None:
    with pytest.raises(BadInput):
        pairing.ask(PAGE, "page", [scope])
    with pytest.raises(BadInput):
        tokens.new("page", ["read", scope], PAGE)


def test_denied_and_taken_back(pairing: Pairing) -> None:
    request, secret = pairing.ask(PAGE, "page", ["read"])
    pairing.approve(request.code)
    pairing.deny(request.code)
    assert pairing.claim(PAGE, secret) == (replace(request, state="denied"), None)
    with pytest.raises(NotFound):
        pairing.approve(request.code)


def test_requests_grow_old(pairing: Pairing, clock: Clock) -> None:
    request, secret = pairing.ask(PAGE, "page", ["read"])
    clock.now += 601
    assert pairing.waiting() == []
    with pytest.raises(NotFound):
        pairing.approve(request.code)
    with pytest.raises(Unauthorized):
        pairing.claim(PAGE, secret)


def test_few_wait_and_few_ask(pairing: Pairing, clock: Clock) -> None:
    for number in range(MAX_WAITING):
        pairing.ask(f"https://page{number}.example", "page", ["read"])
    with pytest.raises(TooManyAttempts):
        pairing.ask("https://another.example", "page", ["read"])
    clock.now += 60
    pairing.ask("https://page1.example", "page", ["read"])  # its former request makes room
    for _ in range(100):
        clock.now += 0.01
        try:
            pairing.ask("https://page1.example", "page", ["read"])
        except TooManyAttempts:
            break
    else:
        pytest.fail("a page could ask without end")
    assert len({each.origin for each in pairing.waiting()}) == len(pairing.waiting()) <= MAX_WAITING


def test_secrets_cannot_be_tried_without_end(pairing: Pairing) -> None:
    request, secret = pairing.ask(PAGE, "page", ["read"])
    with pytest.raises(TooManyAttempts):
        for number in range(1000):
            try:
                pairing.claim(PAGE, str(number))
            except Unauthorized:
                continue
    pairing.approve(request.code)
    assert pairing.claim(PAGE, secret)[1]  # the right one is never held back
