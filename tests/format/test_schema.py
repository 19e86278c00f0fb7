"""The published schemas are generated, say what is written, and refuse what the readers refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import lz4.frame
import orjson
import pytest
from support.daemon import Daemon
from support.manifests import manifest
from support.plain_states import rich_state
from torpor.adapters.plain import PlainSession
from torpor.codec import manifest_file, schema

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "v1"


def validator(name: str) -> Any:
    found = json.loads((ROOT / "docs" / "schema" / name).read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def test_the_published_schemas_are_the_generated_ones() -> None:
    published = {p.name: p.read_text() for p in (ROOT / "docs" / "schema").iterdir()}
    assert published == schema.texts()  # `make schema` writes them


def test_what_is_written_fits_the_schemas(shared_daemon: Daemon, tmp_path: Path) -> None:
    v1, v2 = validator("qwen-state-v1.json"), validator("qwen-state-v2.json")
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("schema", PlainSession(rich_state())).wait(60)
        v2.validate(orjson.loads(keeper.api.manifest(backup.id)))
        keeper.export(backup.id, tmp_path / "f", "v1")
    v1.validate(orjson.loads(lz4.frame.decompress((tmp_path / "f").read_bytes())))
    v2.validate(orjson.loads(manifest_file.dump(manifest())))


@pytest.mark.parametrize("name", ["code-8b", "spec-8b", "bf16-4b", "text-only"])
def test_files_in_the_wild_fit_v1(name: str) -> None:
    document = orjson.loads(lz4.frame.decompress((FIXTURES / f"{name}.qwnbak").read_bytes()))
    validator("qwen-state-v1.json").validate(document)


@pytest.mark.parametrize("name", ["not-object", "other-format", "future-major", "shape-negative", "dtype-object"])
def test_v1_refuses(name: str) -> None:
    document = orjson.loads(lz4.frame.decompress((FIXTURES / f"bad-{name}.qwnbak").read_bytes()))
    assert not validator("qwen-state-v1.json").is_valid(document)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "qwen-state/v3"}, {"id": "../x"}, {"session_id": ""}, {"layers": {"other": {}}}, {"layers": None},
        {"layers": {"metadata": {"$what": 1}}}, {"layers": {"metadata": {"$float": "NaN"}}},
        {"layers": {"vision_cache": {"$tensor": {"shape": [-1], "dtype": "uint8", "kind": "torch"}}}},
        {"layers": {"vision_cache": {"$tensor": {"shape": [1], "dtype": "object", "kind": "torch"}}}},
        {"layers": {"vision_cache": {"$bytes": {"size_bytes": 1, "blocks": [{"digest": "A", "size_bytes": 1}]}}}},
    ],
    ids=str,
)  # fmt: skip
def test_v2_refuses(change: dict[str, Any]) -> None:
    document = orjson.loads(manifest_file.dump(manifest())) | change
    assert not validator("qwen-state-v2.json").is_valid(document)
