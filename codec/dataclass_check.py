"""What checks a plain dataclass field by field, built of its annotations and run by pydantic's core.

pydantic builds the same (tests/unit/test_dataclass_check.py compares them); but it and what it builds with take 100 ms
of a processor in every process that reads a manifest, and its core takes 22.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic_core import SchemaValidator
from pydantic_core import core_schema as core

_PLAIN: dict[Any, Callable[[], core.CoreSchema]] = {
    str: core.str_schema,
    int: core.int_schema,
    float: core.float_schema,
    bool: core.bool_schema,
}


def validator_of(kind: type[Any]) -> SchemaValidator:
    """Return what makes a dataclass of parsed JSON. Raises: TypeError for an annotation that is not known here."""
    return SchemaValidator(schema_of(kind))


def schema_of(kind: Any) -> core.CoreSchema:
    """Return how values of a type are checked. Raises: as `validator_of`."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any:
        return core.any_schema()
    if kind in _PLAIN:
        return _PLAIN[kind]()
    if is_dataclass(kind):
        return _dataclass(kind)
    if origin is dict:
        return core.dict_schema(schema_of(inside[0]), schema_of(inside[1]))
    if origin is tuple and inside[1:] == (...,):
        return core.tuple_schema([schema_of(inside[0])], variadic_item_index=0)
    if origin is tuple:
        return core.tuple_schema([schema_of(each) for each in inside])
    if origin in (Union, UnionType) and len(inside) == 2 and inside[1] is NoneType:
        return core.nullable_schema(schema_of(inside[0]))
    raise TypeError(f"nobody has said how {kind} is checked")


def _dataclass(kind: Any) -> core.CoreSchema:
    hints, own, is_checked = get_type_hints(kind), fields(kind), hasattr(kind, "__post_init__")
    return core.dataclass_schema(
        kind,
        core.dataclass_args_schema(
            kind.__name__,
            [core.dataclass_field(field.name, _with_default(field, schema_of(hints[field.name]))) for field in own],
            collect_init_only=is_checked,
        ),
        [field.name for field in own],
        post_init=is_checked,
        slots="__slots__" in vars(kind),
        config=core.CoreConfig(title=kind.__name__),
    )


def _with_default(field: Field[Any], schema: core.CoreSchema) -> core.CoreSchema:
    if field.default is not MISSING:
        return core.with_default_schema(schema, default=field.default)
    if field.default_factory is not MISSING:
        return core.with_default_schema(schema, default_factory=field.default_factory)
    return schema
