"""The weights of a model in memory: digested once, and noticed when they change.

A change is noticed by addresses, by torch's version counters, and (for writes through `.data`, which leave no trace) by
a sample of every tensor. Between processes a digest is remembered for models that were loaded from a folder, under a
key over everything that could tell other weights apart without hashing them: the files' size, mtime, ctime, inode and
device, every tensor's name, dtype, shape and version, and a sample with an element of each row and each column.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import orjson
from blake3 import blake3

from ..client.remembered import Memory
from ..client.transfer import Progress, no_progress
from ..codec.weights import WeightDigests, weight_digests
from ..state.errors import TorporError, UnsupportedState
from .lora import Adapters, adapters_digest, adapters_of, adapters_sample
from .model_contents import Contents, contents_of, ties_of
from .rotary import odd_frequencies
from .shards import identities
from .weight_bytes import Piece, digest_lines, sample

_KEY_VERSION = 1  # of what is remembered between processes
_ADAPTERS_KEPT = 8  # digests of a model's adapters, in this process


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a model's parameters lay at one time, how often each had been changed, and what adapters were active.

    `epoch` counts the changes that left no such trace; `witness` is taken only while the digests are not known yet.
    """

    epoch: int
    places: tuple[object, ...]
    witness: bytes | None = None
    adapters: Adapters = field(default_factory=Adapters)
    adapter_places: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What is known of the weights. A digest that is None is unknown, and the problem beside it says why."""

    digests: WeightDigests | None = None
    adapters: str | None = None
    problem: str | None = None
    adapter_problem: str | None = None
    quantizers: frozenset[str] = frozenset()  # classes that take the place of ordinary layers and parameters
    frequencies: tuple[tuple[str, str], ...] = ()  # rotary ones that the config does not say, and their digests
    over: Over | None = None  # what `adapters` is of, where they are those of now


@dataclass(slots=True)
class _Model:
    """What is known of one model's weights. The lock is held while they are read."""

    lock: threading.Lock
    epoch: int = 0
    places: tuple[object, ...] = ()
    witness: bytes | None = None
    digests: WeightDigests | None = None
    adapters: dict[bytes, tuple[tuple[object, ...], str]] = field(default_factory=dict)


_models: weakref.WeakKeyDictionary[Any, _Model] = weakref.WeakKeyDictionary()
_models_lock = threading.Lock()


def _model(model: Any) -> _Model:
    with _models_lock:
        return _models.setdefault(model, _Model(threading.Lock()))


@dataclass(frozen=True, slots=True)
class Over:
    """What lies over a model's weights at one time: the adapters that are active, and where their tensors are."""

    adapters: Adapters
    places: tuple[object, ...]

    def same(self, other: Over) -> bool:
        """Tell whether nothing was switched or changed between two times."""
        return (self.adapters.configs, self.adapters.problem, self.places) == (
            other.adapters.configs, other.adapters.problem, other.places,
        )  # fmt: skip

    def and_then(self, later: Over) -> Over:
        """Return what a cache was computed under that grew under both."""
        return self if self.same(later) else Over(Adapters(problem="the cache grew under more than one adapter"), ())


def over_weights(model: Any) -> Over:
    """Return what lies over a model's weights now; cheap, and taken whenever a session feeds the model."""
    return _over(model, contents_of(model))


def _over(model: Any, contents: Contents) -> Over:
    adapters = adapters_of(model, contents)
    try:
        return Over(adapters, adapters.places())
    except UnsupportedState as error:
        return Over(Adapters(problem=error.detail), ())


def weights_stamp(model: Any, fed_under: Over | None = None) -> Stamp:
    """Return a model's stamp: cheap, and taken at every save. What cannot be told now is unknown later, too.

    `fed_under` is what lay over the weights when a cache grew; None is what lies there now.
    """
    contents, known = contents_of(model), _model(model)
    over = fed_under or _over(model, contents)
    adapters, adapter_places = over.adapters, over.places
    try:
        if contents.problem is not None:
            raise UnsupportedState(contents.problem)
        witness = sample(contents.sampled()) if known.witness is None else None
        return Stamp(known.epoch, contents.places(), witness, adapters, adapter_places)
    except UnsupportedState:
        return Stamp(known.epoch, (), None, adapters, adapter_places)


def is_known(model: Any) -> bool:
    """Tell whether a model's weights were digested before; they may have changed since."""
    return _model(model).digests is not None


def weights_of(
    model: Any, stamp: Stamp | None = None, memory: Memory | None = None, progress: Progress = no_progress
) -> LoadedWeights:
    """Return the digests of a model's weights and of its active adapters.

    With `stamp`, they are those of the time it was taken, or unknown where something was changed since.
    """
    known = _model(model)
    with known.lock:
        contents = contents_of(model)
        digests, problem = _base_weights(model, known, contents, stamp, memory, progress)
        over = _over(model, contents) if stamp is None else None
        adapters, adapter_problem = _adapters(known, over, stamp)
    config = model.config
    odd = odd_frequencies(contents.rotary, (config, config.get_text_config(), getattr(config, "vision_config", None)))
    return LoadedWeights(digests, adapters, problem, adapter_problem, frozenset(contents.quantizers), tuple(odd), over)


def _base_weights(
    model: Any, known: _Model, contents: Contents, stamp: Stamp | None, memory: Memory | None, progress: Progress
) -> tuple[WeightDigests | None, str | None]:
    if contents.problem is not None:
        return None, contents.problem
    try:
        places, witness = contents.places(), sample(contents.sampled())
        if known.digests is None or (known.places, known.witness) != (places, witness):
            if known.places == places:
                known.epoch += 1  # changed without a trace: stamps from before are of unknown weights
            known.digests = _remembered_or_read(model, contents, memory, progress)
            known.places, known.witness = places, witness
        if stamp is not None and not _is_of(stamp, known, contents.places()):
            return None, "the weights were changed after the state was captured"
    except UnsupportedState as error:
        return None, error.detail
    return known.digests, None


def _is_of(stamp: Stamp, known: _Model, places: tuple[object, ...]) -> bool:
    """Tell whether the weights are those of a stamp: unchanged from it to the end of the digest."""
    same_witness = stamp.witness is None or stamp.witness == known.witness
    return same_witness and stamp.epoch == known.epoch and stamp.places == known.places == places


def _adapters(known: _Model, over: Over | None, stamp: Stamp | None) -> tuple[str | None, str | None]:
    """Digest the adapters that are active, or were at the time of a stamp: those are there still, even if off."""
    found = over.adapters if over is not None else stamp.adapters if stamp is not None else Adapters()
    try:
        places = over.places if over is not None else found.places()
        if stamp is not None and places != stamp.adapter_places:
            return None, "an adapter was changed after the state was captured"
        if not found.parts or found.problem is not None:
            return adapters_digest(found), None
        key = adapters_sample(found)
        if known.adapters.get(key, ((), ""))[0] != places:
            known.adapters[key] = places, adapters_digest(found)
            while len(known.adapters) > _ADAPTERS_KEPT:
                del known.adapters[next(iter(known.adapters))]
        return known.adapters[key][1], None
    except UnsupportedState as error:
        return None, error.detail


def _remembered_or_read(model: Any, contents: Contents, memory: Memory | None, progress: Progress) -> WeightDigests:
    found = contents.pieces()
    key = None if memory is None else _key(model, contents, found)
    if memory is not None and key is not None:
        value = memory.get("digest", key)
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            return WeightDigests(*value)
    digests = weight_digests(digest_lines(found, progress), ties_of(contents.root))
    if memory is not None and key is not None:
        memory.put("digest", key, [digests.language, digests.vision])
    return digests


def _key(model: Any, contents: Contents, found: list[Piece]) -> str | None:
    """Return what the digests of a model in memory are remembered by; None where it is not of a folder of shards."""
    folder = _folder_of(model)
    if contents.opaque or folder is None:
        return None
    try:
        files = identities(folder)
    except TorporError:
        return None
    listing = [
        (name, None if isinstance(value, bytes) else (str(value.dtype), tuple(value.shape), _version(value)))
        for name, value in found
    ]
    witness = sample(found, every_row=True).hex()
    told = orjson.dumps((_KEY_VERSION, files, sorted(listing, key=lambda item: item[0]), witness))
    return f"loaded:{blake3(told).hexdigest()}"


def _version(tensor: Any) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)


def _folder_of(model: Any) -> str | None:
    """Return the local folder that a model was loaded from: as it was named, or the hub's cache of that name."""
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", None) or getattr(model, "name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    if os.path.isdir(name):
        return name
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, "config.json", revision=getattr(config, "_commit_hash", None))
    except HFValidationError:
        return None
    return os.path.dirname(path) if isinstance(path, str) else None
