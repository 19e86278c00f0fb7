"""Load hostile `.pt` files as the worker does, each in a fork of a process that has torch already.

`python pt_cases.py FOLDER` writes them into the folder; one line of JSON on stdout: name -> [exit status, problem code].
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torpor.codec import pt_worker


class Evil:
    """Pickled, it is a call of `os.mkdir` on the folder that its name gives."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._folder,)


def deflated(folder: Path) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(folder / "plain.pt") as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return made.getvalue()


def wide() -> list[Any]:
    node: list[Any] = [0]
    for _ in range(60):
        node = [node, node]
    return node


def itself() -> list[Any]:
    node: list[Any] = []
    node.append(node)
    return node


def views() -> list[torch.Tensor]:
    base = torch.randn(1 << 20)
    return [base[i:] for i in range(200)]


STATES: dict[str, Callable[[Path], Any]] = {
    "plain": lambda _: {"a": torch.ones(3), 1: (float("nan"), b"x"), "o": OrderedDict(b=torch.zeros(0))},
    "evil": lambda folder: {"a": Evil(str(folder / "made-by-a-pickle"))},
    "expanded": lambda _: torch.zeros(1).expand(1 << 40),
    "many expanded": lambda _: [torch.full((1,), float(n)).expand(1 << 24) for n in range(20)],
    "views": lambda _: views(),
    "itself": lambda _: itself(),
    "wide": lambda _: wide(),
    "sparse": lambda _: torch.eye(3).to_sparse(),
    "surrogate": lambda _: {"a": "\ud800"},
    "layers that have no place": lambda _: {"metadata": 1, 3: 1, "q": 2},
}
BYTES: dict[str, Callable[[Path], bytes]] = {
    "evil pickle": lambda folder: pickle.dumps(Evil(str(folder / "made-by-a-pickle")), 2),
    "other pickle": lambda _: pickle.dumps({"a": 1}, 4),
    "deflated": deflated,
    "head of a pickle": lambda _: b"\x80\x02",
    "head of a zip": lambda _: b"PK\x03\x04",
    "flipped": lambda folder: (folder / "plain.pt").read_bytes().replace(b"data.pkl", b"data.pkm"),
}


def load(path: Path) -> tuple[int, str | None]:
    """Return the exit status of a worker, and the code of the problem it reports."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as messages, open(path, "rb") as file:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(messages.fileno(), 2)
            sys.argv[1:] = [str(file.fileno()), str(path.stat().st_size)]
            os._exit(pt_worker.main())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        messages.seek(0)
        last = messages.read().strip().rpartition(b"\n")[2]
        return status, json.loads(last)["code"] if status else None


def main() -> None:
    folder, results = Path(sys.argv[1]), {}
    pt_worker._MEMORY_BESIDE = 48 << 20  # else it takes seconds to fill
    for name, make in STATES.items():
        torch.save(make(folder), folder / f"{name}.pt")
    for name, make in BYTES.items():
        (folder / f"{name}.pt").write_bytes(make(folder))
    torch.save({"a": torch.ones(3)}, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    for name in [*STATES, *BYTES, "legacy"]:
        results[name] = load(folder / f"{name}.pt")
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
