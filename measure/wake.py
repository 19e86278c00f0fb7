"""What a wake is worth: from `restore` to the next token, against a prefill of as many; in a process, and with it.

A session of real text is prefilled once, which is also the time that it is compared with. It goes on for a few tokens,
is saved, and goes on without torpor: every wake has to give the same tokens as that.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession, TransformersTarget
from ..client import Keeper
from . import smol
from .figures import Figure
from .free_pages import have_at_hand
from .fresh_process import ANSWER, CHECKED_TOKENS, now_s
from .rig import ends_with_parent, keeper_in, scratch
from .rounds import console, seconds
from .settings import Settings

QUICK, FULL = (1_024, 2_048), (4_096, 8_128)  # the last is the largest that leaves SmolLM2 room to go on
FASTER_AT_LEAST, PROCESS_FASTER_AT_LEAST = 136.0, 10.0
WAKES = 3  # a sample is the median of as many; of the prefill, which takes minutes, there is one
PROCESS_S, PROCESS_BYTES = 900, 1 << 30  # how long it may take, and the memory that it takes, about
PARTS = ("python", "torch and transformers", "weights and tokenizer", "torpor", "connect", "restore", "next token")


@dataclass(slots=True)
class Saved:
    """A saved session: the tokens that it goes on with, and how long its prefill took to the first of them."""

    name: str
    ids: list[int]
    expected: list[int]
    prefill_s: float
    kv_bytes: int


@dataclass(slots=True)
class Process:
    """One run of a program: from exec until its next token, and its parts."""

    took_s: float
    tokens: list[int]
    parts_s: dict[str, float] = field(default_factory=dict)


def measure(settings: Settings) -> list[Figure]:
    """Wake sessions of all sizes, in this process and in new ones. Raises: MissingExtra, BadInput."""
    model = smol.model_folder(settings)
    loaded = smol.load(settings)
    sizes = [min(tokens, smol.window_of(loaded) - 64) for tokens in (QUICK if settings.quick else FULL)]
    figures: list[Figure] = []
    with scratch(settings.folder) as folder, keeper_in(folder) as keeper:
        for tokens in sorted(set(sizes)):
            with console.status(f"wake: {tokens:,} tokens are prefilled"):
                saved = save_one(loaded, keeper, tokens)
            figures += in_process(loaded, keeper, saved)
            figures += in_new_processes(model, folder, saved)
    return figures


def save_one(loaded: Loaded, keeper: Keeper, tokens: int) -> Saved:
    """Prefill, go on for a few tokens, save, and go on without torpor."""
    session = smol.session_of(loaded, smol.prompt_ids(loaded, tokens))
    prefill_s = seconds(lambda: session.generate(**ANSWER))
    _go_on(session, CHECKED_TOKENS - 1)
    name = f"wake-{tokens}"
    kv_bytes = keeper.save(name, session).wait().bytes_total
    ids = session.token_ids[0].tolist()
    return Saved(name, ids, _go_on(session, CHECKED_TOKENS), prefill_s, kv_bytes)


def _go_on(session: TransformersSession, tokens: int) -> list[int]:
    before = session.token_ids.shape[-1]
    session.generate(**{**ANSWER, "max_new_tokens": tokens, "min_new_tokens": tokens})
    found: list[int] = session.token_ids[0, before:].tolist()
    return found


def in_process(loaded: Loaded, keeper: Keeper, saved: Saved) -> list[Figure]:
    """Wake in a process that has the model, as a server does, and has described it once."""
    target = TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)
    target.describe()
    wakes_s, restores_s = [], []
    for number in range(-1, WAKES):  # the first one is not counted
        gc.collect()
        have_at_hand(2 * saved.kv_bytes)
        began = time.perf_counter()
        session = keeper.restore(saved.name, target, require="full").session
        restored = time.perf_counter()
        found = _go_on(session, 1)
        ended = time.perf_counter()
        check_tokens(found + _go_on(session, CHECKED_TOKENS - 1), saved)
        if number >= 0:
            restores_s.append(restored - began)
            wakes_s.append(ended - began)
    name, one = f"wake, {len(saved.ids):,} tokens", [statistics.median(wakes_s)]
    against = "prefill of the same tokens"
    return [
        Figure("wake", name, "s", one, against, [saved.prefill_s], faster_at_least=FASTER_AT_LEAST),
        Figure("wake", f"{name}: the restore alone", "s", restores_s),
    ]


def check_tokens(found: list[int], saved: Saved) -> None:
    """Raise unless a woken session goes on as the one that was saved did."""
    if found != saved.expected:
        raise RuntimeError(f"{saved.name} went on with {found} instead of {saved.expected}")


def in_new_processes(model: Path, folder: Path, saved: Saved) -> list[Figure]:
    """Start programs that wake, and one that prefills; their files are in the page cache."""
    ids_file = folder / f"{saved.name}.json"
    ids_file.write_text(json.dumps(saved.ids))
    woken = []
    for number in range(-1, WAKES):
        with console.status(f"{saved.name}: new process {max(number, 0) + 1} of {WAKES}"):
            process = run_process("wake", model, ids_file, folder / "home", saved.name)
        check_tokens(process.tokens, saved)
        woken += [process] if number >= 0 else []
    with console.status(f"{saved.name}: a new process that prefills"):
        anew = run_process("prefill", model, ids_file)
    return list(_process_figures(f"new process, {len(saved.ids):,} tokens", woken, anew))


def _process_figures(name: str, woken: list[Process], anew: Process) -> Iterator[Figure]:
    took_s = [statistics.median(process.took_s for process in woken)]
    against = "new process that prefills them"
    yield Figure("wake", name, "s", took_s, against, [anew.took_s], faster_at_least=PROCESS_FASTER_AT_LEAST)
    for part in (*PARTS, *(part for part in woken[0].parts_s if part not in PARTS)):
        yield Figure("wake", f"{name}: {part}", "s", [process.parts_s[part] for process in woken])


def run_process(how: str, model: Path, ids_file: Path, *where: object) -> Process:
    """Run the program once. Raises: RuntimeError with what it said."""
    command = [sys.executable, "-m", "torpor.measure.fresh_process", how, str(model), str(ids_file), *map(str, where)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    have_at_hand(PROCESS_BYTES)
    began = now_s()
    ended = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PROCESS_S,
        preexec_fn=ends_with_parent(),
    )
    if ended.returncode:
        raise RuntimeError(f"{how} in a new process failed: {ended.stderr.decode(errors='replace').strip()[-500:]}")
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return Process(told["moments"]["next token"] - began, told["tokens"], _parts(began, told))


def _parts(began: float, told: dict[str, Any]) -> dict[str, float]:
    """Return how long each part took, from the moments at which they were done; parts of the restore by their names."""
    found, before = {}, began
    for name, at in told["moments"].items():
        found[name], before = at - before, at
    return found | {f"restore, of it {name}": took_s for name, took_s in told.get("parts", {}).items()}
