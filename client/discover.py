"""Find the daemon: by `TORPOR_URL`, else by the home folder's `daemon.json`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from ..state.errors import DaemonNotRunning, Unauthorized
from ..store.home import Home

_LISTENS = "0A"  # as /proc/net/tcp writes it, and the addresses that a connection to 127.0.0.1 may end at
_ADDRESSES = ("0100007F", "00000000", "0000000000000000FFFF00000100007F", "0" * 16 + "FFFF" + "0" * 12, "0" * 32)
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to call the daemon. `home` is None when no files are shared with it."""

    url: str
    token: str
    socket: str | None = None
    home: Home | None = None

    @property
    def is_plain(self) -> bool:
        """Tell whether it is spoken with in the clear, as on one machine."""
        return self.socket is not None or self.url.lower().startswith("http://")


def find_endpoint(
    environment: Mapping[str, str], *, home: str | Path | None = None, url: str | None = None, token: str | None = None
) -> Endpoint:
    """Return the endpoint that arguments or the environment name. Raises: DaemonNotRunning, Unauthorized."""
    token = token or environment.get("TORPOR_TOKEN")
    url = url or (environment.get("TORPOR_URL") if home is None else None)
    if url:
        if not token:
            raise Unauthorized("TORPOR_URL is set without a token", hint="Set TORPOR_TOKEN to the daemon's token.")
        return Endpoint(url.rstrip("/"), token)
    place = Home.at(home) if home is not None else Home.from_environment(environment)
    listening = _read_json(place)
    socket = listening.get("socket")
    if not isinstance(socket, str) or not os.path.exists(socket):
        socket = None
    url = str(listening.get("url"))
    if socket is None and not listener_is_ours(url, _read_tcp_table()):
        raise DaemonNotRunning(f"the daemon of {place.root} has gone, and somebody else listens on {url}")
    return Endpoint(url, token or _read_token(place), socket, place)


def home_folder(environment: Mapping[str, str]) -> str:
    """Return which home folder the environment names, or has by default. Raises: UnsafeHome, StoreFailed."""
    return str(Home.from_environment(environment).root)


def listener_is_ours(url: str, table: str | None) -> bool:
    """Tell whether it is no other user who listens at an address of 127.0.0.1, as /proc/net/tcp and tcp6 have it.

    A `daemon.json` that a killed daemon left names a port that any user of the machine may take, and wait for tokens.
    """
    port = urlsplit(url).port
    for row in (table or "").splitlines():
        fields = row.split()
        address, _, number = fields[1].partition(":")
        listens = fields[3] == _LISTENS and address in _ADDRESSES and int(number, 16) == port
        if listens and int(fields[7]) not in (os.geteuid(), 0):
            return False
    return True  # ours, or nobody listens, or nobody can tell


def _read_tcp_table() -> str:
    """Return both tables: a listener at `::` takes connections to 127.0.0.1 as well, and stands in that of IPv6."""
    table = ""
    for path in _TABLES:
        with suppress(OSError), open(path, encoding="ascii") as file:
            table += file.read()
    return table


def _read_json(home: Home) -> dict[str, Any]:
    try:
        value = orjson.loads(home.daemon_json.read_bytes())
    except FileNotFoundError:
        raise DaemonNotRunning(f"no daemon is running for {home.root}") from None
    except (OSError, orjson.JSONDecodeError) as error:
        raise DaemonNotRunning(f"{home.daemon_json} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DaemonNotRunning(f"{home.daemon_json} is not a JSON object")
    return value


def _read_token(home: Home) -> str:
    try:
        return home.token.read_bytes().decode("ascii").strip()
    except OSError as error:
        raise Unauthorized(f"the token in {home.token} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Unauthorized(f"{home.token} holds no token", hint="Remove it and restart the daemon.") from error
