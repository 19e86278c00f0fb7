"""Who may call the routes of an inference server: decided from headers alone."""

from __future__ import annotations

import pytest
from torpor.client.same_origin import LOOPBACK, MAX_BODY_BYTES, Request, check, same_host
from torpor.state.errors import HostNotAllowed, TooLarge, UnsupportedMedia

HOST = {"host": "localhost:8000"}
JSON = {"content-type": "application/json", "content-length": "2"}


def asked(method: str, path: str, **headers: str) -> Request:
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, {}, lambda name: found.get(name, ""))


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://localhost", "localhost", True),
        ("http://localhost:80", "localhost", True),
        ("http://localhost", "localhost:80", True),
        ("https://chat.example", "chat.example", True),
        ("https://chat.example", "chat.example:443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:8001", "localhost:8000", False),
        ("http://localhost:8000/", "localhost:8000", False),
        ("http://a@localhost:8000", "localhost:8000", False),
        ("http://localhost:8000@evil.example", "localhost:8000", False),
        ("http://localhost:99999", "localhost:8000", False),
        ("http://[::1", "[::1]:8000", False),
        ("file://localhost:8000", "localhost:8000", False),
        ("null", "localhost:8000", False),
        ("", "localhost:8000", False),
        ("http://localhost.evil.example:8000", "localhost:8000", False),
    ],
)
def test_an_origin_is_the_servers_own_or_not(origin: str, host: str, same: bool) -> None:
    assert same_host(origin, host) is same


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "LOCALHOST:80"])
def test_names_of_this_machine_are_allowed_with_any_port(host: str) -> None:
    check(asked("GET", "points/s", host=host, sec_fetch_site="same-origin"), LOOPBACK)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example", "localhost:8000, evil", "[::1]x"],
)
def test_other_names_are_not(host: str) -> None:
    with pytest.raises(HostNotAllowed, match="Host"):
        check(asked("GET", "points/s", host=host, sec_fetch_site="same-origin"), LOOPBACK)


def test_a_name_that_is_given_is_allowed_with_its_port_alone_or_with_any() -> None:
    check(asked("POST", "create", host="box.lan:9", origin="http://box.lan:9", **_body()), ["box.lan:9"])
    check(asked("POST", "create", host="box.lan:9", origin="http://box.lan:9", **_body()), ["box.lan"])
    with pytest.raises(HostNotAllowed):
        check(asked("POST", "create", host="box.lan:8", **_body()), ["box.lan:9"])


def test_where_no_browser_says_anything_a_link_changes_nothing() -> None:
    """Over plain http off this machine browsers send neither header with the request for an image."""
    with pytest.raises(HostNotAllowed, match="nobody says"):
        check(asked("GET", "restore/s", host="box.lan"), ["box.lan"])
    check(asked("GET", "points/s", host="box.lan"), ["box.lan"])
    check(asked("POST", "restore/s", host="box.lan", **_body()), ["box.lan"])
    check(asked("GET", "restore/s", **HOST), LOOPBACK)  # a program: a browser would have said so


@pytest.mark.parametrize(
    ("path", "headers", "error"),
    [
        ("create", {"content_type": "text/plain"}, UnsupportedMedia),
        ("create", {"content_type": ""}, UnsupportedMedia),
        ("create", {"content_type": "application/x-www-form-urlencoded"}, UnsupportedMedia),
        ("create", {"content_encoding": "gzip"}, UnsupportedMedia),
        ("drain", {"content_type": "multipart/form-data"}, UnsupportedMedia),
        ("drain", {"content_length": str(MAX_BODY_BYTES + 1)}, TooLarge),
        ("drain", {"content_length": "-1"}, TooLarge),
        ("drain", {"content_length": "1" * 40}, TooLarge),
    ],
)
def test_bodies_that_no_page_of_the_server_sends(path: str, headers: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        check(asked("POST", path, **HOST, sec_fetch_site="same-origin", **{**_body(), **headers}), LOOPBACK)


def test_a_page_that_unloads_sends_text() -> None:
    check(
        asked("POST", "drain", **HOST, sec_fetch_site="same-origin", content_type="text/plain;charset=UTF-8"), LOOPBACK
    )


def _body() -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in JSON.items()}
