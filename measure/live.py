"""A model that goes on generating while its session is saved: tokens a second with a save every five messages, or none.

Chats of short messages on real weights. Each chat begins with a text that no other one has (a save of it writes all of
its cache, and nothing is found to be there already); the same chat is held once with saves and once without, in turn.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession, start_chat
from ..client import Keeper, SaveHandle
from ..state.errors import MissingExtra
from . import smol
from .figures import Figure
from .rig import keeper_in, scratch
from .rounds import console
from .settings import Settings

MESSAGES_A_SAVE = 5
AT_LEAST = 0.97
QUESTIONS = (
    "And what is it good for?",
    "Give me an example.",
    "Say that in other words.",
    "What comes next?",
    "Why is that so?",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a chat is: its first message and each answer, in tokens; and how often it is saved while it is timed."""

    prompt_tokens: int = 512
    answer_tokens: int = 40
    saves: int = 2


QUICK = Plan(256, 24, 1)


@dataclass(slots=True)
class _Samples:
    saving: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    stall_s: list[float] = field(default_factory=list)


def measure(settings: Settings) -> list[Figure]:
    """Hold chats with and without saving. Raises: MissingExtra, BadInput."""
    loaded = smol.load(settings)
    if loaded.tokenizer.chat_template is None:
        raise MissingExtra("this model has no chat template", hint="Name a model that answers, with --model.")
    with scratch(settings.folder) as folder, keeper_in(folder) as keeper:
        return live_figures(loaded, keeper, settings.rounds(4, 2), QUICK if settings.quick else Plan())


def live_figures(loaded: Loaded, keeper: Keeper, rounds: int, plan: Plan) -> list[Figure]:
    """Hold as many chats; whoever begins changes from round to round. A first short one is not counted."""
    samples = _Samples()
    _hold(loaded, keeper, "live-first", Plan(plan.prompt_tokens // 4, 8, 1), _Samples(), skip=0)
    for number in range(rounds):
        order = itertools.islice(itertools.cycle((True, False)), number % 2, number % 2 + 2)
        for saving in order:
            with console.status(f"live: round {number + 1} of {rounds}, {'with saves' if saving else 'without'}"):
                skip = (number + 1) * plan.prompt_tokens
                _hold(loaded, keeper if saving else None, f"live-{number}", plan, samples, skip=skip)
    return list(_figures(samples))


def _hold(loaded: Loaded, keeper: Keeper | None, name: str, plan: Plan, samples: _Samples, *, skip: int) -> None:
    """Hold one chat. Timed from the first save until the last answer and the end of every save; the prefill is not."""
    session = _started(loaded, plan.prompt_tokens, skip)
    handles: list[SaveHandle] = []
    gc.collect()
    began, generated = time.perf_counter(), 0
    for _ in range(plan.saves):
        if keeper is not None:
            handles.append(keeper.save(name, session))
        for question in QUESTIONS[:MESSAGES_A_SAVE]:
            session.say({"role": "user", "content": question})
            generated += _answer(session, plan.answer_tokens)
    for handle in handles:
        handle.wait()  # long over, else it is part of the cost
    took_s = time.perf_counter() - began
    (samples.plain if keeper is None else samples.saving).append(generated / took_s)
    samples.stall_s += [handle.stall_s for handle in handles]


def _started(loaded: Loaded, tokens: int, skip: int) -> TransformersSession:
    text = loaded.tokenizer.decode(smol.prompt_ids(loaded, tokens, skip)[0])
    conversation = [{"role": "user", "content": f"{text}\n\nWhat is this about?"}]
    session = start_chat(loaded.model, loaded.tokenizer, loaded.image_processor, conversation)
    _answer(session, 2)
    return session


def _answer(session: TransformersSession, tokens: int) -> int:
    session.reply(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return tokens


def _figures(samples: _Samples) -> Iterator[Figure]:
    name = f"generated while saving every {MESSAGES_A_SAVE} messages"
    yield Figure("live", name, "tokens/s", samples.saving, "without saving", samples.plain, at_least_ratio=AT_LEAST)
    yield Figure("live", "caller held by each of these saves", "s", samples.stall_s)
