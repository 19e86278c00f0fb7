"""The way back after a switch of models: from which backup a session can go on, and what is taken of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .answer import rest_of
from .conversation import read_talk, settled
from .errors import UnsupportedState
from .manifest import LayerName, Manifest

# Settings of a generation that name token ids, and so belong to one tokenizer.
TOKEN_ID_SETTINGS = frozenset(
    {
        "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
        "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids",
        "sequence_bias", "constraints", "stop_token_ids",
    }
)  # fmt: skip
_OF_BASE: tuple[LayerName, ...] = ("tokens", "vision_cache")


def why_apart(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> str | None:
    """Return why a later text layer does not go on from what an earlier one's ids cover; None when it does."""
    if type(earlier.get("covered")) is not int:
        return "it does not say how far its token ids follow the conversation"
    try:
        before, after = read_talk(earlier), settled(read_talk(later))
    except UnsupportedState as error:
        return error.detail
    covered = before.covered
    if after.messages[:covered] != before.messages[:covered]:
        return "its conversation is another one than the session's by now"
    if (before.tools or []) != (after.tools or []):
        return "the tools are others by now"
    begun, new = before.begun, after.messages[covered:]
    if begun is None or (begun.is_empty and not begun.ended):
        return None
    if new:
        fits = new[0].get("role") == "assistant" and rest_of(new[0], begun) is not None
    else:
        fits = after.begun is not None and not begun.ended and after.begun.text.startswith(begun.text)
    return None if fits else "the answer that was begun in it went on in another way"


def same_media(earlier: Manifest, later: Manifest) -> bool:
    """Tell whether the source images that both have are the same."""
    before, after = (m.layers.get("media") or [] for m in (earlier, later))
    if not isinstance(before, list) or not isinstance(after, list):
        return bool(before == after)
    return all(one == other for one, other in zip(before, after, strict=False))


def with_base(manifest: Manifest, base: Manifest) -> Manifest:
    """Return what is restored: token ids, embeddings and KV cache of an earlier backup, all else of the later one."""
    layers = {name: tree for name, tree in manifest.layers.items() if name not in _OF_BASE}
    layers |= {name: base.layers[name] for name in _OF_BASE if name in base.layers}
    now, then = (m.layers.get("config_snapshot") for m in (manifest, base))
    if isinstance(now, dict) and isinstance(then, dict) and not _is_tagged(now, then):
        kept = {key: value for key, value in now.items() if key not in TOKEN_ID_SETTINGS}
        layers["config_snapshot"] = kept | {key: value for key, value in then.items() if key in TOKEN_ID_SETTINGS}
    return replace(
        manifest,
        layers=layers,
        tokens=base.tokens,
        fingerprint=base.fingerprint,
        kv_cache=base.kv_cache,
        omitted={name: why for name, why in base.omitted.items() if name in ("kv_cache", *_OF_BASE)},
        media_spans=base.media_spans,
    )


def _is_tagged(*trees: Any) -> bool:
    return any(key.startswith("$") for tree in trees for key in tree)
