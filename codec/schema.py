"""JSON Schema of the two formats, generated from the models that check them.

`python -m torpor.codec.schema FOLDER` writes `qwen-state-v1.json` and `qwen-state-v2.json`. What a schema cannot say
(that sizes follow from shapes, that digests fit) is in docs/FORMAT.md and is checked by the readers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typing_extensions import TypeAliasType

from ..state.ids import BACKUP_PATTERN, DIGEST_PATTERN, SESSION_PATTERN
from ..state.manifest import FORMAT, LAYER_NAMES, MAX_COUNT, Manifest
from ..state.tensors import DTYPE_SIZES, MAX_DIMS
from .v1_read import FORMAT as FORMAT_V1

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_Dtype = Annotated[str, Field(json_schema_extra={"enum": list(DTYPE_SIZES)})]
_SpelledDtype = Annotated[
    str, Field(json_schema_extra={"enum": [*DTYPE_SIZES, *(f"torch.{name}" for name in DTYPE_SIZES)]})
]
_Size = Annotated[int, Field(ge=0, le=MAX_COUNT)]
_Shape = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_DIMS)]
_Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
_PlainKey = Annotated[str, Field(pattern=r"^([^$][\s\S]*)?$")]


_ONE_FORM: Any = {"oneOf": [{"required": ["data"]}, {"required": ["blocks"]}]}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Blob(_Strict):
    """A blob by content: the BLAKE3 digest of its raw bytes, and their count."""

    digest: Annotated[str, Field(pattern=DIGEST_PATTERN)]
    size_bytes: _Size


class Tensor(_Strict):
    """A tensor: raw little-endian bytes in C order, inline or as the joined bytes of blobs."""

    model_config = ConfigDict(json_schema_extra=_ONE_FORM)
    shape: _Shape
    dtype: _Dtype
    kind: Literal["torch", "numpy", "numpy-scalar"]
    data: _Base64 = ""
    blocks: list[Blob] = []


class Bytes(_Strict):
    """Plain bytes, or the UTF-8 of a long text."""

    model_config = ConfigDict(json_schema_extra=_ONE_FORM)
    size_bytes: _Size
    data: _Base64 = ""
    blocks: list[Blob] = []


class TensorTag(_Strict):
    """A tensor."""

    tensor: Tensor = Field(alias="$tensor")


class BytesTag(_Strict):
    """Plain bytes."""

    data: Bytes = Field(alias="$bytes")


class TextTag(_Strict):
    """A text that is too long to lie in the manifest."""

    text: Bytes = Field(alias="$text")


class FloatTag(_Strict):
    """A float that JSON has no number for."""

    value: Literal["nan", "inf", "-inf"] = Field(alias="$float")


class IntTag(_Strict):
    """An integer of more than 64 bits."""

    value: str = Field(alias="$int", pattern="^-?[0-9]{1,4000}$")


class TupleTag(_Strict):
    """A tuple."""

    items: list[Node] = Field(alias="$tuple")


class MapTag(_Strict):
    """A mapping whose keys are not all texts that begin with something else than `$`."""

    pairs: list[tuple[Node, Node]] = Field(alias="$map")


_Scalar = None | bool | int | float | str
_Tag = FloatTag | IntTag | TupleTag | MapTag | TensorTag | BytesTag | TextTag
_PlainObject = Field(json_schema_extra={"additionalProperties": False})  # a key with `$` is a tag or nothing
Node = TypeAliasType("Node", "_Scalar | list[Node] | _Tag | Annotated[dict[_PlainKey, Node], _PlainObject]")


class TensorV1(_Strict):
    """A tensor in v1: each text is base64 of LZ4 frames of its raw bytes (of the raw bytes if not `compressed`)."""

    shape: _Shape
    dtype: _SpelledDtype
    data: _Base64 | list[_Base64]
    compressed: bool
    kind: Literal["torch", "numpy", "numpy-scalar", "bytes"] = "torch"


_NoTensor = Field(json_schema_extra={"not": {"required": ["shape", "dtype", "data", "compressed"]}})
NodeV1 = TypeAliasType("NodeV1", "_Scalar | list[NodeV1] | TensorV1 | Annotated[dict[str, NodeV1], _NoTensor]")


class MetadataV1(BaseModel):
    """What a v1 file says of itself; other keys are kept."""

    model_config = ConfigDict(extra="allow")
    format: Literal["qwen-state/v1"]
    model_name: Any = None
    version: Any = None
    timestamp: Any = Field(None, description="seconds since the epoch, UTC")


class StateV1(BaseModel):
    """The JSON inside the LZ4 frame of a v1 file; further layers are kept under `metadata.other_layers`."""

    model_config = ConfigDict(extra="allow")
    metadata: MetadataV1
    vision_cache: NodeV1 = Field(default_factory=dict)
    text_context: NodeV1 = Field(default_factory=dict)
    config_snapshot: NodeV1 = Field(default_factory=dict)


for _model in (TupleTag, MapTag, StateV1):
    _model.model_rebuild()


def schema_v1() -> dict[str, Any]:
    """Return the schema of a v1 document."""
    return {"$schema": _DIALECT, "$id": "qwen-state-v1.json", **StateV1.model_json_schema(), "title": FORMAT_V1}


def schema_v2() -> dict[str, Any]:
    """Return the schema of a v2 manifest."""
    found = TypeAdapter(Manifest).json_schema()
    tree = TypeAdapter(Node).json_schema(by_alias=True)
    fields = found["properties"]
    names = [name for name in LAYER_NAMES if name != "kv_cache"]
    fields["layers"] = {
        "type": "object",
        "propertyNames": {"enum": names},
        "additionalProperties": {"$ref": "#/$defs/Node"},
    }
    fields["format"] = {"const": FORMAT}
    fields["id"]["pattern"] = BACKUP_PATTERN
    fields["session_id"]["pattern"] = SESSION_PATTERN
    found["required"].append("format")
    _limit_kv(found["$defs"])
    defs = {**found.get("$defs", {}), **tree["$defs"]}
    defs["BlobRef"] = {"$ref": "#/$defs/Blob"}
    return {"$schema": _DIALECT, "$id": "qwen-state-v2.json", **found, "$defs": defs, "title": FORMAT}


def _limit_kv(defs: dict[str, Any]) -> None:
    """Add what the constructors of state/manifest.py check."""
    defs["KVLayout"]["properties"]["dtype"]["enum"] = list(DTYPE_SIZES)
    for name, fields in (
        ("KVLayout", ("batch", "block_tokens")),
        ("KVLayer", ("heads", "key_dim", "value_dim")),
        ("KVCache", ("tokens",)),
    ):
        for field in fields:
            defs[name]["properties"][field]["minimum"] = 1


def texts() -> dict[str, str]:
    """Return the schema files by name, as they stand in docs/schema."""
    made = {"qwen-state-v1.json": schema_v1(), "qwen-state-v2.json": schema_v2()}
    return {name: json.dumps(schema, indent=2, sort_keys=True) + "\n" for name, schema in made.items()}


if __name__ == "__main__":
    for name, text in texts().items():
        (Path(sys.argv[1]) / name).write_text(text, encoding="utf-8")
