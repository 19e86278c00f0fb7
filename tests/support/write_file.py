"""Write one large backup in every format, without a daemon: `python write_file.py SIZE_BYTES`.

One line of JSON on stdout: `{"code": null, "detail", "peak_bytes"}`; what is written is only counted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import orjson
from blake3 import blake3
from torpor.codec import manifest_file
from torpor.codec.bundle import write_bundle
from torpor.codec.safetensors_file import write_safetensors
from torpor.codec.tree import CHUNK_BYTES
from torpor.codec.v1_write import Losses, write_v1
from torpor.state.manifest import BlobRef, Manifest

PATTERN = blake3(b"anything").digest(CHUNK_BYTES * 2)


def chunk(number: int) -> bytes:
    """Return bytes that do not compress, other ones for every number."""
    return PATTERN[number : number + CHUNK_BYTES]


def main() -> None:
    size = int(sys.argv[1])
    refs = {blake3(chunk(n)).hexdigest(): n for n in range(size // CHUNK_BYTES)}
    blocks = [{"digest": digest, "size_bytes": CHUNK_BYTES} for digest in refs]
    body = {"shape": [len(blocks), CHUNK_BYTES // 2], "dtype": "float16", "kind": "torch", "blocks": blocks}
    layers = {"vision_cache": {"$tensor": body}}
    manifest = Manifest("01M81P35719XNDZ4R57NMV6DYZ", "s", 1.0, "plain", layers)
    raw = manifest_file.dump(manifest)

    def read(ref: BlobRef) -> memoryview:
        return memoryview(chunk(refs[ref.digest]))

    for pieces in (
        write_v1(manifest, read, "0", Losses(), strict=False),
        write_v1(manifest, read, "0", Losses(), strict=True),
        write_bundle(raw, read),
        write_safetensors(raw, read),
    ):
        assert sum(len(piece) for piece in pieces) > size
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10
    sys.stdout.buffer.write(orjson.dumps({"code": None, "detail": None, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
