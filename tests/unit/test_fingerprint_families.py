"""Other families of models: names of older days in files, several ties, weights that loading joins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torpor.adapters.model_folder import describe_folder
from torpor.adapters.model_identity import describe_model

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
SEEING = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}


def made(kind: str, config: str, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options))
    return model.to(dtype).eval()


CASES = {
    "tied": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, "tie_word_embeddings": True}),
    "untied": ("LlamaForCausalLM", "LlamaConfig", SMALL),
    "three ties": ("T5ForConditionalGeneration", "T5Config", {
        "vocab_size": 64, "d_model": 32, "d_ff": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16}),
    "other names": ("GPT2LMHeadModel", "GPT2Config", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}),
    "old names in the files": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLConfig", {
        "text_config": {**SMALL, "num_key_value_heads": 1, "max_window_layers": 1, "rope_parameters": ROPE},
        "vision_config": {**SEEING, "fullatt_block_indexes": [1]}}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_folder_is_what_loading_it_gives(tmp_path: Path, case: str, dtype: torch.dtype) -> None:
    kind, config, options = CASES[case]
    model = made(kind, config, dtype, **options)
    model.save_pretrained(tmp_path)
    loaded = getattr(transformers, kind).from_pretrained(tmp_path, dtype="auto", local_files_only=True)
    if (case, dtype) == ("three ties", torch.float16):  # whose loading widens some tensors
        assert "loaded as torch.float32" in describe_folder(tmp_path).notes["weights"]
        loaded.save_pretrained(tmp_path)
    found = describe_folder(tmp_path)
    assert found.fingerprint.weights is not None
    assert found.fingerprint == describe_model(loaded).fingerprint


def test_experts_that_loading_joins_are_unknown_on_disk(tmp_path: Path) -> None:
    options = {
        **SMALL,
        "moe_intermediate_size": 16,
        "num_key_value_heads": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    model = made("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **options)
    model.save_pretrained(tmp_path)
    found = describe_folder(tmp_path)
    assert found.fingerprint.weights is None
    assert "changed when it is loaded" in found.notes["weights"]
    assert describe_model(model).fingerprint.weights is not None
