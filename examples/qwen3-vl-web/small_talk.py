"""What the small models say: a grammar keeps their random weights to sentences, of which they choose the words."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch
from torpor.adapters.transformers import TransformersSession
from transformers import LogitsProcessor

# Of the options of a place, none begins another.
SENTENCE = (
    ("I see", "There is", "I remember"),
    " a",
    (" small", " large", " quiet", " bright", " pale"),
    (" red", " blue", " green", " grey"),
    (" sail", " lamp", " bird", " boat", " window", " garden"),
    (" above", " beside", " behind", " far from"),
    " the",
    (" old", " other", " sleeping"),
    (" house", " river", " hill", " sea"),
    (".", ", I think."),
)
PLACES = tuple((place,) if isinstance(place, str) else place for place in SENTENCE)
MOST = 2  # sentences


def next_texts(text: str) -> tuple[str, ...]:
    """Return what may come behind the beginning of an answer; an empty text is its end."""
    for sentence in range(MOST):
        for place in PLACES:
            options = [option for option in place if text.startswith(option)]
            if not options:
                return tuple(option[len(text) :] for option in place if option.startswith(text))
            text = text[len(options[0]) :]
        if sentence + 1 < MOST and not text:
            return ("", " ")
        text = text.removeprefix(" ")
    return ("",)


class SmallTalk(LogitsProcessor):
    """Lets a model choose the next letter among those of the grammar.

    The draw depends on the position alone, so that a woken chat goes on with the tokens it would have had.
    """

    def __init__(self, chat: TransformersSession, pace_s: float) -> None:
        assert chat.mark is not None
        self._tokenizer, self._start, self._pace_s = chat.tokenizer, int(chat.mark.answer or 0), pace_s

    def __call__(self, input_ids: Any, scores: Any) -> torch.Tensor:
        """Rule out all other tokens."""
        time.sleep(self._pace_s)
        letters, end = _letters(self._tokenizer), self._tokenizer.eos_token_id
        allowed = [
            letters.get(text[:1], end) for text in next_texts(self._tokenizer.decode(input_ids[0, self._start :]))
        ]
        draw = torch.Generator().manual_seed(input_ids.shape[-1])
        noise = -torch.empty(scores.shape[-1]).exponential_(generator=draw).log()
        kept = torch.full_like(scores, -torch.inf)
        kept[:, allowed] = scores[:, allowed] / 2 + noise[allowed]
        return kept


@cache
def _letters(tokenizer: Any) -> dict[str, int]:
    """Return the tokens of one letter."""
    found = {tokenizer.decode([i]): i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids}
    return {text: i for text, i in found.items() if len(text) == 1 and text.isprintable()}
