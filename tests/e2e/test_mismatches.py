"""Every mismatch of model and backup that we could think of, built on purpose: the mode, the reason, no wrong cache.

One session with a picture is saved under one real model. Each row below changes something about the model, the files or
the backup, and says which mode and which words in the reason must come of it. Where a KV cache is taken over, the next
tokens must be those of the session that was never interrupted; where it is not, the woken session must have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.daemon import Daemon
from support.model_folders import load_folder, save_folder, shards
from torpor.adapters.demo_model import Loaded, small_model, start_session
from torpor.adapters.model_folder import describe_folder
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.client import Keeper
from torpor.state.errors import ManifestDamaged
from torpor.state.fingerprint import Fingerprint
from torpor.state.plan import TargetState

SETTINGS: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "suppress_tokens": [260, 261]}


@dataclass
class Subject:
    """What a row changes: a fresh copy of the model that saved the session, and what else a target is made of."""

    folder: Path
    loaded: Loaded = field(default_factory=small_model)
    parts: dict[str, str | None] = field(default_factory=dict)  # parts of the fingerprint that no real model here has
    on_disk: Path | None = None  # a folder that cannot be loaded

    def target(self) -> TransformersTarget:
        target = TransformersTarget(
            self.loaded.model, tokenizer=self.loaded.tokenizer, processor=self.loaded.image_processor
        )
        if not self.parts:
            return target
        described = target.describe
        target.describe = lambda: _replaced(described(), self.parts)  # type: ignore[method-assign]
        return target


def _replaced(state: TargetState, parts: dict[str, str | None]) -> TargetState:
    return replace(state, fingerprint=replace(state.fingerprint, **parts))


Change = Callable[[Subject], None]


def weights(subject: Subject) -> None:
    """Flip one bit of one element of one layer."""
    subject.loaded.model.model.language_model.layers[1].mlp.up_proj.weight.data.view(torch.int16)[3, 5] ^= 1


def vision_weights(subject: Subject) -> None:
    subject.loaded.model.model.visual.blocks[2].mlp.linear_fc1.weight.data.view(torch.int16)[0, 0] ^= 1


def quantization(subject: Subject) -> None:
    subject.loaded.model.config.quantization_config = {"quant_method": "awq", "bits": 4}


def text_config(subject: Subject) -> None:
    subject.loaded.model.config.text_config.rms_norm_eps = 1e-5


def rope_config(subject: Subject) -> None:
    subject.loaded.model.config.text_config.rope_parameters["rope_theta"] = 2e6


def tokenizer(subject: Subject) -> None:
    subject.loaded.tokenizer.add_tokens(["<new>"])


def chat_template(subject: Subject) -> None:
    subject.loaded.tokenizer.chat_template += " "


def processor(subject: Subject) -> None:
    subject.loaded.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 224 * 224}


def part(name: str) -> Change:
    """Return a change of a part that this build of the adapter has only one value of."""

    def change(subject: Subject) -> None:
        subject.parts[name] = "something else"

    return change


def both(*changes: Change) -> Change:
    """Make several changes."""

    def change(subject: Subject) -> None:
        for one in changes:
            one(subject)

    return change


def lora(seed: int, *, on: bool = True) -> Change:
    """Put a LoRA over the model; a seed decides its weights."""

    def change(subject: Subject) -> None:
        from peft import LoraConfig

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
            subject.loaded.model.add_adapter(config, adapter_name=f"lora-{seed}")
        subject.loaded.model.eval()
        if not on:
            subject.loaded.model.disable_adapters()

    return change


def other_weights_same_name(subject: Subject) -> None:
    subject.loaded = small_model(seed=5)
    subject.loaded.model.config._name_or_path = NAME


def renamed(subject: Subject) -> None:
    subject.loaded.model.config._name_or_path = "somebody/else"


def moved(shard: str) -> Change:
    """Write the model elsewhere, in shards of a size, and load it from there."""

    def change(subject: Subject) -> None:
        subject.loaded = load_folder(save_folder(subject.loaded, subject.folder / "moved", shard))

    return change


def unchanged(subject: Subject) -> None:
    pass


def twin(subject: Subject) -> None:
    """Another model of the very same geometry, as Qwen3-VL-4B and -8B have one KV geometry."""
    subject.loaded = small_model(seed=9)


def float32(subject: Subject) -> None:
    subject.loaded.model.float()


def missing_shard(subject: Subject) -> None:
    folder = save_folder(subject.loaded, subject.folder / "short", "2MB")
    shards(folder)[1].unlink()
    subject.on_disk = folder


def unknown(subject: Subject) -> None:
    subject.parts = dict.fromkeys(Fingerprint().to_dict())


NAME = "Qwen/Qwen3-VL-8B-Instruct"


@dataclass(frozen=True)
class Row:
    """A change, the mode that must come of it, words of the reasons for the KV cache (and token ids), what was saved."""

    change: Change
    mode: str
    reason: str | tuple[str, str]
    saved: str = "base"


SAME = "same weights fingerprint"


def behind(reason: str) -> tuple[str, str]:
    """Return the reasons of a cache whose token ids cannot be reused."""
    return "the token ids behind it cannot be reused", reason


ROWS: dict[str, Row] = {
    # Each of the twelve parts alone.
    "weights": Row(weights, "embeddings", "differs: weights"),
    "quantization": Row(quantization, "embeddings", "differs: quantization"),
    "adapters": Row(lora(1), "embeddings", "differs: adapters"),
    "text config": Row(text_config, "embeddings", "differs: text_config"),
    "rope config": Row(rope_config, "embeddings", "differs: rope_config"),
    "KV dtype": Row(part("kv_dtype"), "embeddings", "differs: kv_dtype"),
    "KV layout": Row(part("kv_layout"), "embeddings", "differs: kv_layout"),
    "cache class": Row(part("cache_class"), "embeddings", "differs: cache_class"),
    "vision weights": Row(vision_weights, "media", behind("differs: vision_weights")),
    "processor": Row(processor, "media", behind("differs: processor")),
    "tokenizer": Row(tokenizer, "media", behind("differs: tokenizer")),
    "chat template": Row(chat_template, "media", behind("differs: chat_template")),
    # Twelve pairs.
    "weights + vision weights": Row(both(weights, vision_weights), "media", behind("differs: vision_weights")),
    "weights + tokenizer": Row(both(weights, tokenizer), "media", behind("differs: tokenizer")),
    "weights + processor": Row(both(weights, processor), "media", behind("differs: processor")),
    "weights + chat template": Row(both(weights, chat_template), "media", behind("differs: chat_template")),
    "weights + quantization": Row(both(weights, quantization), "embeddings", "differs: weights, quantization"),
    "adapters + rope config": Row(both(lora(1), rope_config), "embeddings", "differs: adapters, rope_config"),
    "text config + rope config": Row(both(text_config, rope_config), "embeddings", "differs: text_config, rope_config"),
    "KV dtype + layout": Row(both(part("kv_dtype"), part("kv_layout")), "embeddings", "differs: kv_dtype, kv_layout"),
    "vision weights + processor": Row(
        both(vision_weights, processor), "media", behind("differs: vision_weights, processor")
    ),
    "tokenizer + chat template": Row(
        both(tokenizer, chat_template), "media", behind("differs: tokenizer, chat_template")
    ),
    "vision weights + tokenizer": Row(both(vision_weights, tokenizer), "media", behind("differs: vision_weights")),
    "adapters + processor": Row(both(lora(1), processor), "media", behind("differs: processor")),
    # What happens to people.
    "other weights under the same name": Row(other_weights_same_name, "media", behind("differs: vision_weights")),
    "same weights under another name": Row(renamed, "full", SAME),
    "same weights in another folder": Row(moved("1GB"), "full", SAME),
    "same weights in other shards": Row(moved("1MB"), "full", SAME),
    "the twin's model, this cache": Row(twin, "media", behind("differs: vision_weights")),
    "this model, the twin's cache": Row(unchanged, "media", behind("differs: vision_weights"), "twin"),
    "LoRA loaded but off": Row(lora(1, on=False), "full", SAME),
    "LoRA on at the save, now off": Row(lora(1, on=False), "embeddings", "differs: adapters", "lora"),
    "LoRA on at the save, now gone": Row(unchanged, "embeddings", "differs: adapters", "lora"),
    "another LoRA": Row(lora(2), "embeddings", "differs: adapters", "lora"),
    "the same LoRA again": Row(lora(1), "full", SAME, "lora"),
    "model converted to another dtype": Row(float32, "media", behind("differs: vision_weights")),
    "missing shard": Row(missing_shard, "media", behind("not proven equal: vision_weights (")),
    "fingerprint absent": Row(unknown, "media", behind("not proven equal: vision_weights")),
    "older format": Row(unchanged, "text-only", "", "v1"),
    "truncated manifest": Row(unchanged, "refuse", "", "truncated"),
}


def go_on(session: TransformersSession) -> list[int]:
    """Answer with a few tokens, greedily."""
    session.generate(max_new_tokens=6, **SETTINGS)
    ids: list[int] = session.token_ids[0, -6:].tolist()
    return ids


@dataclass
class Saved:
    """A backup, and how its session went on."""

    id: str
    expected: list[int]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("mismatches") / "home") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def saved(home: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Keeper, dict[str, Saved]]]:
    folder, found = tmp_path_factory.mktemp("saved"), {}
    with home.keeper() as keeper:
        for name, change in {"base": unchanged, "twin": twin, "lora": lora(1), "truncated": unchanged}.items():
            subject = Subject(folder)
            change(subject)
            subject.loaded.model.config._name_or_path = NAME
            session = start_session(subject.loaded, prompt_tokens=90)
            session.generate(max_new_tokens=4, **SETTINGS)
            backup = keeper.save(name, session).wait(60)
            found[name] = Saved(backup.id, go_on(session))
        v1 = Path(__file__).parents[1] / "fixtures" / "v1" / "code-8b.qwnbak"
        found["v1"] = Saved(keeper.import_file(v1, "v1").backup.id, [])
        path = home.home / "store" / "manifests" / f"{found['truncated'].id}.qwnbak"
        path.write_bytes(path.read_bytes()[:-40])
        yield keeper, found


def test_the_table_is_complete() -> None:
    assert len(ROWS) == 40


@pytest.mark.parametrize("name", ROWS)
def test_the_right_mode_and_reason_and_no_wrong_cache(
    saved: tuple[Keeper, dict[str, Saved]], name: str, tmp_path: Path
) -> None:
    row, (keeper, backups) = ROWS[name], saved
    source, subject = backups[row.saved], Subject(tmp_path)
    row.change(subject)
    target = subject.target()
    wanted = target.describe()
    if subject.on_disk is not None:
        found = describe_folder(subject.on_disk)
        wanted = TargetState(found.fingerprint, notes=found.notes)
    plan = keeper.plan(source.id, wanted)
    assert plan.mode == row.mode
    reasons = (row.reason,) if isinstance(row.reason, str) else row.reason
    for layer, reason in zip(("kv_cache", "tokens"), reasons, strict=False):
        assert reason in plan.layers.get(layer, ("", ""))[1]  # type: ignore[call-overload]
    if plan.mode == "refuse":
        assert plan.notes
        with pytest.raises(ManifestDamaged):
            keeper.restore(source.id, target)
        return
    if subject.on_disk is not None:
        return
    woken = keeper.restore(source.id, target)
    assert woken.mode == row.mode
    if row.mode == "full":
        assert go_on(woken.session) == source.expected
    else:
        assert woken.session.cache is None
        assert woken.plan.tokens_reused == 0
