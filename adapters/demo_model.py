"""The model of the demonstration: a small real Qwen3-VL built from a config with a fixed seed, or real weights."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from ..state.errors import BadInput
from .demo_templates import CHATML, TAGS
from .transformers import Media, TransformersSession, start_chat

SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
OTHER_SPECIAL = [
    "[img]",
    "[/img]",
    "[patch]",
    "[film]",
    "[start]",
    "[/turn]",
    "[user]",
    "[model]",
    "[tool]",
    "[system]",
]
QUESTION = "What does the picture show? Look at every corner, and say what you see and where. "


@dataclass(slots=True)
class Loaded:
    """A model with what prepares its inputs; `image_processor` is None where the model reads text only."""

    model: Any
    tokenizer: Any
    image_processor: Any


def byte_tokenizer(
    special: Sequence[str] = SPECIAL, template: str = CHATML, end: str = "<|im_end|>", merges: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer: every text has ids, and they decode to it. `merges` are pairs of letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=bool(merges))
    vocabulary = {token: i for i, token in enumerate([*alphabet, *merges])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(pair[0], pair[1]) for pair in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, pad_token=end, eos_token=end)


def small_model(seed: int = 0, dtype: torch.dtype = torch.bfloat16, **text: Any) -> Loaded:
    """Build a Qwen3-VL of about 3 million parameters. The seed decides its weights; `text` overrides its config."""
    tokenizer = byte_tokenizer()
    text = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]},
        **text,
    }
    vision = {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "patch_size": 14,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    processor = Qwen2VLImageProcessorPil(patch_size=14, min_pixels=28 * 28, max_pixels=224 * 224)
    model = _build(tokenizer, [*SPECIAL[4:], *SPECIAL[2:4]], text, vision, (seed, dtype))
    return Loaded(model, tokenizer, processor)


def other_model(seed: int = 1, dtype: torch.dtype = torch.bfloat16, **text: Any) -> Loaded:
    """Build another Qwen3-VL: other sizes, vision tower, vocabulary, special tokens, chat template and processor."""
    tokenizer = byte_tokenizer(OTHER_SPECIAL, TAGS, "[/turn]", ("th", "he", "in", "er", "an", "re", "on", "at"))
    text = {
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "mrope_section": [8, 12, 12]},
        **text,
    }
    vision = {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 160,
        "patch_size": 16,
        "deepstack_visual_indexes": [0, 2],
    }
    processor = Qwen2VLImageProcessorPil(patch_size=16, min_pixels=32 * 32, max_pixels=128 * 128)
    model = _build(tokenizer, ("[patch]", "[film]", "[img]", "[/img]"), text, vision, (seed, dtype))
    return Loaded(model, tokenizer, processor)


def _build(
    tokenizer: Any,
    places: Sequence[str],
    text: dict[str, Any],
    vision: dict[str, Any],
    made: tuple[int, torch.dtype],
) -> Any:
    """Build a model for a tokenizer: `places` are its image, video, start and end; `made` the seed and the dtype."""
    image, video, start, end = tokenizer.convert_tokens_to_ids(list(places))
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 16) * 16,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 32_768,
            "initializer_range": 0.12,  # the usual 0.02 leaves a random model repeating one token
            **text,
        },
        vision_config={
            "num_heads": 2,
            "out_hidden_size": text["hidden_size"],
            "num_position_embeddings": 256,
            "initializer_range": 0.12,
            **vision,
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(made[0])
        model = Qwen3VLForConditionalGeneration(config).eval()
    for parameter in model.parameters():  # as loading does it: `model.to(dtype)` would round the rotary frequencies
        parameter.data = parameter.data.to(made[1])
    return model


def load(path: str | None) -> Loaded:
    """Load the weights in a folder or a `.gguf` file, or build the small model. Raises: BadInput."""
    if path is None:
        return small_model()
    place = Path(path)
    if not place.exists():
        raise BadInput(f"{path} does not exist", hint="Give a folder with config.json and weights, or a .gguf file.")
    options: dict[str, Any] = {"local_files_only": True}
    if place.suffix == ".gguf":
        options["gguf_file"], place = place.name, place.parent
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        config = AutoConfig.from_pretrained(place, **options)
        vision = getattr(config, "vision_config", None) is not None
        family = AutoModelForImageTextToText if vision else AutoModelForCausalLM
        model = family.from_pretrained(place, dtype=torch.bfloat16, **options).eval()
        processor = Qwen2VLImageProcessorPil.from_pretrained(place, local_files_only=True) if vision else None
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"{path} holds no model that can be loaded: {str(error).splitlines()[0]}") from error
    if torch.cuda.is_available():
        model = model.cuda()
    return Loaded(model, tokenizer, processor)


def picture(size: int = 168) -> bytes:
    """Draw a picture (PNG) with something to see in it."""
    from PIL import Image, ImageDraw

    image = Image.linear_gradient("L").resize((size, size)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((size // 8, size // 8, size // 2, size // 2), fill=(220, 60, 40))
    draw.rectangle((size // 2, size // 2, size - 10, size - 10), fill=(40, 90, 200))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def start_session(loaded: Loaded, *, prompt_tokens: int = 900) -> TransformersSession:
    """Prepare a session with a picture (where the model sees) and a question of about `prompt_tokens` tokens."""
    tokenizer, question = loaded.tokenizer, QUESTION
    while len(tokenizer(question)["input_ids"]) < prompt_tokens:
        question += QUESTION
    content: list[dict[str, str]] = [{"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    if loaded.image_processor is None:
        ids = tokenizer(question, return_tensors="pt")["input_ids"].to(loaded.model.device)
        return TransformersSession(
            loaded.model, ids, tokenizer, attention_mask=torch.ones_like(ids), conversation=conversation
        )
    content.insert(0, {"type": "image"})
    session = start_chat(loaded.model, tokenizer, loaded.image_processor, conversation, media=[Media(picture())])
    session.thinking = {"steps": ["look", "describe"], "depth": 2}
    session.tool_calls = [{"name": "zoom", "arguments": {"x": 3, "y": 4}, "state": "pending"}]
    return session
