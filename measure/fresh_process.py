"""A program that starts, loads a model and says its next token: woken by torpor, or by prefilling all of its tokens.

Run as `python -m torpor.measure.fresh_process wake|prefill MODEL IDS [HOME SESSION]`; IDS is a file of ids as JSON.
It prints one JSON object: the next `tokens`, the moments at which each part was done, and how long parts of the wake
took. Moments are of the system's monotonic clock, which whoever started the process can read as well.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLOCK = time.CLOCK_MONOTONIC
ANSWER: dict[str, Any] = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0}
CHECKED_TOKENS = 8


def now_s() -> float:
    """Return the time that all processes of this machine share."""
    return time.clock_gettime(CLOCK)


def main(arguments: list[str]) -> None:
    """Answer once."""
    moments = {"python": now_s()}
    how, model_folder, ids_file, *where = arguments
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

    moments["torch and transformers"] = now_s()
    vision = getattr(AutoConfig.from_pretrained(model_folder), "vision_config", None) is not None
    family = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    model = family.from_pretrained(model_folder, dtype=torch.bfloat16, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    moments["weights and tokenizer"] = now_s()
    ids = torch.tensor([json.loads(Path(ids_file).read_text())])
    if how == "prefill":
        with torch.no_grad():
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **ANSWER)
        moments["next token"] = now_s()
        told: dict[str, Any] = {"tokens": out[0, ids.shape[-1] :].tolist()}
    else:
        told = _woken(model, tokenizer, where, moments)
    print(json.dumps({**told, "moments": moments}), flush=True)


def _woken(model: Any, tokenizer: Any, where: list[str], moments: dict[str, float]) -> dict[str, Any]:
    from ..adapters.transformers import TransformersTarget
    from ..client import connect

    moments["torpor"] = now_s()
    home, session_id = where
    parts: dict[str, float] = {}
    with connect(home=home) as keeper:
        moments["connect"] = now_s()
        target = TransformersTarget(model, tokenizer=tokenizer)
        for name in ("describe", "adopt"):  # as they are called by `restore`
            setattr(target, name, _timed(getattr(target, name), name, parts))
        session = keeper.restore(session_id, target, require="full").session
        moments["restore"] = now_s()
        before = session.token_ids.shape[-1]
        session.generate(**ANSWER)
        moments["next token"] = now_s()
        session.generate(**{**ANSWER, "max_new_tokens": CHECKED_TOKENS - 1, "min_new_tokens": CHECKED_TOKENS - 1})
        return {"tokens": session.token_ids[0, before:].tolist(), "parts": parts}


def _timed(method: Callable[..., Any], name: str, parts: dict[str, float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        began = now_s()
        try:
            return method(*arguments)
        finally:
            parts[name] = parts.get(name, 0.0) + now_s() - began

    return call


if __name__ == "__main__":
    main(sys.argv[1:])
