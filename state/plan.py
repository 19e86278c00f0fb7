"""Decide what of a backup a target may reuse. Pure: no I/O, the same answer every time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from .errors import BadInput, RestoreRefused
from .fingerprint import KV_PARTS, TOKEN_PARTS, VISION_PARTS, Fingerprint
from .manifest import LAYER_NAMES, LayerName, Manifest, manifest_blobs

Decision = Literal["reuse", "rebuild", "drop"]
Mode = Literal["full", "prefix", "embeddings", "media", "text-only", "refuse"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class TargetState:
    """What the restore goes into. `as_stored` is a target that feeds no model and takes `takes` as they are."""

    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    as_stored: bool = False
    takes: tuple[LayerName, ...] = LAYER_NAMES


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What will happen, and why. `bytes_read` counts blobs; `tokens_reused` need no prefill, `tokens_prefill` do."""

    backup_id: str
    mode: Mode
    layers: dict[LayerName, tuple[Decision, str]]
    bytes_read: int
    tokens_reused: int
    tokens_prefill: int
    notes: tuple[str, ...] = ()

    def reuses(self, layer: LayerName) -> bool:
        """Tell whether a layer is taken over as it was saved."""
        return layer in self.layers and self.layers[layer][0] == "reuse"


def check_mode(name: str) -> Mode:
    """Check a mode's name. Raises: BadInput."""
    for mode in MODES:
        if mode == name:
            return mode
    raise BadInput(f"{name[:40]!r} is not a mode", hint=f"Modes, best first: {', '.join(MODES)}.")


def plan_restore(
    manifest: Manifest, target: TargetState, *, require: Mode | None = None, at_most: Mode = "full"
) -> RestorePlan:
    """Decide for each layer whether it is reused, rebuilt or dropped, and which mode that makes.

    Raises: RestoreRefused when the mode is below `require`.
    """
    worst_allowed = MODES.index(at_most)
    layers: dict[LayerName, tuple[Decision, str]] = {}
    for name in manifest.present_layers():
        layers[name] = _decide(name, manifest, target, layers)
        if layers[name][0] == "reuse" and worst_allowed > _NEEDS.get(name, len(MODES)):
            layers[name] = ("drop", f"the caller allows {at_most} at most")
    mode = MODES[max(MODES.index(_mode(manifest, layers)), worst_allowed)]
    if require is not None and MODES.index(mode) > MODES.index(require):
        reasons = "; ".join(f"{name}: {why}" for name, (what, why) in layers.items() if what != "reuse")
        raise RestoreRefused(f"backup {manifest.id} gives {mode}, not {require} ({reasons or 'no such layer saved'})")
    reused = manifest.kv_cache.tokens if manifest.kv_cache and layers["kv_cache"][0] == "reuse" else 0
    wanted = {name for name, (what, _) in layers.items() if what == "reuse"}
    return RestorePlan(
        backup_id=manifest.id,
        mode=mode,
        layers=layers,
        bytes_read=sum(size for size, layer in manifest_blobs(manifest).values() if layer in wanted),
        tokens_reused=reused,
        tokens_prefill=max(manifest.tokens - reused, 0),
    )


# The last mode (by index in MODES) that still makes use of a layer: KV serves full and prefix, and so on.
_NEEDS: dict[LayerName, int] = {
    "kv_cache": MODES.index("prefix"),
    "vision_cache": MODES.index("embeddings"),
    "tokens": MODES.index("embeddings"),
    "media": MODES.index("media"),
}


def _decide(
    name: LayerName, manifest: Manifest, target: TargetState, so_far: dict[LayerName, tuple[Decision, str]]
) -> tuple[Decision, str]:
    if name not in target.takes:
        return "drop", "the target has no use for it"
    if target.as_stored:
        return "reuse", "the target takes layers as they were stored"
    saved, wanted = manifest.fingerprint, target.fingerprint
    if name == "tokens":
        return _decide_tokens(saved, wanted)
    if name == "vision_cache":
        return _decide_vision(saved, wanted)
    if name == "kv_cache":
        if so_far.get("tokens", ("drop", ""))[0] != "reuse":
            return "rebuild", "the token ids behind it cannot be reused"
        return _same(saved, wanted, KV_PARTS, "same weights fingerprint")
    return "reuse", "always restorable"


def _decide_tokens(saved: Fingerprint, wanted: Fingerprint) -> tuple[Decision, str]:
    unknown = saved.key(TOKEN_PARTS) is None and wanted.key(TOKEN_PARTS) is None
    if unknown and saved.key(KV_PARTS) is not None and saved.key(KV_PARTS) == wanted.key(KV_PARTS):
        return "reuse", "no tokenizer was given, but the weights that read the ids are the same"
    return _same(saved, wanted, TOKEN_PARTS, "same tokenizer and chat template")


def _decide_vision(saved: Fingerprint, wanted: Fingerprint) -> tuple[Decision, str]:
    if saved.processor is None and wanted.processor is None and not saved.differing(wanted, ("vision_weights",)):
        return "reuse", "same vision encoder; no processor was given at either end"
    return _same(saved, wanted, VISION_PARTS, "same vision encoder and processor")


def _same(saved: Fingerprint, wanted: Fingerprint, parts: tuple[str, ...], reason: str) -> tuple[Decision, str]:
    differing = saved.differing(wanted, parts)
    if not differing:
        return "reuse", reason
    unknown = [p for p in differing if saved.part(p) is None or wanted.part(p) is None]
    if len(unknown) == len(differing):
        return "rebuild", f"not proven equal: {', '.join(unknown)}"
    return "rebuild", f"differs: {', '.join(p for p in differing if p not in unknown)}"


def _mode(manifest: Manifest, layers: dict[LayerName, tuple[Decision, str]]) -> Mode:
    if not layers:
        return "refuse"
    reused = {name for name, (what, _) in layers.items() if what == "reuse"}
    if reused == set(layers) and not manifest.omitted:
        return "full"
    if "kv_cache" in reused and "tokens" in reused:
        return "full"
    if "vision_cache" in reused and "tokens" in reused:
        return "embeddings"
    if "media" in reused:
        return "media"
    return "text-only"
