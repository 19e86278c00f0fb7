"""How the bench finds and runs llama.cpp's server; a script stands in that knows as much of HTTP."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from torpor.measure.llama_server import VARIABLE, find_server, llama_server
from torpor.state.errors import MissingExtra

SERVER = """#!{python}
import http.server, json, os, sys
from pathlib import Path
options = dict(zip(sys.argv[1::1], sys.argv[2::1]))
Path(options["--slot-save-path"], "pid").write_text(str(os.getpid()))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer({{}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer({{"path": self.path, "asked": asked}}, 501 if "erase" in self.path else 200)
    def _answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
"""


def program(folder: Path, text: str) -> Path:
    path = folder / "llama-server"
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_it_is_named_or_lies_on_the_path_or_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingExtra, match="not installed"):
        find_server()
    found = program(tmp_path, SERVER)
    assert find_server() == found
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(MissingExtra, match="not installed"):
        find_server()


def test_it_is_asked_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(program(tmp_path, SERVER)))
    with llama_server(tmp_path / "model.gguf", tmp_path, 128) as server:
        pid = int((tmp_path / "pid").read_text())
        assert server.prompt([1, 2])["asked"]["prompt"] == [1, 2]
        told = server.slot("save", filename="slot.bin")
        assert told == {"path": "/slots/0?action=save", "asked": {"filename": "slot.bin"}}
        with pytest.raises(RuntimeError, match="501"):
            server.slot("erase")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_one_that_does_not_start_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(program(tmp_path, "#!/bin/sh\necho no such model\nexit 1\n")))
    with (
        pytest.raises(MissingExtra, match="no such model"),
        llama_server(tmp_path / "model.gguf", tmp_path, 128),
    ):
        pass
