"""A small network as GGUF, whose KV cache is as large as that of the real model."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..adapters.demo_model import Loaded

ARCHITECTURE = "qwen3"
CONTEXT_TOKENS = 1 << 18  # the server cuts what it is asked for to that


def write_gguf(loaded: Loaded, path: Path) -> None:
    """Write the language model of a small Qwen3-VL, its weights as f16. Raises: ModuleNotFoundError without gguf."""
    gguf: Any = import_module("gguf")
    config = loaded.model.config.get_text_config()
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _add_shape(writer, config)
    _add_words(writer, gguf.TokenType.NORMAL, config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, tensor in loaded.model.state_dict().items():
        known = names.get_name(name.replace("model.language_model.", "model."), try_suffixes=(".weight",))
        if known is not None and "visual" not in name:
            writer.add_tensor(known, _array(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: Any, config: Any) -> None:
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _add_words(writer: Any, kind: int, count: int) -> None:
    """Add words that nobody writes: prompts come as ids."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([f"<{number}>" for number in range(count)])
    writer.add_token_types([kind] * count)
    writer.add_token_merges(["< 0"])
    writer.add_eos_token_id(count - 1)


def _array(tensor: torch.Tensor) -> Any:
    return tensor.to(torch.float32 if tensor.ndim == 1 else torch.float16).numpy()
