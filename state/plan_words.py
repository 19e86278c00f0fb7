"""A restore plan in words: what comes back, what has to be computed again, and about how long that takes. Pure.

Each phrase has a code and its numbers beside the English text, so that a page can say it in another language.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .manifest import LayerName, Manifest
from .plan import RestorePlan
from .quota import in_words

Code = Literal[
    "refuse", "all", "as-stored", "images-and-text", "images", "text", "settings",
    "kv", "embeddings", "encode", "prefill", "fetch", "lost", "seconds", "seconds-unknown", "assumed",
]  # fmt: skip
_LAYERS: dict[LayerName, str] = {
    "metadata": "what is known of the model",
    "text_context": "the text",
    "tokens": "the token ids",
    "media": "the images",
    "vision_cache": "what the model saw of the images",
    "kv_cache": "the KV cache",
    "config_snapshot": "the settings",
}
_AGAIN = ("media", "vision_cache", "text_context", "config_snapshot")  # nothing makes these again but their own bytes


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of what is said. `values` are what stands in the text: counts, seconds, names of layers, reasons."""

    code: Code
    text: str
    values: dict[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """A plan as one sentence, without a full stop, and the phrases that it was made of."""

    sentence: str
    phrases: tuple[Phrase, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Return the texts of the phrases."""
        return tuple(phrase.text for phrase in self.phrases)


def images_in(manifest: Manifest) -> int:
    """Return how many images and videos a backup holds, as far as it says."""
    media = manifest.layers.get("media")
    return max(len(media) if isinstance(media, list) else 0, len(manifest.media_spans))


def say(plan: RestorePlan, *, images: int = 0, assumed: bool = False) -> Said:
    """Say a plan. `assumed`: the target was taken to be the model that the backup was saved from."""
    phrases = tuple(_phrases(plan, images, assumed))
    return Said(", ".join(phrase.text for phrase in phrases), phrases)


def tell(plan: RestorePlan, *, images: int, exact: bool) -> dict[str, Any]:
    """Return a plan as JSON. It is `exact` when its model was asked; else that is assumed to be the saved one."""
    said = say(plan, images=images, assumed=not exact and plan.mode != "refuse")
    return {
        "backup_id": plan.backup_id,
        "base_id": plan.base_id,
        "mode": plan.mode,
        "exact": exact,
        "sentence": said.sentence,
        "words": list(said.words),
        "phrases": [asdict(phrase) for phrase in said.phrases],
        "images": images,
        "tokens_reused": plan.tokens_reused,
        "tokens_prefill": plan.tokens_prefill,
        "seconds": plan.estimated_s,
        "bytes_read": plan.bytes_read,
        "bytes_fetch": plan.bytes_fetch,
        "layers": {name: {"decision": what, "reason": why} for name, (what, why) in plan.layers.items()},
        "notes": list(plan.notes),
    }


def _phrases(plan: RestorePlan, images: int, assumed: bool) -> Iterator[Phrase]:
    if plan.mode == "refuse":
        why = "; ".join(plan.notes) or _first_reason(plan)
        yield Phrase("refuse", f"nothing of it can be restored: {why}", {"reason": why})
        return
    yield from _what_comes(plan, images)
    yield from _what_is_made_again(plan, images)
    if plan.bytes_fetch:
        text = f"{in_words(plan.bytes_fetch)} are fetched from S3"
        yield Phrase("fetch", text, {"bytes": plan.bytes_fetch})
    yield from _what_is_lost(plan)
    yield _how_long(plan)
    if assumed:
        yield Phrase("assumed", "if the model is the one that it was saved from")


def _what_comes(plan: RestorePlan, images: int) -> Iterator[Phrase]:
    if plan.mode == "full":
        goes_on = "tokens" in plan.layers and plan.tokens_prefill <= 1
        yield Phrase("all", "everything comes back") if goes_on else Phrase("as-stored", "everything comes back")
        return
    pictures = bool(images) and (plan.reuses("media") or plan.reuses("vision_cache"))
    text = plan.reuses("text_context") or plan.reuses("tokens")
    if pictures and text:
        yield Phrase("images-and-text", f"{_count(images, 'image')} and the text come back", {"images": images})
    elif pictures:
        verb = "comes" if images == 1 else "come"
        yield Phrase("images", f"{_count(images, 'image')} {verb} back", {"images": images})
    elif text:
        yield Phrase("text", "the text comes back")
    elif plan.reuses("config_snapshot"):
        yield Phrase("settings", "the settings come back")
    if plan.tokens_reused:
        yield Phrase("kv", f"{_count(plan.tokens_reused, 'token')} are ready at once", {"tokens": plan.tokens_reused})


def _what_is_made_again(plan: RestorePlan, images: int) -> Iterator[Phrase]:
    if images and plan.reuses("media") and not plan.reuses("vision_cache") and plan.mode in ("media", "prefix"):
        verb = "is" if images == 1 else "are"
        yield Phrase("encode", f"{_count(images, 'image')} {verb} looked at again", {"images": images})
    if plan.tokens_prefill > 1:
        text = f"{_count(plan.tokens_prefill, 'token')} are prefilled again"
        yield Phrase("prefill", text, {"tokens": plan.tokens_prefill})


def _what_is_lost(plan: RestorePlan) -> Iterator[Phrase]:
    """Say what was saved and does not come back. What the target has no use for is no loss."""
    for name, (decision, reason) in plan.layers.items():
        if decision == "drop" and name in _AGAIN and "no use" not in reason:
            values: dict[str, int | float | str] = {"layer": name, "reason": reason}
            yield Phrase("lost", f"{_LAYERS[name]} cannot come back ({reason})", values)


def _how_long(plan: RestorePlan) -> Phrase:
    if plan.estimated_s is None:
        return Phrase("seconds-unknown", "how long it takes was never measured here")
    return Phrase("seconds", about(plan.estimated_s), {"seconds": plan.estimated_s})


def about(seconds: float) -> str:
    """Say a duration as a person would: no more exactly than anybody can foretell it."""
    if seconds < 1:
        return "under a second"
    if seconds < 90:
        return f"about {round(seconds) if seconds < 10 else 5 * round(seconds / 5)} s"
    minutes = seconds / 60
    return f"about {round(minutes)} min" if minutes < 90 else f"about {round(minutes / 60)} h"


def _first_reason(plan: RestorePlan) -> str:
    return next((f"{_LAYERS[name]}: {why}" for name, (_, why) in plan.layers.items()), "it holds nothing")


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
