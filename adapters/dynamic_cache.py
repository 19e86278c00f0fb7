"""KV caches of the transformers library as the SDK's ports: capture, blocks, and back.

Layers hold `keys` and `values` of shape `[batch, head, token, dim]`. Only caches of plain full-attention layers
(DynamicCache and StaticCache) have a block form; what has none is named by `cache_kinds.why_unsupported`. Of a static
cache, whose tensors are as long as it may ever become, only the tokens in it are saved.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy
import torch
from blake3 import blake3
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache, StaticLayer

from ..codec.torch_bridge import byte_view
from ..state.errors import SnapshotLost, UnsupportedState
from ..state.manifest import BLOCK_TOKENS, KVCache, KVLayer, KVLayout
from ..state.tensors import DTYPE_SIZES
from .cache_kinds import why_unsupported
from .cache_watch import plain_class, watch
from .host_memory import fresh_tensors, touch

if TYPE_CHECKING:
    from ..client.capture import FollowedKV, KVView

__all__ = ["DYNAMIC", "STATIC", "CacheSink", "LiveCache", "layout_of", "note_fed", "why_unsupported"]

DYNAMIC, STATIC = "DynamicCache", "StaticCache"

Tensors = list[torch.Tensor]  # K0, V0, K1, V1, …
_Sight = tuple[weakref.ref[torch.Tensor], int | None]  # one of them, and how often it was written to


def layout_of(cache: Any) -> KVLayout:
    """Return the geometry of a supported cache. Raises: UnsupportedState on mixed dtypes or batch sizes."""
    layers, dtypes, batches = [], set(), set()
    for layer in cache.layers:
        batch, heads, _, key_dim = layer.keys.shape
        layers.append(KVLayer(heads, key_dim, layer.values.shape[-1]))
        dtypes |= {layer.keys.dtype, layer.values.dtype}
        batches.add(batch)
    name = str(next(iter(dtypes))).removeprefix("torch.")
    if len(dtypes) != 1 or len(batches) != 1 or name not in DTYPE_SIZES:
        raise UnsupportedState(f"a cache of dtypes {sorted(map(str, dtypes))} and batch sizes {sorted(batches)}")
    return KVLayout(name, batches.pop(), tuple(layers), BLOCK_TOKENS)


def _tensors(cache: Any) -> Tensors:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def _segments(views: Sequence[numpy.ndarray[Any, Any]], start: int, stop: int) -> list[memoryview]:
    """Cut the segments of a block out of byte views `[batch, head, token, bytes]`, in block order."""
    return [
        view[row, head, start:stop].reshape(-1).data
        for view in views
        for row in range(view.shape[0])
        for head in range(view.shape[1])
    ]


def _bytes_of(tensor: torch.Tensor, tokens: slice) -> numpy.ndarray[Any, Any]:
    """View some tokens as bytes on the host; a tensor on the host whose rows are whole is not copied."""
    if not tensor.is_cpu or tensor.stride(-1) != 1:
        tensor, tokens = tensor[:, :, tokens].to("cpu").contiguous(), slice(None)
    view: numpy.ndarray[Any, Any] = tensor.detach().view(torch.uint8).numpy()
    return view[:, :, tokens]


def _copy_bytes(tensor: torch.Tensor, tokens: slice, image: numpy.ndarray[Any, Any], at: int) -> int:
    """Copy some tokens to a place in a block image, in this thread alone; return the place behind them.

    Torch's own threads would wait for busy cores.
    """
    part = _bytes_of(tensor, tokens)
    numpy.copyto(image[at : at + part.size].reshape(part.shape), part)
    return at + part.size


def note_fed(cache: Any, tokens: int) -> None:
    """Note how many tokens a cache was fed, so that it is noticed if some are evicted later (or were already)."""
    if isinstance(cache, Cache) and plain_class(cache) is DynamicCache and _appends_only(cache):
        watch(cache).fed = tokens


def _appends_only(cache: Any) -> bool:
    return all(type(layer) is DynamicLayer for layer in cache.layers)


class LiveCache:
    """A supported transformers cache as a `LiveKV`."""

    def __init__(self, cache: Any) -> None:
        self._cache, self.layout = cache, layout_of(cache)
        self.tokens = int(cache.get_seq_length())
        self.cache_class = plain_class(cache).__name__
        self._appends_only = _appends_only(cache)
        self._device = cache.layers[0].keys.device

    @property
    def cache(self) -> object:
        """Return the live cache object."""
        return self._cache

    @property
    def appends_only(self) -> bool:
        """Whether every layer replaces its tensors instead of writing into them."""
        return self._appends_only

    @property
    def on_host(self) -> bool:
        """Whether the tensors lie in the host's memory."""
        return bool(self._device.type == "cpu")

    def free_bytes(self, host_bytes: int) -> int:
        """Return how much memory is free where the tensors are."""
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0])
        return host_bytes

    def unchanged_tokens(self) -> int:
        """Return how many leading tokens survived since the last mark."""
        return watch(self._cache).unchanged if self._appends_only else 0

    def mark(self) -> None:
        """Watch the cache from its present length on."""
        if self._appends_only:
            found = watch(self._cache)
            found.unchanged = found.fed = self.tokens

    def witnesses(self, first: int, stop: int) -> list[bytes]:
        """Digest the last token of each full block, in the first and the last layer.

        Whatever rewrites tokens rewrites all that come after, and all layers: enough to see it, and it costs little.
        """
        if first >= stop:
            return []
        size, layers = self.layout.block_tokens, [self._cache.layers[0], self._cache.layers[-1]]
        lasts = slice((first + 1) * size - 1, stop * size, size)
        rows = [_bytes_of(t, lasts) for layer in layers for t in (layer.keys, layer.values)]
        by_block = [numpy.ascontiguousarray(numpy.moveaxis(row, 2, 0)) for row in rows]
        return [blake3(b"".join(part[i].data for part in by_block)).digest(length=16) for i in range(stop - first)]

    def copy(self, start: int, stop: int, into: memoryview) -> None:
        """Copy tokens into a block image."""
        image, at = numpy.frombuffer(into, dtype=numpy.uint8), 0
        for tensor in _tensors(self._cache):
            at = _copy_bytes(tensor, slice(start, stop), image, at)

    def hold(self) -> KVView:
        """Keep the present tensors until they are written."""
        return _Held([t.detach() for t in _tensors(self._cache)])

    def follow(self) -> FollowedKV:
        """Have the live tensors copied block by block."""
        follower = _Following(self._cache, self.tokens, self.on_host)
        watch(self._cache).follow(follower)
        return follower


def odd_static_layer(config: Any) -> str | None:
    """Return the class of the first layer that a StaticCache of a model would have beside plain ones, or None."""
    layers = StaticCache(config, max_cache_len=1).layers
    return next((type(layer).__name__ for layer in layers if type(layer) is not StaticLayer), None)


class _Held:
    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        device = tensors[0].device
        # What runs on the GPU now must be through before another thread's stream reads.
        self._ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        on_host = all(t.device.type == "cpu" for t in tensors)
        self._views = [byte_view(t) for t in tensors] if on_host else None

    def block(self, start: int, stop: int) -> Sequence[memoryview]:
        if self._views is not None:
            return _segments(self._views, start, stop)
        if self._ready is not None:
            self._ready.synchronize()
        parts = [byte_view(t[:, :, start:stop].to("cpu").contiguous()) for t in self._tensors]
        return _segments(parts, 0, stop - start)


class _Following:
    """Copies tokens that were in the cache when it was followed first, and holds no tensor for longer than that takes.

    What replaces a tensor holds the same tokens and more. Who is about to change some calls `freeze` first; what nobody
    announced (tensors that were put in by hand) is noticed by the last of the tokens, of which a copy was taken.
    """

    def __init__(self, cache: Any, tokens: int, on_host: bool) -> None:
        self._cache, self._tokens = cache, tokens
        self._frozen: tuple[Tensors, dict[int, _Sight]] | None = None
        # Each copy keeps a tensor for a moment, which the session may have replaced. And one that is in a writer's hand
        # would look put in by hand to it, if another writer had seen a longer one since: so one at a time.
        self._copying = threading.Lock()
        tensors = _tensors(cache)
        self._seen = {i: (weakref.ref(tensor), _version(tensor)) for i, tensor in enumerate(tensors)}
        # A device would have to be waited for.
        self._lasts = [self._last(t).tobytes() for t in tensors] if on_host else []

    def _last(self, tensor: torch.Tensor) -> numpy.ndarray[Any, Any]:
        return _bytes_of(tensor, slice(self._tokens - 1, self._tokens))

    def freeze(self) -> None:
        """Take hold of the tensors as they are."""
        self._frozen = _tensors(self._cache), dict(self._seen)

    def copy(self, start: int, stop: int, into: memoryview, first: int = 0) -> None:
        with self._copying:
            if not self._copied_whole(start, stop, into, first):
                raise SnapshotLost("the live cache was changed from outside before the save had read it")

    def _copied_whole(self, start: int, stop: int, into: memoryview, first: int) -> bool:
        if self._frozen is None:
            whole = self._copied(self._live(first), self._seen, first, start, stop, into)
            if self._frozen is None:
                return whole
        # Frozen before or meanwhile: what was read may be of before and after the change.
        tensors, seen = self._frozen
        return self._copied(iter(tensors[first:]), seen, first, start, stop, into)

    def _live(self, first: int) -> Iterator[torch.Tensor]:
        """Yield the tensors one by one from number `first` on, as they are by then."""
        layers = list(self._cache.layers)
        for i in range(first, 2 * len(layers)):
            yield layers[i // 2].values if i % 2 else layers[i // 2].keys

    def _copied(
        self,
        tensors: Iterator[torch.Tensor],
        seen: dict[int, _Sight],
        first: int,
        start: int,
        stop: int,
        into: memoryview,
    ) -> bool:
        image, at = numpy.frombuffer(into, dtype=numpy.uint8), 0
        for i, tensor in enumerate(tensors, first):
            if at == image.size:
                break
            sight = self._sight_of(i, tensor, seen.get(i))
            if sight is None:
                return False
            seen[i] = sight
            at = _copy_bytes(tensor, slice(start, stop), image, at)
        return at == image.size

    def _sight_of(self, number: int, tensor: torch.Tensor | None, known: _Sight | None) -> _Sight | None:
        """Return what a tensor is known by from now on.

        None where it was written to, or does not end as the one did that was followed.
        """
        if tensor is None or known is None or tensor.shape[-2] < self._tokens:
            return None
        before, version = known[0](), _version(tensor)
        if before is tensor and version is not None:
            return known if known[1] == version else None
        if before is not tensor and tensor.shape[-2] == self._tokens:
            return None  # whoever appends makes it longer
        if self._lasts and self._last(tensor).tobytes() != self._lasts[number]:
            return None
        return weakref.ref(tensor), version


def _version(tensor: torch.Tensor) -> int | None:
    """Return how often a tensor was written to, where torch counts it."""
    return None if tensor.is_inference() else int(tensor._version)


class CacheSink:
    """Fresh host memory for a cache: one tensor for each K and V, filled block by block."""

    def __init__(self, kv: KVCache) -> None:
        dtype, batch = getattr(torch, kv.layout.dtype), kv.layout.batch
        self.tensors: Tensors = []
        for layer in kv.layout.layers:
            shapes = [(batch, layer.heads, kv.tokens, dim) for dim in (layer.key_dim, layer.value_dim)]
            self.tensors.extend(fresh_tensors(shapes, dtype))
        self._views = [byte_view(tensor) for tensor in self.tensors]
        self._cache: DynamicCache | StaticCache | None = None

    def warm_up(self) -> Sequence[Callable[[], None]]:
        """Return one piece of work a layer: to have its pages there before the blocks, all of which write to each."""
        return [partial(touch, self.tensors[i : i + 2]) for i in range(0, len(self.tensors), 2)]

    def put(self, start: int, stop: int, piece: memoryview, first: int = 0) -> None:
        """Scatter the bytes of a block into as many tensors as they fill, from number `first` on."""
        image, at = numpy.frombuffer(piece, dtype=numpy.uint8), 0
        for view in self._views[first:]:
            if at == image.size:
                break
            place = view[:, :, start:stop]
            place[...] = image[at : at + place.size].reshape(place.shape)
            at += place.size

    def cut(self, tokens: int) -> None:
        """Keep the first tokens alone, in memory of their own."""
        if any(t.shape[2] > tokens for t in self.tensors):
            self.tensors = [t[:, :, :tokens].clone(memory_format=torch.contiguous_format) for t in self.tensors]
            self._views = [byte_view(tensor) for tensor in self.tensors]

    def to_cache(self, config: Any, device: Any, static_tokens: int | None = None) -> DynamicCache | StaticCache:
        """Make a cache of the filled tensors, once: a StaticCache of that length if one is given, else a DynamicCache.

        A DynamicCache on the CPU takes the tensors over; otherwise they are copied and let go of, layer by layer.
        """
        if self._cache is None:
            self._views.clear()
            make = self._dynamic if static_tokens is None else partial(self._static, static_tokens)
            self._cache = make(config, device)
        return self._cache

    def _pairs(self, device: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while self.tensors:
            yield self.tensors.pop(0).to(device), self.tensors.pop(0).to(device)

    def _static(self, tokens: int, config: Any, device: Any) -> StaticCache:
        cache = StaticCache(config, max_cache_len=tokens)
        for i, (keys, values) in enumerate(self._pairs(device)):
            if type(cache.layers[i]) is not StaticLayer:
                raise UnsupportedState(f"layer {i} of this model is a {type(cache.layers[i]).__name__}")
            cache.update(keys, values, i)
        return cache

    def _dynamic(self, config: Any, device: Any) -> DynamicCache:
        cache = DynamicCache(config=config)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            cache = DynamicCache()  # a model with windows that was given a whole cache: what was saved was whole
        for i, (keys, values) in enumerate(self._pairs(device)):
            while len(cache.layers) <= i:
                cache.layers.append(DynamicLayer())
            layer = cache.layers[i]
            layer.lazy_initialization(keys, values)  # sets dtype, device and the flag; it copies nothing
            layer.keys, layer.values = keys, values
        return cache
