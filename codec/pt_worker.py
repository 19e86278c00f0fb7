"""Load a `.pt` file in this process, which ends afterwards, and send it to stdout as a bundle.

Run as `python -m torpor.codec.pt_worker FD SIZE`, with the open file as FD. `weights_only=True` is the one way in which
anything is unpickled; the process may take a few times the file's size of memory and no more. A failure is a line of
JSON on stderr, an RFC 9457 problem, and the exit status `FAILED`.
"""

from __future__ import annotations

import os
import pickle
import re
import resource
import select
import sys
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import orjson
from blake3 import blake3
from ulid import ULID

from ..state.errors import FileDamaged, MissingExtra, TooLarge, TorporError, UnsupportedState
from ..state.manifest import BlobRef, Manifest
from ..state.problems import to_problem
from . import manifest_file, torch_bridge, tree
from .bundle import write_bundle
from .pt_file import FAILED, NOBODY_READS
from .state_file import PLAIN_LAYERS, plain_layers

# Private memory beside what torch itself takes: the file once as a mapping, once as copies of what is not contiguous.
_MEMORY_PER_BYTE, _MEMORY_BESIDE = 3, 256 << 20
# Tensors may share a storage; what they hold beyond it a few times over is no state but a trick to fill a disk.
_CONTENT_PER_BYTE, _CONTENT_BESIDE = 4, 64 << 20
_CPU_BESIDE_S, _CPU_BYTES_PER_S = 60, 20 << 20
_SAFE_TORCH = (2, 6)  # weights_only=True could be made to run code before (CVE-2025-32434)


def main() -> int:
    """Load and send; return the exit status."""
    fd, size_bytes = int(sys.argv[1]), int(sys.argv[2])
    out = os.dup(1)
    threading.Thread(target=_end_with_the_reader, args=(os.dup(out),), daemon=True).start()
    os.dup2(2, 1)  # nothing that a library prints may come between the bytes
    try:
        layers = _load(f"/proc/self/fd/{fd}", size_bytes)
        with os.fdopen(out, "wb") as stream:
            _send(layers, stream, _CONTENT_PER_BYTE * size_bytes + _CONTENT_BESIDE)
    except TorporError as error:
        sys.stderr.write("\n" + orjson.dumps(to_problem(error)).decode() + "\n")
        return FAILED
    except BrokenPipeError:
        return NOBODY_READS
    return 0


def _end_with_the_reader(out: int) -> None:
    """End the process when nobody reads it any more: a reader that was killed cannot kill it."""
    poll = select.poll()
    poll.register(out, 0)  # no event is asked for: a pipe reports that its other end was closed in any case
    poll.poll()
    os._exit(NOBODY_READS)


def _load(path: str, size_bytes: int) -> dict[str, Any]:
    torch = _torch()
    _limit(size_bytes)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_plain_zip(path))
        return {name: _encode(layer) for name, layer in _layers(value).items()}
    except pickle.UnpicklingError as error:
        raise UnsupportedState(
            f"the file holds more than tensors and plain values: {_reason(error)}",
            hint="Nothing of it was run. Save a dict of tensors, numbers and texts with torch.save and import that.",
        ) from error
    except (MemoryError, RecursionError) as error:
        raise TooLarge("loading it takes far more memory than its size", hint="") from error
    except TorporError:
        raise
    except Exception as error:
        if "alloc" in str(error):
            raise TooLarge("loading it takes far more memory than its size", hint="") from error
        raise FileDamaged(f"torch cannot load it: {type(error).__name__}: {error!s:.200}") from error


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("a .pt file is read by torch, which is not installed") from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        raise MissingExtra(f"torch {torch.__version__} cannot load files safely: pip install 'torch>=2.6'")
    torch.set_num_threads(1)
    return torch


def _limit(size_bytes: int) -> None:
    used = int(re.findall(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[0]) << 10
    most = used + _MEMORY_PER_BYTE * size_bytes + _MEMORY_BESIDE
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    seconds = _CPU_BESIDE_S + size_bytes // _CPU_BYTES_PER_S
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _is_plain_zip(path: str) -> bool:
    """Tell whether the file can be mapped: a zip as torch writes it, nothing in it compressed."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise FileDamaged("the file is a zip with compressed entries, which torch never writes")
    return True


def _layers(value: Any) -> dict[Any, Any]:
    value = _plain(value)
    if isinstance(value, dict) and set(value) & set(PLAIN_LAYERS):
        return dict(plain_layers(value))
    return {"metadata": {"format": "torch"}, "vision_cache": value if isinstance(value, dict) else {"value": value}}


def _plain(value: Any) -> Any:
    """Turn torch's and collections' own kinds of dict and tuple into plain ones."""
    if isinstance(value, (dict, OrderedDict)):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value


def _encode(layer: Any) -> tree.EncodedTree:
    return tree.encode(layer, torch_bridge.shared_leaf)


def _send(layers: dict[str, tree.EncodedTree], stream: Any, most_bytes: int) -> None:
    data: dict[str, memoryview] = {}
    size_bytes = 0
    for encoded in layers.values():
        for leaf, body in encoded.pending:
            chunks = tree.chunks(leaf)
            refs = [BlobRef(blake3(chunk).hexdigest(), chunk.nbytes) for chunk in chunks]
            size_bytes += sum(ref.size_bytes for ref in refs if ref.digest not in data)
            if size_bytes > most_bytes:
                raise TooLarge(f"its tensors hold more than {most_bytes} bytes, far more than the file", hint="")
            data.update((ref.digest, chunk) for ref, chunk in zip(refs, chunks, strict=True))
            tree.fill(body, refs)
    values: dict[Any, Any] = {name: encoded.value for name, encoded in layers.items()}
    manifest = Manifest(id=str(ULID()), session_id="file", created_at=0.0, adapter="plain", layers=values)
    for piece in write_bundle(manifest_file.dump(manifest), lambda ref: data[ref.digest]):
        stream.write(piece)


def _reason(error: Exception) -> str:
    """Say what torch says, without its advice to load the file unsafely."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    own = [part for part in str(error).split("\n\n") if "weights_only" not in part]
    return named[1][:120] if named else " ".join(" ".join(own).split())[:200]


if __name__ == "__main__":
    raise SystemExit(main())
