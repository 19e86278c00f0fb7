"""`torpor` as a process of its own, forked off one that has imported everything: a suite starts hundreds of them.

From its arguments to its end it is what `python -m torpor.cli.entry` is; only what it imports is there already. Processes
with torch start in the same way, off another one.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import orjson

# What is imported before the fork.
TORPOR = """
import alembic.command, alembic.config, boto3, botocore.session, httpcore, pydantic.v1, typer.rich_utils
import torpor.web, uvicorn, uvicorn.lifespan.off
import uvicorn.loops.asyncio, uvicorn.protocols.http.h11_impl
import torpor.cli.entry, torpor.cli.main, torpor.cli.key, torpor.cli.remote, torpor.cli.sync
import torpor.daemon.app, torpor.daemon.compose, torpor.daemon.security, torpor.daemon.server, torpor.daemon.settings
import torpor.daemon.bring_back, torpor.daemon.importer, torpor.daemon.opening, torpor.daemon.plain_copies
import torpor.daemon.http_protocol, torpor.daemon.logs, torpor.daemon.pages, torpor.daemon.service
import torpor.db.migrate, torpor.store.move, torpor.sync.s3, torpor.sync.worker

# What typer reads off the signatures of all commands, at each start again.
commands = typer.main.get_command(torpor.cli.main.app)
typer.main.get_command = lambda app: commands

# What Alembic makes of the migrations, for each new home again, and what botocore reads for each client.
sys.path.insert(0, os.environ["TESTS"])
import support.botocore_loader, support.new_index

del sys.path[0]
support.botocore_loader.share_loader()
boto3.session.Session("none", "none", region_name="us-east-1").client("s3").close()
support.new_index.statements_of_the_migrations()
support.new_index.replay_new_indexes()
"""
TORCH = """
import httpcore, torch, torpor.cli.demo_worker, torpor.client.asgi, uvicorn, uvicorn.loops.asyncio
import starlette.middleware.trustedhost, uvicorn.lifespan.on, uvicorn.protocols.http.h11_impl
"""

# Gets the imports; reads packets from stdin, a socket: what to run as JSON, and four descriptors: what is to be the
# child's stdin, stdout and stderr, and where its pid is written, and its exit status at its end.
_ZYGOTE = """
import atexit, gc, importlib, json, os, signal, socket, sys

status = 1
@atexit.register  # first, so it comes last: to take all those imports apart takes longer than most commands
def leave():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

gc.disable()
exec(sys.argv[1])
channel = socket.socket(fileno=0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
gc.freeze()
gc.enable()
while True:
    packet, fds, _, _ = socket.recv_fds(channel, 1 << 20, 4)
    if not packet:
        sys.exit()
    if not os.fork():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if not pid:
            break
        for fd in (*fds[:3], 0):
            os.close(fd)
        try:
            os.write(fds[3], b"%d\\n" % pid)
            os.write(fds[3], b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        finally:
            os._exit(0)
    for fd in fds:
        os.close(fd)
channel.detach()
for number, fd in enumerate(fds[:3]):
    os.dup2(fd, number)
for fd in fds:
    os.close(fd)
sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
asked = json.loads(packet)
if asked["terminal"]:
    import fcntl, termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.chdir(asked["cwd"])
os.environ.clear()
os.environ.update(asked["environment"])
sys.path[:0] = asked["folders"]
sys.argv = ["torpor", *asked["words"]]
try:
    importlib.import_module(asked["module"]).main()
    status = 0
except SystemExit as ended:
    status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    raise
"""

_OURS = ("TORPOR_", "S3_", "AWS_", "PERSISTENCE_BACKEND")
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # which is looked at when transformers is imported
PRINTING = {"COLUMNS": "140", "NO_COLOR": "1"}  # what is printed has looked at them before the fork
_OF_THE_START = ("PYTHON", "LD_")
_STARTED_WITH = {k: v for k, v in os.environ.items() if k.startswith(_OF_THE_START)}


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what is meant for torpor."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_OURS)}


def starts_otherwise(environment: Mapping[str, str]) -> bool:
    """Tell whether the interpreter itself is to start in another way than the one that is forked."""
    return {k: v for k, v in environment.items() if k.startswith(_OF_THE_START)} != _STARTED_WITH


class Forked:
    """A running `torpor`, with what is needed of `subprocess.Popen`."""

    def __init__(self, pid: int, stdout: BinaryIO | None, status: BinaryIO) -> None:
        self.pid, self.stdout, self.stderr, self._status = pid, stdout, None, status
        self.returncode: int | None = None

    def wait(self, timeout_s: float | None = None) -> int:
        """Return its exit status, negative for a signal. Raises: subprocess.TimeoutExpired."""
        if self.returncode is None:
            waiting = select.poll()
            waiting.register(self._status, select.POLLIN)
            if not waiting.poll(None if timeout_s is None else timeout_s * 1000):
                raise subprocess.TimeoutExpired("torpor", timeout_s or 0.0)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


@functools.cache
def _zygote(imports: str) -> socket.socket:
    """Start what is forked; it ends with this process, whose socket it reads."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-c", _ZYGOTE, imports]
        environment = clean_environment() | PRINTING | _QUIET | {"TESTS": str(Path(__file__).parents[1])}
        _kept.append(subprocess.Popen(command, env=environment, stdin=theirs, cwd="/", start_new_session=True))
    return ours


_kept: list[subprocess.Popen[bytes]] = []


def start(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: str = "/",
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | int = subprocess.PIPE,
    stderr: BinaryIO,
    terminal: BinaryIO | None = None,
    module: str = "torpor.cli.entry",
    folders: Sequence[str] = (),
    imports: str = TORPOR,
) -> Forked:
    """Start `torpor WORDS`, or the `main` of another module, which may lie in one of `folders`.

    Its stdin is empty, a file, or a terminal, which becomes its controlling one.
    """
    asked = orjson.dumps(
        {
            "words": list(words),
            "cwd": cwd,
            "environment": dict(environment),
            "terminal": terminal is not None,
            "module": module,
            "folders": list(folders),
        }
    )
    status, status_theirs = os.pipe()
    out, out_theirs = os.pipe() if isinstance(stdout, int) else (None, os.dup(stdout.fileno()))
    source = terminal or stdin
    reads = os.open(os.devnull, os.O_RDONLY) if source is None else os.dup(source.fileno())
    try:
        socket.send_fds(_zygote(imports), [asked], [reads, out_theirs, stderr.fileno(), status_theirs])
    finally:
        for fd in (reads, out_theirs, status_theirs):
            os.close(fd)
    told = os.fdopen(status, "rb", buffering=0)
    pid = int(told.readline())
    return Forked(pid, None if out is None else os.fdopen(out, "rb"), told)
