"""A switch of the model and back: tokens that are taken over, and what the way back costs against starting anew."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torpor.adapters.demo_model import Loaded, other_model, picture, small_model
from torpor.adapters.transformers import Media, TransformersSession, TransformersTarget, start_chat
from torpor.client import Keeper
from torpor.measure.figures import Figure
from torpor.measure.rig import keeper_in, scratch
from torpor.measure.rounds import console
from torpor.measure.settings import Settings

WORDS = 6_000  # bytes of text before the switch: as many tokens, for the vocabulary is of bytes
SHAPE: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
ANSWER: dict[str, Any] = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}


@dataclass(slots=True)
class _Samples:
    there_s: list[float] = field(default_factory=list)
    there_by_hand_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    anew_s: list[float] = field(default_factory=list)
    prefilled: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)


def measure(settings: Settings) -> list[Figure]:
    """Each round asks A, switches to B, asks again, and goes back to A."""
    a, b, samples, rounds = small_model(**SHAPE), other_model(), _Samples(), settings.rounds(5, 2)
    with scratch(settings.folder) as folder, keeper_in(folder) as keeper, console.status("") as status:
        for number in range(-1, rounds):  # the first round is not counted
            status.update(f"switch of the model: round {max(number, 0) + 1} of {rounds}")
            _round(keeper, a, b, f"switch-{number + 1}", samples if number >= 0 else _Samples())
    return list(_figures(samples))


def _round(keeper: Keeper, a: Loaded, b: Loaded, name: str, samples: _Samples) -> None:
    text = f"{name} says: " + "what is seen here, and where, and why? " * (WORDS // 39)
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    session = _started(a, [question], [Media(picture())])
    _answer(session, a)
    keeper.save(name, session).wait()

    took_s, under_b = _timed(lambda: _ready(keeper.restore(name, _target(b)).session))
    samples.there_s.append(took_s)
    samples.there_by_hand_s.append(_timed(lambda: _started(b, session.conversation, session.media))[0])
    under_b.say({"role": "user", "content": "Is that all of it?"})
    _answer(under_b, b)
    keeper.save(name, under_b).wait()

    gc.collect()
    started = time.perf_counter()
    woken = keeper.restore(name, _target(a), require="prefix")
    _ready(woken.session)
    samples.back_s.append(time.perf_counter() - started)
    samples.anew_s.append(_timed(lambda: _started(a, under_b.conversation, under_b.media))[0])
    samples.prefilled.append(float(woken.plan.tokens_prefill))
    samples.tokens.append(float(woken.session.token_ids.shape[-1]))


def _target(loaded: Loaded) -> TransformersTarget:
    return TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)


def _started(loaded: Loaded, conversation: list[Any], media: list[Media]) -> TransformersSession:
    """Render, encode and prefill a conversation from its beginning, as a page does that has lost its session."""
    return _ready(start_chat(loaded.model, loaded.tokenizer, loaded.image_processor, conversation, media=list(media)))


def _ready(session: TransformersSession) -> TransformersSession:
    session.prefill()
    return session


def _answer(session: TransformersSession, loaded: Loaded) -> None:
    pictures = [loaded.model.config.image_token_id, loaded.model.config.video_token_id]
    session.reply(**ANSWER, suppress_tokens=pictures, pad_token_id=0)


def _timed(work: Callable[[], TransformersSession]) -> tuple[float, TransformersSession]:
    gc.collect()
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made


def _figures(samples: _Samples) -> Iterator[Figure]:
    yield Figure(
        "switch", "woken under the other model", "s", samples.there_s, "the same conversation started there by hand",
        samples.there_by_hand_s,
    )  # fmt: skip
    yield Figure("switch", "back under the first", "s", samples.back_s, "started anew there", samples.anew_s)
    yield Figure("switch", "prefilled on the way back", "tokens", samples.prefilled, "all tokens", samples.tokens)
