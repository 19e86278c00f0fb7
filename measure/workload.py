"""What is saved and restored: a session of a real Qwen3-VL with the KV geometry of the 4B and 8B models.

36 layers, 8 KV heads, head_dim 128, bf16: 144 KiB of KV a token, as in the real models. The rest of the network is
tiny, because nothing here runs it; the cache is filled with random normal values, so that no two blocks are equal.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from tokenizers import Tokenizer, models
from transformers import DynamicCache, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicLayer

from ..adapters.demo_model import Loaded, small_model
from ..adapters.transformers import TransformersSession, TransformersTarget

LAYERS, HEADS, HEAD_DIM, BLOCK_TOKENS = 36, 8, 128, 64
TOKEN_BYTES = LAYERS * 2 * HEADS * HEAD_DIM * 2
VOCABULARY = 151_643  # Qwen3-VL's, without its special tokens


@functools.cache
def load() -> Loaded:
    """Build the model once, with a tokenizer as large as the real one (an identity has to be taken of it)."""
    loaded = small_model(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20]},
    )
    loaded.tokenizer = _large_tokenizer(loaded.tokenizer)
    return loaded


def _large_tokenizer(small: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    letters = [chr(0x100 + i) for i in range(256)]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    for left, right in itertools.islice(_merges(letters), VOCABULARY - len(letters)):
        merges.append((left, right))
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=small.chat_template)


def _merges(letters: list[str]) -> Iterator[tuple[str, str]]:
    """Yield every pair of two letters, then pairs with a third letter."""
    pairs = list(itertools.product(letters, letters))
    yield from pairs
    random.Random(0).shuffle(pairs)
    for (first, second), third in itertools.product(pairs, letters[:2]):
        yield first + second, third


def fresh_session(loaded: Loaded, tokens: int) -> TransformersSession:
    """Return a session whose cache holds `tokens` tokens of new random values; one more id is sampled, not fed."""
    ids = torch.randint(0, 256, (1, tokens + 1))
    session = TransformersSession(
        loaded.model,
        ids,
        loaded.tokenizer,
        loaded.image_processor,
        cache=DynamicCache(config=loaded.model.config.get_text_config()),
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=torch.zeros_like(ids),
        conversation=[{"role": "user", "content": [{"type": "text", "text": "What does the picture show?"}]}],
    )
    _append(session.cache, tokens)
    return session


def another(session: TransformersSession) -> TransformersSession:
    """Return a session over the same tensors, with a new number in each token: no block is as it was."""
    held = session.cache.layers
    held[0].keys[..., 0].normal_()
    cache = DynamicCache()
    for each in held:
        layer = DynamicLayer()
        layer.lazy_initialization(each.keys, each.values)
        layer.keys, layer.values = each.keys, each.values
        cache.layers.append(layer)
    return replace(session, cache=cache)


def go_on(session: TransformersSession, tokens: int) -> None:
    """Append tokens as a model does: `cache.update` in each layer, then the ids."""
    _append(session.cache, tokens)
    session.extend(torch.randint(0, 256, (1, tokens)))


def _append(cache: DynamicCache, tokens: int) -> None:
    shape = (1, HEADS, tokens, HEAD_DIM)
    with ThreadPoolExecutor() as threads:  # at 32,768 tokens one would take half a minute
        for layer in range(LAYERS):
            seeds = torch.randint(0, 2**62, (2,)).tolist()
            cache.update(*threads.map(lambda seed: _normal(shape, seed), seeds), layer)


def _normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16).normal_(generator=torch.Generator().manual_seed(seed))


def tensors_of(session: TransformersSession) -> dict[str, torch.Tensor]:
    """Return the cache's tensors by name, as a peer would store them."""
    return {
        f"{layer}.{name}": tensor
        for layer, held in enumerate(session.cache.layers)
        for name, tensor in (("keys", held.keys), ("values", held.values))
    }


def target_of(loaded: Loaded) -> TransformersTarget:
    """Return a target that has described itself once, as a server does when it has loaded its model."""
    target = TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)
    target.describe()
    return target


def check_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Raise unless every tensor came back bit for bit: a fast wrong answer is worth nothing."""
    for name, tensor in expected.items():
        if not torch.equal(found[name].view(torch.int16), tensor.view(torch.int16)):
            raise RuntimeError(f"{name} came back with other bits")
