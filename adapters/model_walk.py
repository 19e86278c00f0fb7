"""A walk over a model that need not be made again, as long as a look at every module says that nothing moved.

The walk reads what each module is and how it is called; the look compares what that depends on (classes, the children
and their names, the names and classes of tensors, hooks), in less than half the time. It is taken at every save, while
the caller waits.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Named = list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk over an ordinary model found, by place; it keeps no part of the model alive."""

    modules: Sequence[weakref.ref[nn.Module]]
    seen: list[object]
    tensors: Sequence[tuple[int, str]]
    rotary: Sequence[tuple[int, str]]

    def again(self) -> tuple[Named, Named] | None:
        """Return the tensors and the rotary modules of now by their names, or None where something moved."""
        modules = [module() for module in self.modules]
        looked = _look(modules)
        if looked is None or looked[0] != self.seen:
            return None
        tensors = looked[1]
        return [(name, tensors[i]) for i, name in self.tensors], [(name, modules[i]) for i, name in self.rotary]


def walk_of(root: nn.Module, tensors: Named, rotary: Named) -> Walk | None:
    """Remember what a walk found; None where a look could not tell that it still holds."""
    modules = list(_below(root))
    looked = _look(modules)
    if looked is None:
        return None
    places, heard = _places(looked[1], tensors), _places(modules, rotary)
    if places is None or heard is None:
        return None
    return Walk([weakref.ref(module) for module in modules], looked[0], places, heard)


def _below(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all below it in the order of the walk; one that is shared as often as it is."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from _below(child)


def _look(modules: Sequence[nn.Module | None]) -> tuple[list[object], list[torch.Tensor | None]] | None:
    """Return what the walk depends on, and the tensors of a state dict, with None in the place of others.

    None where a module is gone, code runs between the layers, or a tensor is quantised.
    """
    seen: list[object] = []
    tensors: list[torch.Tensor | None] = []
    for module in modules:
        if module is None:
            return None
        parts = module.__dict__
        if parts["_forward_hooks"] or parts["_forward_pre_hooks"] or "forward" in parts:
            return None
        seen.append(type(module))
        if children := parts["_modules"]:
            seen += children
            seen += map(id, children.values())  # each of them is looked at itself, so it cannot have been another's
        for own in (parts["_parameters"], parts["_buffers"]):
            if own:
                seen += own
                seen += map(type, own.values())
                tensors += own.values()
        if passing := parts["_non_persistent_buffers_set"]:
            seen.append(frozenset(passing))
            buffers = parts["_buffers"]  # the last ones that were taken
            tensors[len(tensors) - len(buffers) :] = [None if key in passing else buffers[key] for key in buffers]
    return (seen, tensors) if not any(tensor is not None and tensor.is_quantized for tensor in tensors) else None


def _places(all_of: Sequence[Any], named: Named) -> list[tuple[int, str]] | None:
    """Return where some objects lie among all, both in the same order; None where they are not."""
    found, left = list[tuple[int, str]](), iter(named)
    name, wanted = next(left, ("", None))
    for i, each in enumerate(all_of):
        if each is not None and each is wanted:
            found.append((i, name))
            name, wanted = next(left, ("", None))
    return found if len(found) == len(named) else None
