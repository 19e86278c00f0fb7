"""A process that wakes a session is waited for: what it imports beside torch and the model is listed here, by name."""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from support.daemon import Daemon, clean_environment
from torpor.adapters.plain import PlainSession
from torpor.adapters.transformers import TransformersSession
from transformers import LlamaConfig, LlamaForCausalLM

THIRD_PARTY = {"blake3", "lz4", "orjson", "platformdirs", "pydantic_core", "torpor", "typing_extensions", "ulid"}
# Of our own: what only TLS, a server, an import, an export or a page needs.
LATE = {"over_httpx", "event_stream", "importing", "exporting", "preview", "attach", "backup_desk", "history", "asgi"}
MODEL = """
torch.manual_seed(0)
shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=2)).eval()
"""
PLAIN = """
import json, sys
before = set()
from torpor.adapters.plain import PlainTarget
from torpor.client import connect
with connect(home={home!r}) as keeper:
    restored = keeper.restore("imports-plain", PlainTarget())
    print(json.dumps([restored.mode, sorted(set(sys.modules) - before)]))
"""
IN_A_MODEL = """
import json, sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
{model}
model.generate(input_ids=torch.ones(1, 3, dtype=torch.int64), max_new_tokens=2)
before = set(sys.modules)
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.client import connect
with connect(home={home!r}) as keeper:
    restored = keeper.restore("imports-model", TransformersTarget(model), require="full")
    restored.session.generate(max_new_tokens=1)
    print(json.dumps([restored.mode, sorted(set(sys.modules) - before)]))
"""


def imported(code: str) -> set[str]:
    """Return what a new process has imported once a session is woken in it, behind what it had before."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/", env=clean_environment()
    )
    mode, names = json.loads(done.stdout.splitlines()[-1])
    assert mode == "full"
    return set(names)


def foreign(names: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in names} - {"__main__", "__mp_main__"}
    return {name for name in tops - set(sys.stdlib_module_names) if not name.startswith(("_", "sitecustomize"))}


def late(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("torpor.") and name.rpartition(".")[2] in LATE}


def test_a_process_that_wakes_a_plain_state(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("imports-plain", PlainSession({"metadata": {"a": "x" * 50_000}})).wait(60)
    names = imported(PLAIN.format(home=str(shared_daemon.home)))
    assert foreign(names) - THIRD_PARTY == set()
    assert late(names) == set()


def test_a_process_that_wakes_a_session_in_a_model(shared_daemon: Daemon) -> None:
    made = {"torch": torch, "LlamaConfig": LlamaConfig, "LlamaForCausalLM": LlamaForCausalLM}
    exec(MODEL, made)
    session = TransformersSession(made["model"], token_ids=torch.arange(1, 41)[None])
    session.generate(max_new_tokens=2, do_sample=False, pad_token_id=0)
    with shared_daemon.keeper() as keeper:
        keeper.save("imports-model", session).wait(60)
    names = imported(IN_A_MODEL.format(model=MODEL, home=str(shared_daemon.home)))
    assert foreign(names) - THIRD_PARTY == set()
    assert late(names) == set()
    assert "pydantic_core" in names  # so that something was seen
