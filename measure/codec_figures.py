"""The cold form of a KV cache against other lossless codecs: how small, and how fast a core packs and unpacks it.

Real text is prefilled by a real model in bf16 and in f16, its cache is cut into blocks as they are stored, and every
contender packs and unpacks each block on one thread. What comes back is compared, byte for byte.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from ..adapters.demo_model import Loaded
from ..adapters.dynamic_cache import LiveCache
from ..codec.cold import Unpacker, pack
from ..state.manifest import block_ranges
from . import smol
from .figures import Figure
from .fresh_process import ANSWER
from .rounds import Action, Contender, console, interleave
from .settings import Settings

TOKENS, QUICK_TOKENS = 2_048, 512
TORPOR, ZIPNN = "torpor", "ZipNN"
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}

Convert = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Codec:
    """A lossless codec: both ways, of one block at a time."""

    pack: Convert
    unpack: Convert


def measure(settings: Settings) -> list[Figure]:
    """Pack and unpack the cache of a text in each dtype. Raises: MissingExtra, BadInput."""
    loaded, figures = smol.load(settings), list[Figure]()
    for dtype in DTYPES:
        with console.status(f"codec: a prefill in {dtype}"):
            blocks = real_blocks(loaded, DTYPES[dtype], QUICK_TOKENS if settings.quick else TOKENS)
        figures += codec_figures(dtype, blocks, contenders(dtype), settings.rounds(5, 3))
    return figures


def real_blocks(loaded: Loaded, dtype: torch.dtype, tokens: int) -> list[bytes]:
    """Prefill real text in a dtype, and return the cache's full blocks as they are stored."""
    for parameter in loaded.model.parameters():  # as loading does it: `model.to` would round the rotary frequencies
        parameter.data = parameter.data.to(dtype)
    session = smol.session_of(loaded, smol.prompt_ids(loaded, tokens + 1))
    session.generate(**ANSWER)
    live = LiveCache(session.cache)
    view, size = live.hold(), live.layout.block_tokens
    ranges = [(start, stop) for start, stop in block_ranges(live.tokens, size) if stop - start == size]
    return [b"".join(view.block(start, stop)) for start, stop in ranges]


def contenders(dtype: str) -> dict[str, Codec]:
    """Return ours and the others that are installed; the others are told."""
    found = {TORPOR: Codec(lambda raw: b"".join(pack(io.BytesIO(raw))), _unpacked)}
    for name, (module, make) in _OTHERS.items():
        try:
            import_module(module)
        except ImportError:
            console.print(f"[yellow]codec: {name} is left out, for {module} is not installed[/]")
        else:
            found[name] = make(dtype)
    return found


def _unpacked(packed: bytes) -> bytes:
    reader = Unpacker()
    raw = b"".join(reader.feed(packed))
    reader.finish()
    return raw


def _zipnn(dtype: str) -> Codec:
    kind = {"bf16": "bfloat16", "f16": "float16"}[dtype]
    made = import_module("zipnn").ZipNN(input_format="byte", bytearray_dtype=kind, threads=1)
    return Codec(lambda raw: bytes(made.compress(raw)), lambda packed: bytes(made.decompress(packed)))


def _blosc2(codec: str, filter_name: str) -> Callable[[str], Codec]:
    def make(dtype: str) -> Codec:
        blosc2: Any = import_module("blosc2")
        how = {
            "codec": blosc2.Codec[codec],
            "filters": [blosc2.Filter[filter_name]],
            "filters_meta": [0],
            "typesize": 2,
            "clevel": 1,
            "nthreads": 1,
        }
        return Codec(lambda raw: blosc2.compress2(raw, **how), lambda packed: blosc2.decompress2(packed, nthreads=1))

    return make


def _zstd(dtype: str) -> Codec:
    zstandard: Any = import_module("zstandard")
    packer, reader = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
    return Codec(packer.compress, reader.decompress)


def _lz4(dtype: str) -> Codec:
    frame: Any = import_module("lz4.frame")
    return Codec(frame.compress, frame.decompress)


_OTHERS: dict[str, tuple[str, Callable[[str], Codec]]] = {
    ZIPNN: ("zipnn", _zipnn),
    "blosc2, shuffle + zstd-1": ("blosc2", _blosc2("ZSTD", "SHUFFLE")),
    "blosc2, bitshuffle + zstd-1": ("blosc2", _blosc2("ZSTD", "BITSHUFFLE")),
    "blosc2, bitshuffle + LZ4": ("blosc2", _blosc2("LZ4", "BITSHUFFLE")),
    "zstd-1 as it is": ("zstandard", _zstd),
    "LZ4 as it is": ("lz4.frame", _lz4),
}


def codec_figures(dtype: str, blocks: list[bytes], codecs: Mapping[str, Codec], rounds: int) -> list[Figure]:
    """Compare ours with the others. Raises: RuntimeError when a block does not come back as it was."""
    raw_bytes = sum(map(len, blocks))
    packed = {name: [codec.pack(_copy(raw)) for raw in blocks] for name, codec in codecs.items()}
    for name, codec in codecs.items():
        if [codec.unpack(_copy(piece)) for piece in packed[name]] != blocks:
            raise RuntimeError(f"{name} does not give back what it was given")
    sizes = {name: [raw_bytes / sum(map(len, pieces))] for name, pieces in packed.items()}
    into = interleave(
        f"codec: packing {dtype}", rounds, {name: _all_of(codec.pack, blocks) for name, codec in codecs.items()}
    )
    out = interleave(
        f"codec: unpacking {dtype}",
        rounds,
        {name: _all_of(codec.unpack, packed[name]) for name, codec in codecs.items()},
    )
    return [
        *_compared(f"{dtype} KV: ratio", "x", sizes),
        *_compared(f"{dtype} KV: in, a core", "MB/s", _speeds(into, raw_bytes)),
        *_compared(f"{dtype} KV: out, a core", "MB/s", _speeds(out, raw_bytes)),
    ]


def _all_of(convert: Convert, pieces: list[bytes]) -> Contender:
    """Convert copies of all pieces: ZipNN reorders the bytes that it is given, in place."""

    def prepare() -> Action:
        copies = [_copy(piece) for piece in pieces]

        def run() -> None:
            for piece in copies:
                convert(piece)

        return run

    return prepare


def _copy(piece: bytes) -> bytes:
    return bytes(bytearray(piece))  # bytes(bytes) would be the same object


def _speeds(taken_s: dict[str, list[float]], raw_bytes: int) -> dict[str, list[float]]:
    return {name: [raw_bytes / 1e6 / took_s for took_s in samples] for name, samples in taken_s.items()}


def _compared(name: str, unit: Any, samples: dict[str, list[float]]) -> list[Figure]:
    ours = samples[TORPOR]
    others = [other for other in samples if other != TORPOR]
    return [
        Figure("codec", name, unit, ours, other, samples[other], at_least_ratio=1.0 if other == ZIPNN else None)
        for other in others
    ] or [Figure("codec", name, unit, ours)]
