"""What the wire does not do, by httpx: TLS, answers that are read as they come, bodies that are read from files.

httpx takes longer to import than all else that a waking process asks for, and a process on the daemon's machine mostly
needs none of this: so this module is imported when it is needed (client/api.py). What httpx raises ends here.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from ..state.errors import BadInput
from .discover import Endpoint
from .wire import ADDRESS_HINT, Answer, NoAnswer, NoAnswerInTime, Patience


@contextmanager
def _told() -> Iterator[None]:
    """Say what httpx raises as the wire does. Raises: NoAnswer, BadInput."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise NoAnswerInTime(str(error)) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise BadInput(f"the daemon's URL cannot be used: {error}", hint=ADDRESS_HINT) from error
    except httpx.TransportError as error:
        raise NoAnswer(str(error) or type(error).__name__) from error


def _timeout(patience: Patience) -> httpx.Timeout:
    return httpx.Timeout(patience.answer_s, connect=patience.connect_s)


class Stream:
    """An answer that is read as it comes. Whoever opened it closes it."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status_code, self.is_success = response.status_code, response.is_success

    @property
    def content(self) -> bytes:
        """Read all of it. Raises: NoAnswer."""
        with _told():
            return self._response.read()

    def lines(self) -> Iterator[str]:
        """Yield its lines. Raises: NoAnswer."""
        with _told():
            yield from self._response.iter_lines()

    def break_off(self) -> None:
        """End the reading, from whatever thread."""
        stream = self._response.extensions.get("network_stream")
        if stream is not None:
            with suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it, in the thread that reads it."""
        self._response.close()


class Http:
    """Connections to one daemon, by httpx. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str]) -> None:
        """Take where the daemon is; `headers` go with each question. Raises: BadInput."""
        # Loading the authorities that TLS trusts takes 20 ms, longer than all the rest: only for those who speak it.
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if endpoint.is_plain else True
        transport = httpx.HTTPTransport(verify, uds=endpoint.socket) if endpoint.socket else None
        try:
            self._client = httpx.Client(
                base_url="http://localhost" if endpoint.socket else endpoint.url,
                headers=dict(headers),
                verify=verify,
                transport=transport,
                trust_env=False,
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise BadInput(f"the daemon's URL or token cannot be used: {error}", hint=ADDRESS_HINT) from error

    def ask(self, method: str, target: str, body: Any, headers: Mapping[str, str], patience: Patience) -> Answer:
        """Ask, and return the whole answer. Raises: NoAnswer, BadInput, RuntimeError once it is closed."""
        with _told():
            answer = self._client.request(
                method, target, content=body, headers=dict(headers), timeout=_timeout(patience)
            )
        return Answer(answer.status_code, answer.headers, answer.content)

    def open(self, path: str, params: Mapping[str, Any], patience: Patience, silence_s: float) -> Stream:
        """Get an answer that is read as it comes; silence for so many seconds breaks it off. Raises: as `ask`."""
        with _told():
            request = self._client.build_request("GET", path, params=dict(params), timeout=_timeout(patience))
            answer = self._client.send(request, stream=True)
            request.extensions["timeout"]["read"] = silence_s  # httpx asks it again for what comes behind the head
        return Stream(answer)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
