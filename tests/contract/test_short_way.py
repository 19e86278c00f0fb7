"""The short way answers as FastAPI does: a query, even an empty choice, sends the same question the long way."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from support.daemon import Daemon
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.daemon.app import on_error
from torpor.daemon.metrics import Metrics
from torpor.daemon.short_way import SHORT, ShortWay
from torpor.state.errors import Conflict
from ulid import ULID

TEXT = {"text_context": {"conversation": [{"role": "user", "content": "hello"}]}}
LONG = {"PUT": "?new_session=false", "GET": "?x=1"}


def raw(backup_id: str) -> bytes:
    return manifest_file.dump(manifest(id=backup_id, session_id="short", layers=TEXT, kv_cache=None))


def test_both_ways_answer_alike(shared_daemon: Daemon) -> None:
    known, other = str(ULID()), str(ULID())
    questions = [
        ("PUT", f"/v1/backups/{known}", raw(known)),
        ("PUT", f"/v1/backups/{known}", raw(known)),
        ("PUT", f"/v1/backups/{known}", raw(other)),
        ("PUT", f"/v1/backups/{known}", b"{"),
        ("PUT", "/v1/backups/..%2f..", raw(known)),
        ("GET", f"/v1/backups/{known}/opened", None),
        ("GET", "/v1/backups/short/opened", None),
        ("GET", f"/v1/backups/{other}/opened", None),
        ("GET", "/v1/backups/%00/opened", None),
        ("HEAD", f"/v1/backups/{known}/opened", None),
        ("POST", f"/v1/backups/{known}", raw(known)),
    ]
    for method, path, body in questions:
        queries = ("", LONG.get(method, "?x=1"))
        answers = [shared_daemon.request(method, path + query, content=body) for query in queries]
        short, long = ((each.status_code, each.content, dict(each.headers)) for each in answers)
        assert short == long, path


class _Asked:
    """An application of one short route, and what is asked of FastAPI itself."""

    def __init__(self, error: Exception | None = None) -> None:
        self.metrics, self.long = Metrics(), 0
        app = FastAPI()
        app.add_exception_handler(Conflict, on_error)

        @app.put("/v1/backups/{backup_id}", status_code=201)
        async def put(backup_id: str, request: Request, new_session: bool = False) -> Response:
            if error is not None:
                raise error
            return Response(backup_id.encode() + await request.body(), 201)

        async def inner(*way: Any) -> None:
            self.long += 1
            await app(*way)

        self.way = ShortWay(app, self.metrics, on_error)
        self.way._app = inner

    def put(self, query: str = "") -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.way, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
                return await client.put(f"/v1/backups/one{query}", content=b" more")

        return asyncio.run(ask())


def test_a_commit_does_not_go_through_fastapi_and_is_counted_by_its_route() -> None:
    asked = _Asked()
    assert asked.put().content == b"one more"
    assert asked.long == 0
    labels = {"route": "/v1/backups/{backup_id}"}
    assert asked.metrics.value("torpor_http_request_seconds_count", labels) == 1
    assert asked.put("?new_session=true").content == b"one more"
    assert asked.long == 1


@pytest.mark.parametrize(("error", "status"), [(Conflict("taken"), 409), (ValueError("a defect"), 500)])
def test_errors_are_answered_and_counted(error: Exception, status: int) -> None:
    asked = _Asked(error)
    answer = asked.put()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert "a defect" not in answer.json()["detail"].removeprefix("a defect of ours")
    assert asked.metrics.value("torpor_http_requests_total", {"method": "PUT", "status": str(status)}) == 1


def test_each_short_route_is_one_of_the_api(shared_daemon: Daemon) -> None:
    paths = shared_daemon.request("GET", "/openapi.json").json()["paths"]
    assert all(method.lower() in paths[path] for method, path in SHORT)
