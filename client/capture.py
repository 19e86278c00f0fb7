"""What an adapter hands to the SDK and takes from it: the ports between an inference engine and a keeper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from ..codec.tree import FromLeaf, ToLeaf
from ..state.backup import Backup
from ..state.block_keys import TokenRow
from ..state.canary import NOT_ASKED, CanaryResult
from ..state.fingerprint import Fingerprint
from ..state.manifest import KVCache, KVLayout, LayerName
from ..state.plan import Mode, RestorePlan, TargetState
from ..state.rates import Observation
from ..state.window import Overflow

S = TypeVar("S", covariant=True)


class KVView(Protocol):
    """A readable KV cache that does not change."""

    def block(self, start: int, stop: int) -> Sequence[memoryview]:
        """Return the segments of tokens `[start, stop)` in block order (codec/kv_blocks.py). Raises: SnapshotLost."""
        ...


class FollowedKV(Protocol):
    """A live KV cache whose tokens are copied as they were when it was followed first, a block at a time."""

    def copy(self, start: int, stop: int, into: memoryview, first: int = 0) -> None:
        """Copy tokens `[start, stop)` of as many tensors as fit a buffer, in block order from number `first` on.

        Raises: SnapshotLost.
        """
        ...


class LiveKV(Protocol):
    """The KV cache of a running session, `tokens` long at the time of the capture."""

    layout: KVLayout
    tokens: int
    cache_class: str

    @property
    def cache(self) -> object:
        """The live cache object itself; blocks are reused unread only for the same object."""
        ...

    @property
    def appends_only(self) -> bool:
        """Whether tokens, once in, are never written again in place, so that holding the tensors is a snapshot."""
        ...

    @property
    def on_host(self) -> bool:
        """Whether the tensors lie in the host's memory, where another thread copies them without waiting."""
        ...

    def free_bytes(self, host_bytes: int) -> int:
        """Return how much memory is free where the tensors are (`host_bytes` of it on the host)."""
        ...

    def unchanged_tokens(self) -> int:
        """Return how many leading tokens are as they were at the last `mark`; 0 if there was none."""
        ...

    def mark(self) -> None:
        """Start to watch the cache: from now on `unchanged_tokens` counts from its present length."""
        ...

    def witnesses(self, first: int, stop: int) -> list[bytes]:
        """Return a small digest of each full block `first` to `stop`, to notice a change that nothing announced."""
        ...

    def copy(self, start: int, stop: int, into: memoryview) -> None:
        """Copy tokens `[start, stop)` into a buffer, in block order."""
        ...

    def hold(self) -> KVView:
        """Return a view that keeps the present tensors alive. Only where `appends_only`."""
        ...

    def follow(self) -> FollowedKV:
        """Have the live tensors copied a block at a time, none of them held. Only where `appends_only`."""
        ...


@dataclass(slots=True)
class Capture:
    """A consistent picture of a session, taken by an adapter in the calling thread.

    `layers` are nested values of JSON, bytes and whatever `to_leaf` takes; they are encoded before `save` returns.
    `fingerprint` is called later, in the background: it may have to read all weights. So is `row`: it reads all media.
    """

    adapter: str
    layers: Mapping[LayerName, Any]
    to_leaf: ToLeaf
    tokens: int = 0
    kv: LiveKV | None = None
    fingerprint: Callable[[], Fingerprint] = Fingerprint
    omitted: dict[str, str] = field(default_factory=dict)
    observations: Sequence[Observation] = ()  # work of the model that was timed
    media_spans: tuple[tuple[int, int], ...] = ()  # positions of image and video placeholders among the token ids
    row: Callable[[], TokenRow | None] = lambda: None  # for the keys of KV blocks; called in the background


class SessionSource(Protocol):
    """Something that can be saved."""

    def capture(self) -> Capture:
        """Take a consistent picture, quickly."""
        ...


class KVSink(Protocol):
    """Memory that a KV cache is read into. Nobody looks at it before every block of it is verified."""

    def warm_up(self) -> Sequence[Callable[[], None]]:
        """Return work that spares `put` some waiting; several threads may share it, and none has to do it."""
        ...

    def put(self, start: int, stop: int, piece: memoryview, first: int = 0) -> None:
        """Take the bytes of tokens `[start, stop)` of some tensors from number `first` on (K0, V0, K1, …).

        They are in block order, whole tensors, and not verified yet: if their block turns out to be damaged, it comes
        again, or the sink is thrown away. Several threads do so at once.
        """
        ...


@dataclass(slots=True)
class Outcome:
    """What a target makes of the layers: how many tokens the context has, and those of pictures to encode; in words.

    `mode` is set where it is another than the plan's. `tokens` is None where the target does not count.
    """

    tokens: int | None = None
    pictures: int = 0
    notes: tuple[str, ...] = ()
    mode: Mode | None = None


@dataclass(slots=True)
class Woken:
    """Verified layers, ready to be handed to a target. `kv` is the filled sink, None when KV is not reused.

    `overflow` is what the caller chose for a context that is too long; the target sets `outcome`.
    """

    plan: RestorePlan
    layers: dict[LayerName, Any]
    tokens: int
    kv_cache: KVCache | None
    kv: KVSink | None
    overflow: Overflow = "refuse"
    outcome: Outcome = field(default_factory=Outcome)


class RestoreTarget(Protocol[S]):
    """Something that a session can be woken in."""

    @property
    def from_leaf(self) -> FromLeaf:
        """How tensors of the small layers come back."""
        ...

    def describe(self) -> TargetState:
        """Tell what the target is. It may have to read all weights."""
        ...

    def allocate(self, kv: KVCache) -> KVSink:
        """Return fresh memory for a KV cache. The target itself is not touched. Raises: UnsupportedState."""
        ...

    def adopt(self, woken: Woken) -> S:
        """Make a live session of verified layers. The first call that may change the target."""
        ...

    def live(self, session: Any) -> LiveKV | None:
        """Return the live cache of an adopted session, so that its next save writes only what is new."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A target that can tell beforehand what `adopt` will make of the small layers."""

    def foresee(self, woken: Woken) -> Outcome:
        """Tell it without touching anything. Raises: ContextTooLong, UnsupportedState."""
        ...


@runtime_checkable
class Familiar(Protocol):
    """A target that can tell whether it is known already, so that describing it takes milliseconds."""

    def is_familiar(self) -> bool:
        """Tell it, at once."""
        ...


@runtime_checkable
class CanaryTarget(Protocol):
    """A target that can run a model, so that it can tell whether a cache is one of this model."""

    def check(self, woken: Woken) -> CanaryResult:
        """Run one token on a woken cache and compare with what was saved. The target stays as it was."""
        ...


@dataclass(frozen=True, slots=True)
class Restored(Generic[S]):
    """What `Keeper.restore` gives back."""

    mode: Mode
    session: S
    backup: Backup
    plan: RestorePlan
    layers: Mapping[LayerName, Any]
    canary: CanaryResult = NOT_ASKED
