"""The OpenAPI document is true: schemathesis makes requests from it and looks at the answers."""

from __future__ import annotations

import asyncio
import copy
import os
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from blake3 import blake3
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support.bucket_daemon import BucketDaemon
from support.manifests import manifest
from torpor.daemon.event_feed import LONGEST_WAIT_S
from torpor.daemon.security import Gate
from torpor.daemon.tokens import Tokens
from torpor.state.errors import error_classes
from torpor.state.ids import parse_digest
from torpor.state.manifest import BlobRef

SOAK = bool(os.environ.get("TORPOR_SOAK"))
EXAMPLES = {GenerationMode.POSITIVE: 100 if SOAK else 2, GenerationMode.NEGATIVE: 100 if SOAK else 1}


def no_defect(ctx: Any, response: Any, case: Any) -> None:
    """A full disk (507) or a bucket that is away (503) may be said of us; what nobody thought of may not."""
    if response.status_code >= 500:
        code = response.json()["code"]
        assert code != "internal", f"{case.operation.label}: {response.text}"
        assert code in error_classes()


CHECKS = [
    no_defect,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
HOST, TOKEN, PAGE = "127.0.0.1:7717", "o" * 43, "https://page.example"
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Host": HOST}


IDS = [f"01M81P35719XNDZ4R57NMV{number:04d}" for number in range(40)]
BLOB = b"a blob that is there"
ENDLESS = (
    "GET /v1/events/stream",
)  # an answer that ends with its reader; tests/unit/test_waiting_for_events.py reads it
KNOWN: dict[str, list[str]] = {"backup_id": IDS, "ref": IDS, "session_id": ["s"], "digest": [blake3(BLOB).hexdigest()]}


def fill(daemon: BucketDaemon) -> None:
    """Save backups that share a blob."""
    path = daemon.catalog.staging.new_path()
    path.write_bytes(BLOB)
    ref = BlobRef(parse_digest(KNOWN["digest"][0]), len(BLOB))
    daemon.catalog.blobs.publish(path, ref, set())
    blocks = [{"digest": ref.digest, "size_bytes": ref.size_bytes}]
    leaf = {"$tensor": {"shape": [len(BLOB)], "dtype": "uint8", "kind": "torch", "blocks": blocks}}
    layers = {"metadata": {}, "text_context": {"messages": []}, "vision_cache": {"v": leaf}}
    daemon.catalog.commit_all([manifest(id=i, kv_cache=None, layers=layers, created_at=1.0) for i in IDS])


def ask(transport: httpx.ASGITransport, method: str, path: str) -> httpx.Response:
    async def asking() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
            return await client.request(method, path, headers=HEADERS)

    return asyncio.run(asking())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The whole application behind its gate, with backups, in this process."""
    folder = tmp_path_factory.mktemp("openapi")
    daemon = BucketDaemon(folder / "home")
    tokens = Tokens(daemon.home.tokens_json, TOKEN, lambda: 1.0)
    gate = Gate(daemon.app(tokens=tokens), tokens=tokens, hosts=frozenset([HOST]))
    fill(daemon)
    yield gate, ask(httpx.ASGITransport(gate), "GET", "/openapi.json").json()
    daemon.close()


def attack(operation: Any, mode: GenerationMode, tmp: Path, answers: Counter[tuple[str, int]]) -> None:
    """Make requests of one kind from an operation's description, and look at every answer."""
    turns = count()

    # What fails is told by schemathesis itself; shrinking it takes time.
    @settings(max_examples=EXAMPLES[mode], phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def asking(case: Any) -> None:
        turn = next(turns)
        if case.path == "/v1/watches" and isinstance(case.body, dict) and isinstance(case.body.get("folder"), str):
            case.body["folder"] = f"{tmp}/no-such-folder/{case.body['folder']}"  # never a folder of this machine
        if isinstance(wait_s := (case.query or {}).get("wait_s"), (int, float)) and 0 < wait_s <= LONGEST_WAIT_S:
            case.query["wait_s"] = 0.01
        if mode is GenerationMode.POSITIVE and turn:  # ids that are, after one that is not
            known = {name: KNOWN[name][turn % len(KNOWN[name])] for name in case.path_parameters or {} if name in KNOWN}
            case.path_parameters = {**(case.path_parameters or {}), **known}
        pages = {"Origin": PAGE} if case.path in ("/v1/pair", "/v1/pair/claim") else {}
        answer = case.call(headers=HEADERS | pages)
        answers[operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    asking()


def operations(api: Any) -> list[Any]:
    gate, document = api
    open_to_all = copy.deepcopy(document)  # every request gets the token: who has none comes nowhere
    for methods in open_to_all["paths"].values():
        for operation in methods.values():
            del operation["security"]
    schema = schemathesis.openapi.from_dict(open_to_all)
    schema.app = gate
    return [found for result in schema.get_all_operations() if (found := result.ok()).label not in ENDLESS]


def can_be_wrong(document: dict[str, Any], operation: Any) -> bool:
    """Tell whether a request can contradict the description at all: every text is right where any text is."""
    described = document["paths"][operation.path][operation.method]
    told = [p["schema"] for p in described.get("parameters", ()) if p["in"] != "header"]
    told += [media["schema"] for media in described.get("requestBody", {}).get("content", {}).values()]
    told = [schema for schema in told if schema.get("format") != "binary"]
    return any(set(schema) - {"title", "description", "type"} for schema in told)


def test_schemathesis_finds_nothing(api: Any, tmp_path: Path) -> None:
    found, answers = [], Counter[tuple[str, int]]()
    for operation in operations(api):
        for mode in (GenerationMode.POSITIVE, *[GenerationMode.NEGATIVE] * can_be_wrong(api[1], operation)):
            try:
                attack(operation, mode, tmp_path, answers)
            except (FailureGroup, AssertionError) as error:
                found.append(f"{operation.label}: {getattr(error, 'exceptions', error)}")
    assert found == []
    well = {operation for operation, status in answers if status < 300}
    assert {
        "GET /v1/backups/{ref}", "GET /v1/backups/{backup_id}/manifest", "GET /v1/blobs/{digest}",
        "PATCH /v1/backups/{backup_id}", "DELETE /v1/backups/{backup_id}", "POST /v1/prefix",
    } <= well  # fmt: skip


def test_the_document_tells_scopes_and_problems(api: Any) -> None:
    document = api[1]
    status = document["paths"]["/v1/status"]["get"]
    assert "Open to: read, save, restore." in status["description"]
    assert status["security"] == [{"bearer": []}]
    assert document["paths"]["/v1/pair"]["post"]["security"] == []
    for methods in document["paths"].values():
        for operation in methods.values():
            assert list(operation["responses"]["401"]["content"]) == ["application/problem+json"]
            assert "default" in operation["responses"]


@pytest.mark.parametrize(
    ("method", "path"), [("TRACE", "/v1/status"), ("DELETE", "/v1/backups"), ("POST", "/v1/status")]
)
def test_a_method_that_a_route_does_not_have(api: Any, method: str, path: str) -> None:
    answer = ask(httpx.ASGITransport(api[0]), method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["code"] == "not-found"


def test_a_defect_tells_nothing_but_its_kind(api: Any) -> None:
    def broken() -> None:
        raise ValueError("a secret")

    api[0]._app.get("/v1/broken")(broken)
    transport = httpx.ASGITransport(api[0], raise_app_exceptions=False)
    answer = ask(transport, "GET", "/v1/broken")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "a defect of ours: ValueError"
    assert "secret" not in answer.text
