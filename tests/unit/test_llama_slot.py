"""Slots of llama.cpp: long files laid out after short ones, what is refused, and the model that has our geometry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy
import pytest
from support.llama_stand_in import ROW_BYTES, TENSORS, StandIn, slot_file
from torpor.adapters.demo_model import small_model
from torpor.measure.llama_model import write_gguf
from torpor.measure.llama_slot import FILE, SHORT_TOKENS, Slot
from torpor.measure.slot_file import widened

IDS = numpy.random.default_rng(0).integers(0, 256, 500).tolist()


def longer(short: bytes) -> bytes:
    return b"".join(widened(short, IDS[:SHORT_TOKENS], IDS, TENSORS, ROW_BYTES))


def test_a_long_file_is_what_the_server_writes() -> None:
    assert longer(slot_file(IDS[:SHORT_TOKENS])) == slot_file(IDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda short: short[:-4],
        lambda short: short.replace(numpy.array(IDS[:4], "<i4").tobytes(), b"\xff" * 16),
        lambda short: short.replace(numpy.array([60, 1, 0], "<i4").tobytes(), b"\xff" * 12),
        lambda short: short + b"\0",
        lambda short: b"",
    ],
    ids=["a word less", "other ids", "other cells", "a byte more", "nothing"],
)
def test_a_file_that_is_laid_out_otherwise_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        longer(change(slot_file(IDS[:SHORT_TOKENS])))


def test_a_slot_is_filled_without_a_prefill_and_grows(tmp_path: Path) -> None:
    server = StandIn(0, tmp_path)
    slot = Slot(server, tmp_path, list(IDS))
    slot.fill(TENSORS, ROW_BYTES)
    assert server.computed == [SHORT_TOKENS, 1]
    slot.grow(64)
    assert server.computed[2:] == [64]
    slot.clear()
    slot.save(synced=True)
    assert (tmp_path / FILE).read_bytes() == slot_file(IDS + IDS[:64])
    kv_bytes = len(slot.ids) * TENSORS * ROW_BYTES
    slot.check(kv_bytes)
    with pytest.raises(RuntimeError, match="wrote"):
        slot.check(kv_bytes // 2)
    server.held.clear()
    with pytest.raises(RuntimeError, match="computed 564 tokens again"):
        slot.check(kv_bytes)


@pytest.mark.parametrize("layout", [lambda ids: b"GGSN" + slot_file(ids)[1:], lambda ids: slot_file(ids)[:-7]])
def test_a_server_with_other_files_computes_the_tokens(
    tmp_path: Path, layout: Callable[[list[int]], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    server = StandIn(0, tmp_path, layout)
    Slot(server, tmp_path, list(IDS)).fill(TENSORS, ROW_BYTES)
    assert server.computed == [SHORT_TOKENS, len(IDS) - SHORT_TOKENS]
    assert "it computes the tokens" in "".join(capfd.readouterr())


def test_the_model_has_the_heads_and_layers_of_ours(tmp_path: Path) -> None:
    loaded = small_model()
    write_gguf(loaded, tmp_path / "small.gguf")
    found = gguf.GGUFReader(tmp_path / "small.gguf")
    config = loaded.model.config.get_text_config()
    said = {key: found.get_field(f"qwen3.{key}").contents() for key in ("block_count", "attention.head_count_kv")}
    assert said == {"block_count": config.num_hidden_layers, "attention.head_count_kv": config.num_key_value_heads}
    assert found.get_field("qwen3.attention.key_length").contents() == config.head_dim
    tensors = {tensor.name: tensor for tensor in found.tensors}
    per_layer = {name.split(".", 2)[2] for name in tensors if name.startswith("blk.0.")}
    assert len(per_layer) == 11
    assert len(tensors) == 11 * config.num_hidden_layers + 2 + ("output.weight" in tensors)
    keys = loaded.model.state_dict()["model.language_model.layers.1.self_attn.k_proj.weight"]
    assert (tensors["blk.1.attn_k.weight"].data == keys.half().numpy()).all()
