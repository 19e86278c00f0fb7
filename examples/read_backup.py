"""Read a backup of the format qwen-state/v2, by docs/FORMAT.md alone: `read_backup.py BUNDLE` or `STORE BACKUP_ID`.

The standard library, lz4 and blake3 are all it needs. What is not sound raises an exception.
"""

import base64
import json
import math
import re
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.frame
from blake3 import blake3

MOST_BYTES = 1 << 34  # of one value that is put together here
DTYPES = """bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex64 complex128
    float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"""
ITEM_BYTES = {name: int((re.findall("[0-9]+", name) or ["8"])[0]) // 8 for name in re.findall(r"\w+", DTYPES)}


@dataclass(frozen=True)
class Tensor:
    """A tensor: raw bytes, little endian, in C order."""

    shape: tuple[int, ...]
    dtype: str
    kind: str
    data: bytes


def need(sound: object, message: str) -> None:
    """Refuse what is not sound."""
    if not sound:
        raise ValueError(message)


def product(*counts: int) -> int:
    """Multiply counts of untrusted origin."""
    need(len(counts) <= 32 and all(type(n) is int and n >= 0 for n in counts), f"not a shape: {counts}")
    return math.prod(counts)


class Backup:
    """One backup: its manifest, and what it names, read when it is asked for. `fetch` gets a blob's bytes."""

    def __init__(self, packed: bytes, fetch: Callable[[str, int], bytes]) -> None:
        frame = lz4.frame.LZ4FrameDecompressor()
        text = frame.decompress(packed, max_length=256 << 20)
        need(frame.eof and not frame.unused_data, "the manifest is not one whole LZ4 frame")
        self.manifest = json.loads(text)
        need(self.manifest["format"] == "qwen-state/v2", f"an unknown format: {self.manifest['format']}")
        self._fetch = fetch

    def layer(self, name: str) -> Any:
        """Return a layer as Python values."""
        return self._value(self.manifest["layers"][name])

    def kv(self, index: int) -> tuple[bytes, bytes]:
        """Return the keys and the values of one layer, each `[batch, head, token, dim]` over all tokens."""
        kv, layout = self.manifest["kv_cache"], self.manifest["kv_cache"]["layout"]
        item, batch, step = ITEM_BYTES[layout["dtype"]], layout["batch"], layout["block_tokens"]
        widths = [item * product(batch, x["heads"], x["key_dim"] + x["value_dim"]) for x in layout["layers"]]
        need(step > 0 and len(kv["blocks"]) == -(-kv["tokens"] // step), "a wrong count of KV blocks")
        before, rows = sum(widths[:index]), batch * layout["layers"][index]["heads"]
        sides = [item * layout["layers"][index][f"{side}_dim"] for side in ("key", "value")]  # bytes of one token
        found: tuple[list[list[bytes]], list[list[bytes]]] = ([[] for _ in range(rows)], [[] for _ in range(rows)])
        for number, ref in enumerate(kv["blocks"]):
            tokens = min(step, kv["tokens"] - number * step)
            need(ref["size_bytes"] == tokens * sum(widths), "a KV block does not fit the layout")
            block, at = self._blob(ref), tokens * before
            for parts, width in zip(found, sides, strict=True):
                for row in range(rows):
                    parts[row].append(block[at : at + tokens * width])
                    at += tokens * width
        keys, values = (b"".join(b"".join(row) for row in parts) for parts in found)
        return keys, values

    def _blob(self, ref: dict[str, Any]) -> bytes:
        need(re.fullmatch("[0-9a-f]{64}", ref["digest"]), "not a digest")
        data = self._fetch(ref["digest"], product(ref["size_bytes"]))
        need(len(data) == ref["size_bytes"] and blake3(data).hexdigest() == ref["digest"], f"damaged: {ref['digest']}")
        return data

    def _value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._value(item) for item in node]
        if not isinstance(node, dict):
            return node
        tag = next((key for key in node if key.startswith("$")), None)
        if tag is None:
            return {key: self._value(item) for key, item in node.items()}
        need(len(node) == 1, f"{tag} does not stand alone")
        body = node[tag]
        if tag == "$float" and body in ("nan", "inf", "-inf"):
            return float(body)
        if tag == "$int" and re.fullmatch("-?[0-9]{1,4000}", body):
            return int(body)
        if tag == "$tuple" and isinstance(body, list):
            return tuple(self._value(body))
        if tag == "$map":
            return {self._value(key): self._value(value) for key, value in body}
        need(tag in ("$tensor", "$bytes", "$text"), f"an unknown tag: {tag}")
        if tag == "$tensor":
            data = self._data(body, product(*body["shape"]) * ITEM_BYTES[body["dtype"]])
            return Tensor(tuple(body["shape"]), body["dtype"], body["kind"], data)
        data = self._data(body, product(body["size_bytes"]))
        return data if tag == "$bytes" else data.decode()

    def _data(self, body: dict[str, Any], size_bytes: int) -> bytes:
        need(size_bytes <= MOST_BYTES and ("data" in body) != ("blocks" in body), "a value without data, or too large")
        if "data" in body:
            data = base64.b64decode(body["data"], validate=True)
        else:
            sizes = [product(ref["size_bytes"]) for ref in body["blocks"]]
            need(sum(sizes) == size_bytes, "blocks do not add up")
            data = b"".join(self._blob(ref) for ref in body["blocks"])
        need(len(data) == size_bytes, "data of another size than declared")
        return data


def open_store(folder: Path, backup_id: str) -> Backup:
    """Open a backup of a store."""
    need(re.fullmatch("[0-7][0-9A-HJKMNP-TV-Z]{25}", backup_id), "not a backup id")
    backup = Backup(
        (folder / "manifests" / f"{backup_id}.qwnbak").read_bytes(),
        lambda digest, size: (folder / "blobs" / digest[:2] / digest).read_bytes(),
    )
    need(backup.manifest["id"] == backup_id, "the manifest of another backup")
    return backup


def open_bundle(file: Path) -> Backup:
    """Open a bundle. Names are compared, and never used as paths."""
    with tarfile.open(file, "r:") as archive:
        names = {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}  # type: ignore[union-attr]
    return Backup(names["qwen-state-v2/manifest.qwnbak"], lambda digest, size: names[f"qwen-state-v2/blobs/{digest}"])


if __name__ == "__main__":
    path = Path(sys.argv[1])
    opened = open_store(path, sys.argv[2]) if path.is_dir() else open_bundle(path)
    print({key: value for key, value in opened.manifest.items() if key != "layers"})
    for layer in opened.manifest["layers"]:
        print(layer, opened.layer(layer))
