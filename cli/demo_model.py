"""The model of the demonstration: a small real Qwen3-VL built from a config with a fixed seed, or real weights."""

from __future__ import annotations

import io
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

from ..adapters.transformers import Media, TransformersSession, encode_images
from ..state.errors import BadInput

SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
QUESTION = "What does the picture show? Look at every corner, and say what you see and where. "


@dataclass(slots=True)
class Loaded:
    """A model with what prepares its inputs; `image_processor` is None where the model reads text only."""

    model: Any
    tokenizer: Any
    image_processor: Any


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with Qwen's special tokens: every text has ids, and they decode to it again."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE, pad_token="<|im_end|>")  # noqa: S106


def small_model(seed: int = 0, dtype: torch.dtype = torch.bfloat16, **text: Any) -> Loaded:
    """Build a Qwen3-VL of about 3 million parameters. The seed decides its weights; `text` overrides its config."""
    tokenizer = byte_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    hidden = text.get("hidden_size", 256)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 272,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [12, 10, 10]},
            "initializer_range": 0.12,  # the usual 0.02 leaves a random model repeating one token
            **text,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1, 2],
            "initializer_range": 0.12,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config).eval()
    for parameter in model.parameters():  # as loading does it: `model.to(dtype)` would round the rotary frequencies
        parameter.data = parameter.data.to(dtype)
    processor = Qwen2VLImageProcessorPil(patch_size=14, min_pixels=28 * 28, max_pixels=224 * 224)
    return Loaded(model, tokenizer, processor)


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
    png, tokenizer = picture(), loaded.tokenizer
    question = QUESTION
    while len(tokenizer(question)["input_ids"]) < prompt_tokens:
        question += QUESTION
    content: list[dict[str, str]] = [{"type": "text", "text": question}]
    if loaded.image_processor is None:
        ids = tokenizer(question, return_tensors="pt")["input_ids"].to(loaded.model.device)
        conversation = [{"role": "user", "content": content}]
        return TransformersSession(
            loaded.model, ids, tokenizer, attention_mask=torch.ones_like(ids), conversation=conversation
        )
    content.insert(0, {"type": "image"})
    conversation = [{"role": "user", "content": content}]
    return _image_session(loaded, conversation, png)


def _image_session(loaded: Loaded, conversation: list[Any], png: bytes) -> TransformersSession:
    from PIL import Image

    model, tokenizer, processor = loaded.model, loaded.tokenizer, loaded.image_processor
    pixels = processor(images=[Image.open(io.BytesIO(png)).convert("RGB")], return_tensors="pt")
    grid = pixels["image_grid_thw"].to(model.device)
    count = int(grid[0].prod()) // processor.merge_size**2
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * count, 1)
    ids = tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
    return TransformersSession(
        model,
        ids,
        tokenizer,
        processor,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).long(),
        image_grid_thw=grid,
        vision=encode_images(model, pixels["pixel_values"].to(model.device), grid),
        media=[Media(png)],
        conversation=conversation,
        thinking={"steps": ["look", "describe"], "depth": 2},
        tool_calls=[{"name": "zoom", "arguments": {"x": 3, "y": 4}, "state": "pending"}],
    )
