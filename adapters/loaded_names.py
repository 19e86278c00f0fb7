"""The names that loading gives to the tensors of a file: some models are stored under names of older days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..codec.weights import WeightLine
from ..state.errors import UnsupportedState


def loaded_lines(lines: Mapping[str, WeightLine], skeleton: Any) -> dict[str, WeightLine]:
    """Return the lines of a file's tensors under the names that they get in a model.

    Raises: UnsupportedState where loading joins, splits or changes one of them.
    """
    renamings, converters, rename = _library(skeleton)
    expected = skeleton.state_dict()
    found: dict[str, WeightLine] = {}
    for name, line in lines.items():
        renamed, converter = rename(name, renamings, converters, skeleton.base_model_prefix, expected)
        if converter is not None:
            raise UnsupportedState(f"{name} is changed when it is loaded; load the model instead")
        if renamed not in expected and name in expected:
            renamed = name
        if renamed in expected:
            if renamed in found:
                raise UnsupportedState(f"{renamed} is stored under two names")
            found[renamed] = replace(line, name=renamed)
    return found


def _library(skeleton: Any) -> tuple[list[Any], list[Any], Any]:
    """Return the library's rules for a model. They are no public interface: without them names are as stored."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:
        return [], [], lambda name, *_: (name, None)
    rules = get_model_conversion_mapping(skeleton)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return renamings, [rule for rule in rules if isinstance(rule, WeightConverter)], rename_source_key
