"""What a backup holds, as a person would ask for it: tensors, messages, traces, layers. No blob is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..state.manifest import KVCache, Manifest
from . import messages
from .messages import Message
from .nodes import Stored, brief, check_depth, children, fields, first_line, items, shorten, step, stored

VALUES_SHOWN = 8  # of a layer's plain values
TraceKind = Literal["tool_calls", "thinking"]
_TRACE_WORDS: dict[TraceKind, tuple[str, ...]] = {
    "tool_calls": ("tool_call", "toolcall", "tool_stack", "call_stack"),
    "thinking": ("thinking", "thought", "reasoning"),
}
_LINE_KEYS = ("text", "content", "thinking", "summary")


@dataclass(frozen=True, slots=True)
class Trace:
    """A stack of tool calls or a thinking trace: how many steps it has, and the newest of them in one line."""

    path: str
    kind: TraceKind
    steps: int
    newest: str


@dataclass(frozen=True, slots=True)
class LayerDetail:
    """One layer: what it stores beside plain JSON, and its first plain values. `size_bytes` counts what is stored."""

    name: str
    tensors: int = 0
    values: int = 0  # byte strings, long texts, malformed tags
    blobs: int = 0
    size_bytes: int = 0
    plain: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class KVDetail:
    """The KV cache. `token_bytes` is what one token takes in all layers."""

    tokens: int
    blocks: int
    block_tokens: int
    dtype: str
    batch: int
    layers: int
    shapes: tuple[str, ...]  # every distinct `heads x key width[/value width]`
    token_bytes: int
    size_bytes: int
    cache_class: str


@dataclass(frozen=True, slots=True)
class Description:
    """A backup, described."""

    layers: tuple[LayerDetail, ...]
    stored: tuple[Stored, ...]
    messages: tuple[Message, ...]
    traces: tuple[Trace, ...]
    kv: KVDetail | None


def describe(manifest: Manifest, head: messages.Head | None = None) -> Description:
    """Describe a backup by its manifest alone, but for long messages, whose `head` may be read.

    Raises: InvalidManifest when a layer is nested too deep.
    """
    trees = {name: manifest.layers[name] for name in manifest.present_layers() if name in manifest.layers}
    for tree in trees.values():
        check_depth(tree)
    values = {name: tuple(walk(tree, name)) for name, tree in trees.items()}
    text = trees.get("text_context")
    found, _ = messages.find(text, "text_context")
    return Description(
        layers=tuple(_layer(name, tree, values[name]) for name, tree in trees.items()),
        stored=tuple(leaf for leaves in values.values() for leaf in leaves),
        messages=tuple(messages.describe(message, head) for message in found),
        traces=tuple(_traces(text)),
        kv=None if manifest.kv_cache is None else describe_kv(manifest.kv_cache),
    )


def walk(tree: Any, path: str) -> Iterator[Stored]:
    """Yield everything stored in a tree whose depth was checked, in the order of the document."""
    stack = [(path, tree)]
    while stack:
        at, node = stack.pop()
        leaf = stored(node, at)
        if leaf is not None:
            yield leaf
        else:
            below = [(at + key, child) for key, child in children(node) if isinstance(child, (list, dict))]
            stack.extend(reversed(below))


def _layer(name: str, tree: Any, leaves: tuple[Stored, ...]) -> LayerDetail:
    tensors = sum(leaf.kind == "tensor" for leaf in leaves)
    plain = {
        shorten(key, 40): brief(value) for key, value in fields(tree).items() if not isinstance(value, (list, dict))
    }
    return LayerDetail(
        name=name,
        tensors=tensors,
        values=len(leaves) - tensors,
        blobs=len({digest for leaf in leaves for digest in leaf.blobs}),
        size_bytes=sum(leaf.size_bytes for leaf in leaves),
        plain=dict(list(plain.items())[:VALUES_SHOWN]),
    )


def describe_kv(kv: KVCache) -> KVDetail:
    """Describe a KV cache."""
    widths = {(x.heads, x.key_dim, x.value_dim): None for x in kv.layout.layers}
    return KVDetail(
        tokens=kv.tokens,
        blocks=len(kv.blocks),
        block_tokens=kv.layout.block_tokens,
        dtype=kv.layout.dtype,
        batch=kv.layout.batch,
        layers=len(kv.layout.layers),
        shapes=tuple(f"{heads} heads x {key}" + (f"/{value}" * (value != key)) for heads, key, value in widths),
        token_bytes=kv.layout.token_bytes(),
        size_bytes=kv.tokens * kv.layout.token_bytes(),
        cache_class=kv.cache_class,
    )


def _traces(text: Any) -> Iterator[Trace]:
    for key, value in fields(text).items():
        kind = _trace_kind(key)
        if kind is not None and isinstance(value, (str, list, dict)):
            steps = items(value)
            if steps is None:
                steps = [value]
            if steps and steps != [""]:
                yield Trace(f"text_context{step(key)}", kind, len(steps), _step_line(steps[-1]))


def _trace_kind(key: str) -> TraceKind | None:
    return next((kind for kind, words in _TRACE_WORDS.items() if any(word in key.lower() for word in words)), None)


def _step_line(node: Any) -> str:
    """Write a tool call as its name and arguments, a thought as its first line."""
    if isinstance(node, str):
        return first_line(node)
    known = fields(node)
    call = known if "name" in known else fields(known.get("function"))
    if isinstance(call.get("name"), str):
        arguments = call.get("arguments", call.get("args", call.get("input")))
        return shorten(call["name"] if arguments is None else f"{call['name']}({_arguments(arguments)})")
    text = next((known[key] for key in _LINE_KEYS if isinstance(known.get(key), str)), None)
    return brief(node) if text is None else first_line(text)


def _arguments(node: Any) -> str:
    if isinstance(node, str):
        return first_line(node)
    return ", ".join(f"{shorten(key, 20)}={brief(value, 40)}" for key, value in list(fields(node).items())[:4])
