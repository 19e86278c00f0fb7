"""Mutations of JSON that keep it JSON: a value replaced, moved, repeated, wrapped or dropped, a key renamed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import orjson

# What the readers look for, and what has broken readers.
KEYS = (
    "metadata", "vision_cache", "text_context", "config_snapshot", "tokens", "media", "kv_cache", "format", "timestamp",
    "session_id", "torpor.v1", "layers", "added", "replaced", "other_layers", "shape", "dtype", "data", "compressed",
    "kind", "blocks", "digest", "size_bytes", "__metadata__", "data_offsets", "torpor.manifest", "parent_id",
    "$tensor", "$bytes", "$text", "$map", "$tuple", "$int", "$float", "$", "", "\ufeff", "\x00", "a.b", "\U0001f642",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 64, 200, 1 << 31, (1 << 53) + 1, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1,
    0.0, -0.0, 0.5, 1e300, 5e-324, "", "a", "raw:", "raw:ab", "raw:abcd", "AA==", "AAAA", "nan", "-inf", "9" * 400, "-5",
    "qwen-state/v1", "qwen-state/v2", "qwen-state/v99", "torch", "numpy", "numpy-scalar", "bytes", "float16",
    "torch.bfloat16", "bool", "complex128", "float8_e4m3fn", "uint64", "object", "F16", "BF16", "U8", "I64", "C64",
    "x" * 1025, "\U0001f642" * 300, "é" * 3000, "\r\n\x00\ufeff", "../../etc/passwd", "a" * 64, "\x1b[2J",
    [], [0], [1], [-1], [2, 3], [0, 1 << 40], [[]], {}, {"": {}}, [1] * 40,
    {"$tensor": {"shape": [2], "dtype": "uint8", "kind": "numpy", "data": "AAA="}},
    {"$tensor": {"shape": [64], "dtype": "uint8", "kind": "torch", "blocks": [{"digest": "a" * 64, "size_bytes": 64}]}},
    {"$bytes": {"size_bytes": 1, "data": "AA=="}}, {"$text": {"size_bytes": 1, "data": "YQ=="}},
    {"$map": [[1, 2], [None, {}]]}, {"$tuple": [1, [2]]}, {"$float": "nan"}, {"$int": "99999999999999999999"},
    {"shape": [4], "dtype": "uint8", "data": "raw:abcd", "compressed": True},
    {"shape": [2], "dtype": "torch.float16", "data": ["raw:ab", "raw:cd"], "compressed": True, "kind": "numpy"},
    {"shape": [1], "dtype": "uint8", "data": "AA==", "compressed": False, "kind": "bytes"},
    {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
)  # fmt: skip
DEEPEST = 12  # levels that a wrap makes


def mutate_json(raw: bytes, seed: int, anyhow: Callable[[bytes], bytes]) -> bytes:
    """Return other JSON; `anyhow` changes what is none, and now and then what is."""
    chance = random.Random(seed)
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return anyhow(raw)
    if chance.random() < 0.15:
        return anyhow(raw)
    holder = [document]
    try:
        for _ in range(chance.choice((1, 1, 2, 5))):
            _change(chance, chance.choice(list(_places(holder))), holder)
        return orjson.dumps(holder[0])
    except (TypeError, RecursionError):  # an integer that grew beyond what orjson writes, or too deep for it
        return anyhow(raw)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every value."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _change(chance: random.Random, place: tuple[Any, Any], holder: list[Any]) -> None:
    container, key = place
    value = container[key]
    match chance.randrange(8):
        case 0 | 1:
            container[key] = _copy(chance.choice(VALUES))
        case 2:
            other, at = chance.choice(list(_places(holder)))
            container[key] = _copy(other[at])
        case 3 if container is not holder:
            del container[key]
        case 4 if isinstance(container, dict):
            container[chance.choice(KEYS)] = container.pop(key)
        case 5 if isinstance(container, dict):
            container[chance.choice(KEYS)] = _copy(chance.choice(VALUES))
        case 5:
            container.insert(key, _copy(value))
        case 6:
            for _ in range(chance.randint(1, DEEPEST)):
                value = [value] if chance.random() < 0.5 else {chance.choice(KEYS): value}
            container[key] = value
        case _:
            container[key] = _nudged(chance, value)


def _nudged(chance: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return value + chance.choice((-1, 1, 0.5)) if chance.random() < 0.8 else -value
    if isinstance(value, str):
        at = chance.randint(0, len(value))
        return (
            value[:at]
            + chance.choice(("", "/", "=", "$", "\\", "\x00", "\u2028", "A", "AAAA"))
            + value[at + chance.randint(0, 4) :]
        )
    items = list(value.items()) if isinstance(value, dict) else list(value)
    chance.shuffle(items)
    return dict(items) if isinstance(value, dict) else items


def _copy(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))
