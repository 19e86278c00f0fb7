"""A manifest is checked by pydantic's core just as pydantic has it checked, and nothing is checked by guessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import TypeAdapter
from torpor.codec.dataclass_check import schema_of
from torpor.state.manifest import Manifest

NOTHING: dict[str, Any] = {
    "metadata": {}, "computed_fields": [], "frozen": False, "kw_only": False, "init": True, "post_init": False,
    "collect_init_only": False, "default_factory_takes_data": False,
}  # fmt: skip


def said(schema: Any) -> Any:
    """Return a schema without what it says by default, and without names that lead back into itself."""
    if isinstance(schema, list):
        return [said(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: said(value) for key, value in schema.items() if key != "ref" and NOTHING.get(key, ...) != value}


def test_it_is_what_pydantic_makes_of_the_same_annotations() -> None:
    assert said(schema_of(Manifest)) == said(TypeAdapter(Manifest).core_schema)


@dataclass
class Odd:
    """Has a field of a type that no manifest has."""

    names: set[str]


@pytest.mark.parametrize("kind", [Odd, str | int, str | int | None, bytes])
def test_a_type_that_nobody_knows_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="nobody has said"):
        schema_of(kind)
