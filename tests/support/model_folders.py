"""Model folders on disk, and ways to damage them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torpor.adapters.demo_model import Loaded, small_model
from torpor.adapters.model_identity import Identified, describe_model


def save_folder(loaded: Loaded, path: Path, shard: str = "2MB") -> Path:
    """Write a model with its tokenizer and processor, in shards of a size."""
    loaded.model.save_pretrained(path, max_shard_size=shard)
    loaded.tokenizer.save_pretrained(path)
    loaded.image_processor.save_pretrained(path)
    return path


def load_folder(path: Path) -> Loaded:
    """Load a folder as a program would."""
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(path, dtype="auto", local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return Loaded(model, tokenizer, AutoImageProcessor.from_pretrained(path, local_files_only=True))


def describe(loaded: Loaded, **options: Any) -> Identified:
    return describe_model(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor, **options)


def copied(folder: Path, path: Path) -> Path:
    shutil.copytree(folder, path)
    return path


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def flip(path: Path, at: int = -5) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, change: Any) -> None:
    """Let a function change the tensors of a shard."""
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def tied_model(seed: int = 0) -> Loaded:
    loaded = small_model(seed)
    loaded.model.config.tie_word_embeddings = loaded.model.config.text_config.tie_word_embeddings = True
    loaded.model.tie_weights()
    assert loaded.model.lm_head.weight is loaded.model.get_input_embeddings().weight
    return loaded


def same_weights(a: Identified, b: Identified) -> bool:
    """Tell whether the weights of both are known and the same."""
    parts = ("weights", "vision_weights")
    return None not in (a.fingerprint.weights, a.fingerprint.vision_weights) and not a.fingerprint.differing(
        b.fingerprint, parts
    )


def zeros_like(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = torch.zeros_like(tensors[name])
