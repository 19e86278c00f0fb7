"""What a model is made of: its own tensors by their canonical names, and the adapters that lie over them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

from ..codec.weights import is_vision
from ..state.errors import UnsupportedState
from .model_walk import Walk, walk_of
from .rotary import is_rotary
from .weight_bytes import Piece, is_plain, pieces, whole_or_pieces

# Modules whose state lies in parameters and buffers alone; of others, plain attributes are looked at too.
_ORDINARY = ("torch.nn.", "transformers.", "peft.")
# Where quantisers keep the classes that take the place of Linear.
_QUANTIZERS = (
    "torch.ao.", "torchao.", "bitsandbytes.", "hqq.", "gptqmodel.", "auto_gptq.", "awq.", "quanto.", "optimum.quanto.",
    "eetq.", "aqlm.", "vptq.", "fbgemm_gpu.", "compressed_tensors.", "transformers.integrations.",
)  # fmt: skip
# Whose hooks do not change what a model computes, or are told otherwise (adapters, offloading).
_KNOWN_HOOKS = ("torch.", "transformers.", "accelerate.", "peft.", f"{__name__.partition('.')[0]}.")
_MODULE_FIELDS = frozenset(vars(nn.Module()))


@dataclass(slots=True)
class Contents:
    """The parts of a model.

    `tensors` are parameters and persistent buffers, `values` what modules keep as plain attributes; `opaque` modules
    tell their state only through their state dict.
    """

    tensors: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    values: list[tuple[str, Any]] = field(default_factory=list)
    opaque: list[tuple[str, nn.Module]] = field(default_factory=list)
    tuners: list[tuple[str, Any]] = field(default_factory=list)
    rotary: list[tuple[str, nn.Module]] = field(default_factory=list)
    quantizers: set[str] = field(default_factory=set)
    root: Any = None  # the model without wrappers
    problem: str | None = None  # why the weights cannot be told
    adapter_problem: str | None = None

    def is_ordinary(self) -> bool:
        """Tell whether there is nothing but plain tensors."""
        odd = (self.values, self.opaque, self.tuners, self.quantizers, self.problem, self.adapter_problem)
        return not any(odd)

    def pieces(self) -> list[Piece]:
        """Take everything but the adapters apart. Raises: UnsupportedState."""
        found = self._direct()
        for name, module in self.opaque:
            found += _state_pieces(name, module)
        return found

    def sampled(self) -> list[Piece]:
        """Return the pieces that a sample is taken of: without what only unpacking tells and nobody can write to."""
        found = [piece for name, value in (*self.tensors, *self.values) for piece in whole_or_pieces(name, value)]
        for name, module in self.opaque:
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                found += pieces(f"{name}!extra", module.get_extra_state())
        return found

    def _direct(self) -> list[Piece]:
        return [piece for name, value in (*self.tensors, *self.values) for piece in pieces(name, value)]

    def places(self) -> tuple[object, ...]:
        """Return what lies where and how often it was changed; cheap, and different after most changes."""
        found: list[object] = []
        for name, value in (*self.tensors, *self.values):
            found.append(name)  # two modules may have changed places
            found += places_of(name, value)
        for _, module in self.opaque:
            found += [_Same(value) for key, value in vars(module).items() if key not in _MODULE_FIELDS]
        return tuple(found)


class _Same:
    """An object that equals itself alone, and is kept alive so that no other one can lie where it lay."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._value is self._value

    __hash__ = None  # type: ignore[assignment]


def places_of(name: str, value: Any) -> list[object]:
    """Return address and version of a tensor, or of those that a value is made of; of the rest, what it is."""
    if isinstance(value, torch.Tensor) and (is_plain(value) or value.is_quantized):
        return [value.data_ptr(), 0 if value.is_inference() else value._version]
    found: list[object] = []
    for key, piece in pieces(name, value):
        found += [piece] if isinstance(piece, bytes) else places_of(key, piece)
    return found


def contents_of(model: Any) -> Contents:
    """Walk a model. Names are those without wrappers, so that LoRA, `PeftModel` and `torch.compile` do not matter."""
    found = Contents()
    found.root = _unwrapped(model, found)
    known = _walks.get(found.root)
    again = known.again() if known is not None and found.is_ordinary() else None
    if again is not None:
        found.tensors, found.rotary = again
    else:
        _walk(found.root, "", found)
        _remember(found)
    if found.problem is None and any(tensor.is_meta for _, tensor in found.tensors):
        found.problem = "some of the weights are offloaded"
    return found


_walks: weakref.WeakKeyDictionary[Any, Walk] = weakref.WeakKeyDictionary()


def _remember(found: Contents) -> None:
    walk = walk_of(found.root, found.tensors, found.rotary) if found.is_ordinary() else None
    if walk is not None:
        _walks[found.root] = walk
    else:
        _walks.pop(found.root, None)


def _unwrapped(model: Any, found: Contents) -> Any:
    model = getattr(model, "_orig_mod", model)
    if not hasattr(model, "get_base_model") or not hasattr(model, "peft_config"):
        return model
    base = getattr(model.get_base_model(), "_orig_mod", model.get_base_model())
    inside = {id(parameter) for parameter in base.parameters()}
    if any(id(parameter) not in inside for parameter in model.parameters()):
        found.adapter_problem = "an adapter lies outside the model (prompt learning, a router)"
    return base


def _walk(module: nn.Module, name: str, found: Contents) -> None:
    """Take a module and all below it; of a tuner what it wraps."""
    inside = module._modules
    if "_orig_mod" in inside:
        _walk(inside["_orig_mod"], name, found)
        return
    traits = _traits(type(module))  # type: ignore[arg-type]
    wrapped = (inside.get("base_layer"), inside.get("original_module")) if traits.tuner else ()
    if any(below is not None for below in wrapped):
        found.tuners.append((name, module))
        _walk(next(below for below in wrapped if below is not None), name, found)
        return
    if not traits.plain or module._parameters or module._buffers:
        _take(name, module, traits, found)
    if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
        _notice_code(name, module, found)
    for key, child in inside.items():
        if child is not None:
            _walk(child, f"{name}.{key}" if name else key, found)


@dataclass(frozen=True, slots=True)
class _Traits:
    """What a class of modules says of its state: `ordinary` ones keep it in parameters and buffers alone."""

    tuner: bool
    opaque: bool
    ordinary: bool
    quantizer: str | None

    @property
    def plain(self) -> bool:
        """Whether there is nothing but parameters and buffers to look at."""
        return self.ordinary and not self.opaque and self.quantizer is None


@cache
def _traits(kind: type[nn.Module]) -> _Traits:
    place = f"{kind.__module__}."
    return _Traits(
        # An adapter around another module, by what `peft` gives all of them.
        tuner=isinstance(getattr(kind, "adapter_layer_names", None), tuple),
        opaque=kind._save_to_state_dict is not nn.Module._save_to_state_dict
        or kind.get_extra_state is not nn.Module.get_extra_state,
        ordinary=place.startswith(_ORDINARY) and not place.startswith(_QUANTIZERS),
        quantizer=f"{kind.__module__}.{kind.__qualname__}" if place.startswith(_QUANTIZERS) else None,
    )


def is_special(module: nn.Module) -> bool:
    """Tell whether a module may have state beside parameters and buffers."""
    return not _traits(type(module)).plain  # type: ignore[arg-type]


def _take(name: str, module: nn.Module, traits: _Traits, found: Contents) -> None:
    prefix, passing = f"{name}." if name else "", module._non_persistent_buffers_set
    own = {key: tensor for key, tensor in module._parameters.items() if tensor is not None}
    own |= {key: tensor for key, tensor in module._buffers.items() if tensor is not None and key not in passing}
    found.tensors += [(prefix + key, tensor) for key, tensor in own.items()]
    found.quantizers.update(type(t).__qualname__ for t in own.values() if not is_plain(t))
    if traits.quantizer is not None:
        found.quantizers.add(traits.quantizer)
    if is_rotary(module):
        found.rotary.append((name, module))
    if not traits.ordinary and traits.quantizer is None:  # nobody knows what it computes, but it has a name
        found.values.append((f"{prefix}!class", type(module).__qualname__))
    if traits.opaque:
        found.opaque.append((name, module))
    elif not traits.ordinary:
        _take_attributes(prefix, module, traits.quantizer is not None, not own and not module._modules, found)


def _notice_code(name: str, module: nn.Module, found: Contents) -> None:
    """Notice somebody's code between the layers: hooks, and a `forward` put over the class's own.

    Code that only looks on says so by an attribute `torpor_observes = True`.
    """
    code = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    code += [vars(module)["forward"]] if "forward" in vars(module) else []
    for call in code:
        place = getattr(getattr(call, "func", call), "__module__", None) or type(call).__module__
        if not f"{place}.".startswith(_KNOWN_HOOKS) and getattr(call, "torpor_observes", False) is not True:
            reason = f"code of {place} runs in {name or 'the model'}; what it changes is not known (torpor_observes)"
            if is_vision(name):
                found.problem = found.problem or reason
            else:
                found.adapter_problem = found.adapter_problem or reason


def _take_attributes(prefix: str, module: nn.Module, strict: bool, bare: bool, found: Contents) -> None:
    """Take what a module keeps as plain attributes: all of a quantiser's, the tensors of one that has nothing else."""
    for key, value in vars(module).items():
        if key in _MODULE_FIELDS or not (strict or isinstance(value, torch.ScriptObject | torch.Tensor)):
            continue
        if _is_readable(value):
            if strict or bare:
                found.values.append((prefix + key, value))
        elif not callable(value) or isinstance(value, torch.ScriptObject):
            found.problem = found.problem or f"{prefix}{key} is a {type(value).__qualname__}, which cannot be read"


def _is_readable(value: Any) -> bool:
    try:
        return any(True for _ in pieces("", value))
    except UnsupportedState:
        return False


def _state_pieces(name: str, module: nn.Module) -> list[Piece]:
    """Take apart what a module writes into a state dict beside its own parameters and buffers."""
    state: dict[str, Any] = {}
    module._save_to_state_dict(state, "", True)
    known = {*module._parameters, *module._buffers}
    return [piece for key, value in state.items() if key not in known for piece in pieces(f"{name}.{key}", value)]


def ties_of(root: Any) -> dict[str, str]:
    """Return which tensors of a model may be tied to which, whether its config ties them or not."""
    found: dict[str, str] = {}
    for name, module in root.named_modules():
        ties = getattr(type(module), "_tied_weights_keys", None)
        prefix = f"{name}." if name else ""
        for target, source in ties.items() if isinstance(ties, dict) else ():
            if target.endswith((".weight", ".bias")) and not set(target) & set("*^$()[]|\\?+"):
                found[prefix + target] = prefix + source
    return found | dict(getattr(root, "all_tied_weights_keys", None) or {})
