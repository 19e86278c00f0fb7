"""The inference process of the demonstration. Run by cli/demo.py; prints one JSON object a line."""

from __future__ import annotations

import sys
import time
from typing import Any

import orjson
import torch
from blake3 import blake3

from ..adapters.demo_model import Loaded, load, start_session
from ..adapters.transformers import TransformersSession, TransformersTarget
from ..client import connect
from ..codec.torch_bridge import tensor_leaf
from ..state.errors import TorporError
from ..state.problems import to_problem

SESSION = "demo"
SEED = 20_26


def say(kind: str, **values: Any) -> None:
    """Print one line for the driver."""
    sys.stdout.buffer.write(orjson.dumps({"kind": kind, **values}) + b"\n")
    sys.stdout.buffer.flush()


def _options(session: TransformersSession, tokens: int) -> dict[str, Any]:
    pad = session.tokenizer.pad_token_id if session.tokenizer.pad_token_id is not None else 0
    # A model with random weights may sample a picture's placeholder; one without its picture is an error.
    names = ("image_token_id", "video_token_id")
    placeholders = [i for i in (getattr(session.model.config, name, None) for name in names) if i is not None]
    return {
        "do_sample": True,
        "temperature": 1.0,
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
        "suppress_tokens": placeholders or None,
        "pad_token_id": pad,
    }


def _digest(tensor: torch.Tensor) -> str:
    return blake3(tensor_leaf(tensor, copy=False).data).hexdigest()


def _continue(session: TransformersSession, tokens: int) -> dict[str, Any]:
    """Go on from a point that both runs share, and digest everything that must be equal."""
    out = session.generate(**_options(session, tokens), output_logits=True)
    return {
        "tokens": session.token_ids[0, -tokens:].tolist(),
        "logits": [_digest(step) for step in out.logits],
        "kv": [_digest(t) for layer in session.cache.layers for t in (layer.keys, layer.values)],
        "text": session.tokenizer.decode(session.token_ids[0, -tokens:], skip_special_tokens=True)[:160],
    }


def _begin(model: str | None, tokens: int) -> tuple[Loaded, TransformersSession, float]:
    loaded = load(model)
    torch.manual_seed(SEED)
    session = start_session(loaded)
    started = time.perf_counter()
    session.generate(**_options(session, tokens))
    return loaded, session, time.perf_counter() - started


def reference(model: str | None, tokens: int) -> None:
    """Run without interruption."""
    _, session, _ = _begin(model, tokens)
    session.generate(**_options(session, tokens))
    say("result", **_continue(session, tokens))


def first(model: str | None, tokens: int) -> None:
    """Run, save twice, then generate on until killed."""
    keeper = connect()
    _, session, _ = _begin(model, tokens)
    for name in ("first", "second"):
        started = time.perf_counter()
        handle = keeper.save(SESSION, session)
        backup = handle.wait()
        say(
            name,
            id=backup.id,
            tokens=backup.tokens,
            bytes_total=backup.bytes_total,
            bytes_written=backup.bytes_written,
            save_s=time.perf_counter() - started,
            stall_s=handle.stall_s,
            snapshot=handle.snapshot,
        )
        if name == "first":
            session.generate(**_options(session, tokens))
    while True:
        session.generate(**_options(session, 4))
        say("generating", tokens=session.token_ids.shape[-1])


def second(model: str | None, tokens: int) -> None:
    """Wake the session in a new process and go on."""
    loaded = load(model)
    target = TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)
    with connect() as keeper:
        target.describe()  # reads the weights once; real servers do this when they load the model
        started = time.perf_counter()
        woken = keeper.restore(SESSION, target, require="full")
        restore_s = time.perf_counter() - started
        prefill_s = _prefill_s(woken.session)
        say(
            "restored",
            mode=woken.mode,
            id=woken.backup.id,
            tokens=woken.backup.tokens,
            restore_s=restore_s,
            prefill_s=prefill_s,
            images=len(woken.session.media),
        )
        say("result", **_continue(woken.session, tokens))


@torch.no_grad()  # type: ignore[untyped-decorator]
def _prefill_s(session: TransformersSession) -> float:
    """Measure what the restore avoided: a prefill of the same tokens (in a cache that is thrown away)."""
    inputs = {**session.model_inputs(), "past_key_values": None}
    if session.vision:
        inputs["mm_encoder_outputs"] = dict(session.vision)
    started = time.perf_counter()
    session.model(**inputs)
    return time.perf_counter() - started


def main() -> None:
    """Run one part: `reference`, `first` or `second`."""
    part, model, tokens = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
    try:
        {"reference": reference, "first": first, "second": second}[part](model, tokens)
    except TorporError as error:
        say("error", **to_problem(error))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
