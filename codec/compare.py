"""What changed from one backup to another, by their manifests alone. Pure and deterministic; no blob is read.

What is added from A to B is removed from B to A, and two backups that hold the same have no change between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..state.manifest import KVCache, LayerName, Manifest, manifest_blobs
from . import messages
from .describe import describe_kv
from .messages import Found, Message
from .nodes import KEY_CHARS, brief, check_depth, entries, fields, items, step, stored, tag_of

CONTEXT_CHARS = 30  # before the place where two texts part


@dataclass(frozen=True, slots=True)
class Change:
    """One path that came, went or changed; its value before and after, in a few words.

    `note` says what differs where the words do not.
    """

    kind: Literal["added", "removed", "changed"]
    path: str
    before: str | None = None
    after: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class KVComparison:
    """Two KV caches. The leading blocks that are the same, by digest, and the tokens in them."""

    tokens_a: int
    tokens_b: int
    blocks_same: int
    tokens_same: int
    layout_a: str
    layout_b: str

    @property
    def same(self) -> bool:
        """Tell whether the two caches are the same."""
        return self.tokens_same == self.tokens_a == self.tokens_b and self.layout_a == self.layout_b


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """How many messages two conversations have, and how many at the head of both B has kept."""

    a: int
    b: int
    kept: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Backup A against backup B: what B has more is added, what it lacks is removed."""

    a: str
    b: str
    tokens_a: int
    tokens_b: int
    layers_added: tuple[LayerName, ...]
    layers_removed: tuple[LayerName, ...]
    changes: tuple[Change, ...]
    messages_same: int  # at the head of both conversations
    messages_removed: tuple[Message, ...]
    messages_added: tuple[Message, ...]
    kv: KVComparison | None  # where both have one
    fingerprint: dict[str, tuple[str | None, str | None]]  # the parts that differ
    shared_bytes: int
    only_a_bytes: int
    only_b_bytes: int

    @property
    def same(self) -> bool:
        """Tell whether the two backups hold the same."""
        moved = (self.layers_added, self.layers_removed, self.changes, self.messages_added, self.messages_removed)
        kv = self.kv is None or self.kv.same
        return not any(moved) and not self.fingerprint and kv and self.tokens_a == self.tokens_b


def compare(a: Manifest, b: Manifest) -> Comparison:
    """Compare two backups. Raises: InvalidManifest when a layer is nested too deep or names a blob with two sizes."""
    for tree in (*a.layers.values(), *b.layers.values()):
        check_depth(tree)
    in_a, in_b = a.present_layers(), b.present_layers()
    walker = _Walker()
    text_a, rest_a = _split(a)
    text_b, rest_b = _split(b)
    same = walker.common(text_a, text_b)
    both = [name for name in in_a if name in rest_a and name in rest_b]
    changes = [change for name in both for change in walker.changes(rest_a[name], rest_b[name], name)]
    told = {message.parent for message in (*text_a[same:], *text_b[same:])}
    blobs_a, blobs_b = _sizes(a), _sizes(b)
    parts_a, parts_b = a.fingerprint.to_dict(), b.fingerprint.to_dict()
    return Comparison(
        a=a.id,
        b=b.id,
        tokens_a=a.tokens,
        tokens_b=b.tokens,
        layers_added=tuple(name for name in in_b if name not in in_a),
        layers_removed=tuple(name for name in in_a if name not in in_b),
        changes=tuple(change for change in changes if change.path not in told or not _is_empty(change)),
        messages_same=same,
        messages_removed=tuple(messages.describe(m) for m in text_a[same:]),
        messages_added=tuple(messages.describe(m) for m in text_b[same:]),
        kv=compare_kv(a.kv_cache, b.kv_cache),
        fingerprint={name: (parts_a[name], parts_b[name]) for name in parts_a if parts_a[name] != parts_b[name]},
        shared_bytes=sum(size for digest, size in blobs_a.items() if digest in blobs_b),
        only_a_bytes=sum(size for digest, size in blobs_a.items() if digest not in blobs_b),
        only_b_bytes=sum(size for digest, size in blobs_b.items() if digest not in blobs_a),
    )


def compare_messages(a: Manifest, b: Manifest) -> MessageCounts:
    """Count what conversation B has kept of A. A last message that only grew, as an answer does, is kept.

    Raises: InvalidManifest when a layer is nested too deep.
    """
    check_depth(a.layers.get("text_context"))
    check_depth(b.layers.get("text_context"))
    (text_a, _), (text_b, _) = _split(a), _split(b)
    same = _Walker().common(text_a, text_b)
    grew = same == len(text_a) - 1 < len(text_b) and _grew(text_a[same], text_b[same])
    return MessageCounts(len(text_a), len(text_b), same + grew)


def _grew(a: Found, b: Found) -> bool:
    return a.path == b.path and fields(a.node).get("role") == fields(b.node).get("role") and _begins(a.node, b.node)


def _begins(a: Any, b: Any) -> bool:
    """Tell whether B is A with more text at the ends of its texts, or with more in its containers."""
    lists, pairs = (items(a), items(b)), (fields(a), fields(b))
    if isinstance(a, str) and isinstance(b, str):
        return b.startswith(a)
    if lists[0] is not None and lists[1] is not None:
        return len(lists[0]) <= len(lists[1]) and all(_begins(x, y) for x, y in zip(lists[0], lists[1], strict=False))
    if pairs[0] and tag_of(a) is None:
        return pairs[0].keys() <= pairs[1].keys() and all(_begins(pairs[0][key], pairs[1][key]) for key in pairs[0])
    return _Walker().same(a, b)


_EMPTY = {brief([]), brief({}), brief({"$tuple": []})}


def _is_empty(change: Change) -> bool:
    """Tell whether a container without anything came or went; with messages, they have told it."""
    return change.kind != "changed" and (change.before or change.after) in _EMPTY


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {digest: size for digest, (size, _) in manifest_blobs(manifest).items()}


def _split(manifest: Manifest) -> tuple[list[Found], dict[str, Any]]:
    """Return a backup's messages, and its layers without them."""
    layers: dict[str, Any] = dict(manifest.layers)
    found: list[Found] = []
    if "text_context" in layers:
        found, layers["text_context"] = messages.find(layers["text_context"], "text_context")
    return found, layers


def compare_kv(a: KVCache | None, b: KVCache | None) -> KVComparison | None:
    """Compare two KV caches; None where one is missing. Blocks under another layout are never the same."""
    if a is None or b is None:
        return None
    same = 0
    if a.layout == b.layout:
        pairs = zip(a.blocks, b.blocks, strict=False)
        same = next((i for i, (x, y) in enumerate(pairs) if x.digest != y.digest), min(len(a.blocks), len(b.blocks)))
    tokens = min(same * a.layout.block_tokens, a.tokens, b.tokens)
    return KVComparison(a.tokens, b.tokens, same, tokens, _layout(a), _layout(b))


def _layout(kv: KVCache) -> str:
    d = describe_kv(kv)
    rows = "" if d.batch == 1 else f", {d.batch} rows"
    return f"{d.layers} layers x {', '.join(d.shapes)}, {d.dtype}{rows}, blocks of {d.block_tokens}, {d.cache_class}"


class _Walker:
    """Compares trees. Every distinct tree gets a number once, so asking whether two are the same is cheap."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._of_node: dict[int, int] = {}
        self._alive: list[Any] = []  # what `_of_node` knows by address

    def number(self, node: Any) -> int:
        """Return the number of a tree: equal for equal trees, with the order of keys, and 1 is not 1.0 nor true."""
        if not isinstance(node, (list, dict)):
            return self._intern((type(node), repr(node) if isinstance(node, float) else node))
        known = self._of_node.get(id(node))
        if known is None:
            if isinstance(node, list):
                known = self._intern((list, *(self.number(item) for item in node)))
            else:
                known = self._intern((dict, *((key, self.number(value)) for key, value in node.items())))
            self._of_node[id(node)] = known
            self._alive.append(node)
        return known

    def _intern(self, key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def same(self, a: Any, b: Any) -> bool:
        """Tell whether two trees are the same."""
        return self.number(a) == self.number(b)

    def common(self, a: list[Found], b: list[Found]) -> int:
        """Return how many messages are the same at the head of both."""
        pairs = zip(a, b, strict=False)
        differ = (i for i, (x, y) in enumerate(pairs) if x.path != y.path or not self.same(x.node, y.node))
        return next(differ, min(len(a), len(b)))

    def changes(self, a: Any, b: Any, path: str) -> Iterator[Change]:
        """Yield the changes between two trees, each at the deepest path that holds all of it."""
        if self.same(a, b):
            return
        found = False
        for change in self._inside(a, b, path):
            found = True
            yield change
        if not found:  # no container, or a malformed one
            yield _changed(a, b, path)

    def _inside(self, a: Any, b: Any, path: str) -> Iterator[Change]:
        lists, pairs = (items(a), items(b)), (entries(a), entries(b))
        if tag_of(a) != tag_of(b):
            return
        if lists[0] is not None and lists[1] is not None:
            yield from self._in_list(lists[0], lists[1], path)
        elif pairs[0] is not None and pairs[1] is not None:
            yield from self._in_mapping(pairs[0], pairs[1], path)

    def _in_list(self, a: list[Any], b: list[Any], path: str) -> Iterator[Change]:
        """Compare lists between the head and the tail that they share."""
        short = min(len(a), len(b))
        head = next((i for i in range(short) if not self.same(a[i], b[i])), short)
        tail = next((i for i in range(short - head) if not self.same(a[-1 - i], b[-1 - i])), short - head)
        for i in range(head, short - tail):
            yield from self.changes(a[i], b[i], f"{path}[{i}]")
        for i in range(short - tail, len(a) - tail):
            yield Change("removed", f"{path}[{i}]", before=brief(a[i]))
        for i in range(short - tail, len(b) - tail):
            yield Change("added", f"{path}[{i}]", after=brief(b[i]))

    def _in_mapping(self, a: list[tuple[Any, Any]], b: list[tuple[Any, Any]], path: str) -> Iterator[Change]:
        in_a = {self.number(key): (key, value) for key, value in a}
        in_b = {self.number(key): (key, value) for key, value in b}
        for number, (key, value) in in_a.items():
            if number in in_b:
                yield from self.changes(value, in_b[number][1], path + step(key))
            else:
                yield Change("removed", path + step(key), before=brief(value))
        for number, (key, value) in in_b.items():
            if number not in in_a:
                yield Change("added", path + step(key), after=brief(value))
        order_a, order_b = [n for n in in_a if n in in_b], [n for n in in_b if n in in_a]
        at = next((i for i, (x, y) in enumerate(zip(order_a, order_b, strict=True)) if x != y), None)
        if at is not None:  # the order of keys is part of the state
            before, after = brief(in_a[order_a[at]][0], KEY_CHARS), brief(in_b[order_b[at]][0], KEY_CHARS)
            yield Change("changed", path, before, after, "keys in another order")


def _changed(a: Any, b: Any, path: str) -> Change:
    """Describe two values that differ so that one sees how."""
    if isinstance(a, str) and isinstance(b, str):
        return Change("changed", path, *_around(a, b))
    before, after, note = brief(a), brief(b), None
    if before == after:
        left, right = stored(a), stored(b)
        shared = len(set(left.blobs) & set(right.blobs)) if left is not None and right is not None else 0
        note = "other data" + (f", {shared} of the blobs the same" if shared else "")
    return Change("changed", path, before, after, note)


def _around(a: str, b: str) -> tuple[str, str]:
    """Write two texts that differ, from shortly before the place where they do."""
    short = min(len(a), len(b))
    at = next((i for i in range(short) if a[i] != b[i]), short)
    start = at - CONTEXT_CHARS if at > 2 * CONTEXT_CHARS else 0
    lead = "…" if start else ""
    return brief(lead + a[start:]), brief(lead + b[start:])
