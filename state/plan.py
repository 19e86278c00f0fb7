"""Decide what of a backup a target may reuse. Pure: no I/O, the same answer every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from .errors import BadInput, RestoreRefused
from .fingerprint import KV_PARTS, TOKEN_PARTS, VISION_PARTS, Fingerprint
from .kv_limits import DEFAULT_MAX_TOKENS, MISSING, Limit, Room, cut, holds_media, kv_limit
from .manifest import LAYER_NAMES, LayerName, Manifest, layer_blobs
from .rates import NOTHING_MEASURED, Rates, Work

Decision = Literal["reuse", "rebuild", "drop"]
Mode = Literal["full", "prefix", "embeddings", "media", "text-only", "refuse"]
MODES: tuple[Mode, ...] = get_args(Mode)
Decisions = dict[LayerName, tuple[Decision, str]]


@dataclass(frozen=True, slots=True)
class TargetState:
    """What the restore goes into. `as_stored` is a target that feeds no model and takes `takes` as they are.

    `cache_classes` are further classes of KV cache that it can be given; `window_tokens` is how many positions its
    model has; free memory is in bytes, net of what must stay free; `notes` say why a part of the fingerprint is
    unknown; `device` is what rates belong to (None: the one used last).
    """

    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    as_stored: bool = False
    takes: tuple[LayerName, ...] = LAYER_NAMES
    cache_classes: tuple[str, ...] = ()
    window_tokens: int | None = None
    host_free_bytes: int | None = None
    device_free_bytes: int | None = None
    device: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What else decides: the setting, blobs that cannot be had, blobs that must be fetched, and measured rates.

    `reasons` says of blobs that cannot be had where they are and why, if there is more to say.
    """

    max_recoverable_tokens: int = DEFAULT_MAX_TOKENS
    missing: frozenset[str] = field(default_factory=frozenset)
    remote: frozenset[str] = field(default_factory=frozenset)
    rates: Rates = NOTHING_MEASURED
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What will happen, and why.

    `bytes_read` counts blobs, `bytes_fetch` those of them that are not on this machine; `tokens_reused` are positions
    of KV that are taken over, `tokens_prefill` the rest. `estimated_s` is None where a rate was never measured here.
    `base_id` is the ancestor whose token ids and KV cache are used, where that is not the backup itself.
    """

    backup_id: str
    mode: Mode
    layers: Decisions
    bytes_read: int
    tokens_reused: int
    tokens_prefill: int
    bytes_fetch: int = 0
    estimated_s: float | None = None
    notes: tuple[str, ...] = ()
    base_id: str | None = None

    def reuses(self, layer: LayerName) -> bool:
        """Tell whether a layer is taken over as it was saved (of the KV cache: its first `tokens_reused`)."""
        return layer in self.layers and self.layers[layer][0] == "reuse"


def check_mode(name: str) -> Mode:
    """Check a mode's name. Raises: BadInput."""
    for mode in MODES:
        if mode == name:
            return mode
    raise BadInput(f"{name[:40]!r} is not a mode", hint=f"Modes, best first: {', '.join(MODES)}.")


def refused(backup_id: str, reason: str) -> RestorePlan:
    """Return the plan of a backup that cannot be read at all."""
    return RestorePlan(backup_id, "refuse", {}, 0, 0, 0, notes=(reason,))


def plan_restore(
    manifest: Manifest,
    target: TargetState,
    conditions: Conditions | None = None,
    *,
    require: Mode | None = None,
    at_most: Mode = "full",
) -> RestorePlan:
    """Decide for each layer whether it is reused, rebuilt or dropped, and which mode that makes.

    Raises: RestoreRefused when the mode is below `require`.
    """
    known = conditions or Conditions()
    case = _Case(manifest, target, known, MODES.index(at_most))
    layers, limit = case.decide()
    plan = _with_costs(case, _mode(case, layers, limit), layers, limit)
    check_required(plan, require)
    return plan


def check_required(plan: RestorePlan, require: Mode | None) -> None:
    """Make sure that a plan's mode is one that is required, or better. Raises: RestoreRefused."""
    if require is None or MODES.index(plan.mode) <= MODES.index(require):
        return
    reasons = [f"{name}: {why}" for name, (what, why) in plan.layers.items() if what != "reuse" or "cut" in why]
    why = "; ".join([*reasons, *plan.notes]) or "no such layer saved"
    raise RestoreRefused(f"backup {plan.backup_id} gives {plan.mode}, not {require} ({why})")


# The last mode (by index in MODES) that still makes use of a layer: KV serves full and prefix, and so on.
_NEEDS: dict[LayerName, int] = {
    "kv_cache": MODES.index("prefix"),
    "vision_cache": MODES.index("embeddings"),
    "tokens": MODES.index("embeddings"),
    "media": MODES.index("media"),
}


# The parts of a model that give a token id its meaning.
_READERS = ("weights", "text_config")
_NOT: tuple[Decision, str] = ("drop", "it was not saved")


@dataclass(frozen=True, slots=True)
class _Case:
    """One question: a manifest, a target, the conditions, and the best mode allowed (its index in MODES)."""

    manifest: Manifest
    target: TargetState
    conditions: Conditions
    worst: int

    def decide(self) -> tuple[Decisions, Limit]:
        """Return the decision for each layer that was saved, and how much of the KV cache it takes over."""
        found: Decisions = {name: self._plainly(name) for name in self.manifest.present_layers()}
        if self.target.as_stored:
            whole = found.get("kv_cache", _NOT)[0] == "reuse" and self.manifest.kv_cache
            return found, Limit(whole.tokens if whole else 0)
        if found.get("tokens", _NOT)[0] == "reuse":
            found["tokens"] = self._tokens()
        if found.get("vision_cache", _NOT)[0] == "reuse":
            found["vision_cache"] = self._vision()
        limit = self._kv(found)
        if "kv_cache" in found and found["kv_cache"][0] == "reuse":
            found["kv_cache"] = self._kv_decision(limit)
        if self._ids_need_pictures(found, limit):
            found["tokens"] = ("rebuild", "the pictures behind the ids cannot be fed again as they were")
            limit = Limit(0, "the token ids behind it cannot be reused")
            if "kv_cache" in found:
                found["kv_cache"] = ("rebuild", str(limit.reason))
        return found, limit

    def _plainly(self, name: LayerName) -> tuple[Decision, str]:
        """Decide what does not depend on other layers: whether it is wanted, allowed and there."""
        if name not in self.target.takes:
            return "drop", "the target has no use for it"
        if self.worst > _NEEDS.get(name, len(MODES)):
            return "drop", f"the caller allows {MODES[self.worst]} at most"
        lost = self._lost(name)
        if lost:
            what: Decision = "rebuild" if name == "vision_cache" and self._has_pictures() else "drop"
            return what, f"{len(lost)} of its blobs are {self._why(lost)}"
        return "reuse", "the target takes layers as they were stored" if self.target.as_stored else "always restorable"

    def _has_pictures(self) -> bool:
        """Tell whether embeddings can be made again."""
        return self.manifest.layers.get("media") is not None and self._plainly("media")[0] == "reuse"

    def _lost(self, name: LayerName) -> set[str]:
        if name == "kv_cache" or not self.conditions.missing:
            return set()
        return {ref.digest for ref in layer_blobs(self.manifest.layers[name])} & self.conditions.missing

    def _why(self, lost: set[str]) -> str:
        reasons = self.conditions.reasons
        return " or ".join(sorted({reasons.get(digest, MISSING) for digest in lost}))

    def _tokens(self) -> tuple[Decision, str]:
        saved, wanted = self.manifest.fingerprint, self.target.fingerprint
        if not self._vision_agrees() and holds_media(self.manifest):
            why = self._same(VISION_PARTS, "")[1]
            return "rebuild", f"the pictures may take other tokens ({why})"
        no_tokenizer = wanted.key(TOKEN_PARTS) is None and wanted.tokenizer is None
        if no_tokenizer and not saved.differing(wanted, _READERS):
            return "reuse", "the target has no tokenizer, but the weights that read the ids are the same"
        return self._same(TOKEN_PARTS, "same tokenizer and chat template")

    def _vision(self) -> tuple[Decision, str]:
        if self._vision_agrees():
            bare = self.target.fingerprint.processor is None
            return "reuse", f"same vision encoder{'; the target has no processor' if bare else ' and processor'}"
        return self._same(VISION_PARTS, "")

    def _vision_agrees(self) -> bool:
        """Tell whether pictures are seen the same way; a target without a processor cannot see them another way."""
        parts = VISION_PARTS if self.target.fingerprint.processor is not None else VISION_PARTS[:1]
        return not self.manifest.fingerprint.differing(self.target.fingerprint, parts)

    def _kv(self, found: Decisions) -> Limit:
        """Return how much of the KV cache the target may open."""
        if found.get("kv_cache", _NOT)[0] != "reuse":
            return Limit(0, "it is not used")
        if found.get("tokens", _NOT)[0] != "reuse":
            return Limit(0, "the token ids behind it cannot be reused")
        decision, reason = self._same(KV_PARTS, "same weights fingerprint")
        if decision != "reuse":
            return Limit(0, reason)
        target, known = self.target, self.conditions
        room = Room(
            known.max_recoverable_tokens, target.host_free_bytes, target.device_free_bytes, known.missing, known.reasons
        )
        return kv_limit(self.manifest, room)

    def _kv_decision(self, limit: Limit) -> tuple[Decision, str]:
        if limit.tokens == 0:
            return "rebuild", str(limit.reason)
        if limit.reason is None:
            return "reuse", "same weights fingerprint"
        kv = self.manifest.kv_cache
        return "reuse", f"cut at {limit.tokens} of {kv.tokens if kv else 0} tokens: {limit.reason}"

    def _ids_need_pictures(self, found: Decisions, limit: Limit) -> bool:
        """Tell whether placeholders would be prefilled with no embeddings to put there."""
        if found.get("tokens", _NOT)[0] != "reuse" or not holds_media(self.manifest):
            return False
        if found.get("vision_cache", _NOT)[0] == "reuse":
            return False
        spans = self.manifest.media_spans
        return limit.tokens < (spans[-1][1] if spans else self.manifest.tokens - 1)

    def _same(self, parts: tuple[str, ...], reason: str) -> tuple[Decision, str]:
        saved, wanted = self.manifest.fingerprint, self.target.fingerprint
        if saved.cache_class in self.target.cache_classes:
            wanted = replace(wanted, cache_class=saved.cache_class)
        differing = saved.differing(wanted, parts)
        if not differing:
            return "reuse", reason
        unknown = [p for p in differing if saved.part(p) is None or wanted.part(p) is None]
        if len(unknown) < len(differing):
            return "rebuild", f"differs: {', '.join(p for p in differing if p not in unknown)}"
        notes = self.target.notes
        return (
            "rebuild",
            f"not proven equal: {', '.join(p + (f' ({notes[p]})' if p in notes else '') for p in unknown)}",
        )


def _mode(case: _Case, layers: Decisions, limit: Limit) -> Mode:
    """Name what comes back. What `at_most` forbids is dropped already: its name is never given to something less."""
    manifest, best = case.manifest, case.worst == 0
    reused = {name for name, (what, _) in layers.items() if what == "reuse"}
    if MODES[case.worst] == "refuse":
        return "refuse"
    if case.target.as_stored:
        if any(case._lost(name) for name in layers if name in case.target.takes):
            return "refuse"  # a plain state is whole or nothing
        whole = reused == set(layers) and layers and not manifest.omitted
        return MODES[case.worst] if whole else "text-only" if reused else "refuse"
    if limit.tokens and manifest.kv_cache is not None:
        whole = limit == Limit(manifest.kv_cache.tokens) and reused == set(layers)
        return "full" if whole and best else "prefix"
    if best and reused == set(layers) and layers and not manifest.omitted:
        return "full"
    return _lower(manifest, reused)


def _lower(manifest: Manifest, reused: set[LayerName]) -> Mode:
    """Return the mode of a session whose KV cache is not taken over."""
    if "tokens" in reused and ("vision_cache" in reused or not holds_media(manifest)):
        return "embeddings"
    if "media" in reused and manifest.layers.get("media") is not None:
        return "media"
    if "text_context" in reused or ("text_context" not in manifest.layers and reused):
        return "text-only"
    return "refuse"


def _with_costs(case: _Case, mode: Mode, layers: Decisions, limit: Limit) -> RestorePlan:
    manifest, known = case.manifest, case.conditions
    sizes: dict[str, int] = {}
    for name, (what, _) in layers.items():
        if what != "reuse" or mode == "refuse":
            continue
        kv = manifest.kv_cache
        refs = cut(kv, limit.tokens).blocks if name == "kv_cache" and kv else layer_blobs(manifest.layers.get(name))
        sizes.update((ref.digest, ref.size_bytes) for ref in refs)
    fetched = sum(size for digest, size in sizes.items() if digest in known.remote)
    reused = 0 if mode == "refuse" else limit.tokens
    prefill = max(manifest.tokens - reused, 0)
    seen_again = layers.get("vision_cache", _NOT)[0] != "reuse" and mode == "media"
    pictures = sum(stop - start for start, stop in manifest.media_spans if stop > reused) if seen_again else 0
    work = Work(
        read_bytes=sum(sizes.values()), fetch_bytes=fetched, past_tokens=reused, new_tokens=prefill, pictures=pictures
    )
    feeds_model = not case.target.as_stored and mode != "refuse"
    return RestorePlan(
        backup_id=manifest.id,
        mode=mode,
        layers=layers,
        bytes_read=work.read_bytes,
        tokens_reused=reused,
        tokens_prefill=prefill,
        bytes_fetch=fetched,
        estimated_s=known.rates.seconds(work if feeds_model else replace(work, new_tokens=0, pictures=0)),
        notes=_notes(case, limit),
    )


def _notes(case: _Case, limit: Limit) -> tuple[str, ...]:
    manifest, window = case.manifest, case.target.window_tokens
    found = [f"{name} was not saved: {why}" for name, why in manifest.omitted.items()]
    if window is not None and manifest.tokens > window:
        found.append(f"the session has {manifest.tokens} tokens, the model's window {window}")
    kv, free = manifest.kv_cache, case.target.device_free_bytes
    wanted = case.target.fingerprint.cache_class
    if kv is not None and limit.tokens and wanted is not None and manifest.fingerprint.cache_class != wanted:
        found.append(f"saved from a {kv.cache_class}, goes on in a {wanted}: the last bits of what follows may differ")
    if kv is not None and limit.tokens and free is not None and manifest.tokens * kv.layout.token_bytes() > free:
        found.append("the whole context does not fit the device's free memory: prefilling the rest may not end well")
    return tuple(found)
