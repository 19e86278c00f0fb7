"""Read one file as an import does, without a daemon, and tell how that went: `python read_file.py PATH`.

One line of JSON on stdout: `{"code": of the error or null, "detail", "peak_bytes": of resident memory}`.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
from blake3 import blake3
from torpor.client.sources import open_source
from torpor.client.transfer import format_of
from torpor.state.errors import TorporError
from torpor.state.manifest import BlobRef


def read(path: Path) -> dict[str, Any]:
    """Return the layers of a file; what it stores is only counted and hashed."""
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "rb", buffering=0))
        kind = format_of(file.read(512), path.name)
        source = open_source(kind, file, os.fstat(file.fileno()).st_size, stack)
        return source.layers(lambda chunk: BlobRef(blake3(chunk).hexdigest(), chunk.nbytes))


def main() -> None:
    code = detail = None
    try:
        read(Path(sys.argv[1]))
    except TorporError as error:
        code, detail = error.code, error.detail
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count what the parent had when it forked
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10
    sys.stdout.buffer.write(orjson.dumps({"code": code, "detail": detail, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
