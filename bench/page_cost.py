"""What a page's own save costs the daemon: `python bench/page_cost.py [--saves 60] [--dir FOLDER] [--json]`.

Each save is one `POST /api/backup/create` with the state of a page behind its base, over one connection, timed by the
page: so a figure holds HTTP, the reading of what the page says, and everything durable. Beside it stands what the disk
takes alone for the same: two files written and synced, and their folder. The exit status is 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from blake3 import blake3
from torpor.codec import manifest_file
from torpor.measure.rig import daemon, scratch
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, Manifest
from ulid import ULID

LIMIT_MS = 10.0
WORDS = "It was a bright cold day in April, and the clocks were striking thirteen. " * 8  # 600 characters
SETTLE_S = 2.0
LAYOUT = KVLayout("uint8", 1, (KVLayer(1, 1, 1),))


@dataclass(frozen=True, slots=True)
class Case:
    """A session: how many messages it has before its saves are timed, and tokens of KV cache at its base."""

    name: str
    messages: int
    kv_tokens: int = 0
    chars: int = 600


CASES = (
    Case("a chat of 10 messages", 10),
    Case("a chat of 100 messages", 100),
    Case("a chat of 1,000 messages", 1_000),
    Case("the first behind 32K tokens of KV cache", 20, 32_768),
    Case("an answer of 40,000 characters", 2, chars=40_000),
)


def main() -> int:
    """Measure every case in one daemon."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=60)
    parser.add_argument("--dir", type=Path, default=Path(__file__).resolve().parent / "results")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = {}
    with scratch(options.dir) as folder, daemon(folder / "home") as running:
        time.sleep(SETTLE_S)
        page = Page(folder / "home")
        rows["the disk alone"] = _spread([disk_ms(folder) for _ in range(options.saves)])
        for case in CASES:
            prepared = [prepare(page, case) for _ in range(options.saves if case.kv_tokens else 1)]
            before = _cpu_ms(running.pid)
            took = [ms for session in prepared for ms in saves(page, case, session, options.saves // len(prepared))]
            rows[case.name] = _spread(took) | {"cpu_ms": (_cpu_ms(running.pid) - before) / options.saves}
    if options.json:
        print(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    for name, row in rows.items() if not options.json else ():
        cpu = f"   {row['cpu_ms']:6.2f} ms of CPU" if "cpu_ms" in row else ""
        print(f"{name:46} {row['median_ms']:7.2f} ms   95%: {row['p95_ms']:7.2f} ms{cpu}")
    return int(any(rows[case.name]["median_ms"] > LIMIT_MS for case in CASES))


def _spread(ms: list[float]) -> dict[str, float]:
    return {"median_ms": statistics.median(ms), "p95_ms": sorted(ms)[len(ms) * 95 // 100]}


class Page:
    """Sends requests over one connection, as a browser does."""

    def __init__(self, home: Path) -> None:
        listening = orjson.loads((home / "daemon.json").read_bytes())
        self._connection = http.client.HTTPConnection(listening["url"].removeprefix("http://"))
        self._headers = {"Authorization": f"Bearer {(home / 'token').read_text()}", "Content-Type": "application/json"}

    def send(self, method: str, path: str, body: bytes, kind: str = "application/json") -> Any:
        """Send a request and return its answer."""
        self._connection.request(method, path, body, self._headers | {"Content-Type": kind})
        answer = self._connection.getresponse()
        raw = answer.read()
        if answer.status >= 300:
            raise RuntimeError(raw.decode())
        return orjson.loads(raw)

    def save(self, state: dict[str, Any]) -> str:
        """Save a state and return the id of its backup."""
        body = {"session_id": state["session_id"], "small": True, "state": state}
        made = self.send("POST", "/api/backup/create", orjson.dumps(body))
        assert made["kind"] == "small"
        return str(made["backup_id"])


def prepare(page: Page, case: Case) -> tuple[str, str]:
    """Make a session with all that a case has before its saves are timed; return it and its newest backup."""
    session_id = str(ULID())
    if case.kv_tokens:
        return session_id, _saved_with_kv(page, session_id, case)
    return session_id, page.save(_state(session_id, None, 0, [_message(n, case.chars) for n in range(case.messages)]))


def saves(page: Page, case: Case, session: tuple[str, str], count: int) -> Iterator[float]:
    """Yield how long each of some saves took, in milliseconds; each adds a message."""
    session_id, base = session
    for turn in range(count):
        state = _state(session_id, base, case.messages + turn, [_message(case.messages + turn, case.chars)])
        started = time.perf_counter()
        base = page.save(state)
        yield (time.perf_counter() - started) * 1000


def _state(session_id: str, base: str | None, keep: int, messages: list[dict[str, Any]]) -> dict[str, Any]:
    made = {"id": str(ULID()), "session_id": session_id, "created_at": time.time(), "base": base, "keep": keep}
    return made | {"messages": messages, "draft": None, "partial": False}


def _message(number: int, chars: int) -> dict[str, Any]:
    text = f"{number} " + WORDS * (chars // len(WORDS) + 1)
    return {"role": ("user", "assistant")[number % 2], "content": text[:chars]}


def _saved_with_kv(page: Page, session_id: str, case: Case) -> str:
    """Commit what an inference process would have: the conversation, and a KV cache of many blocks."""
    block = LAYOUT.block_tokens * LAYOUT.token_bytes()
    raws = [number.to_bytes(block, "little") for number in range(-(-case.kv_tokens // LAYOUT.block_tokens))]
    refs = tuple(BlobRef(blake3(raw).hexdigest(), block) for raw in raws)
    for ref, raw in zip(refs, raws, strict=True):
        if page.send("POST", "/v1/blobs/missing", orjson.dumps({"blobs": {ref.digest: block}}))["missing"]:
            page.send("PUT", f"/v1/blobs/{ref.digest}", raw, "application/octet-stream")
    manifest = Manifest(
        id=str(ULID()),
        session_id=session_id,
        created_at=time.time(),
        adapter="transformers",
        layers={"text_context": {"conversation": [_message(n, case.chars) for n in range(case.messages)]}},
        tokens=case.kv_tokens + 1,
        kv_cache=KVCache(LAYOUT, case.kv_tokens, "DynamicCache", refs),
    )
    return str(page.send("PUT", f"/v1/backups/{manifest.id}", manifest_file.dump(manifest))["id"])


def disk_ms(folder: Path) -> float:
    """Return how long the disk takes for two small files and their folder, in milliseconds."""
    started = time.perf_counter()
    for name in ("manifest", "log"):
        fd = os.open(folder / f"{name}-{ULID()}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, WORDS.encode())
        os.fsync(fd)
        os.close(fd)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)
    return (time.perf_counter() - started) * 1000


def _cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1000


if __name__ == "__main__":
    sys.exit(main())
