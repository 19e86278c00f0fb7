"""An import worker for tests: what a file begins with says what becomes of it. It notes what it was asked for.

Usage: stand_in_worker.py NOTES, a folder for its notes; the file `room` there mends FULL, the file `closed` BUSY.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

NOTES = Path(sys.argv[1])


def problem(code: str, detail: str) -> dict[str, Any]:
    return {"outcome": "failed", "problem": {"code": code, "title": code, "detail": detail, "hint": "none"}}


def read(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        status, data = os.fstat(file.fileno()), file.read()
    seen = {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    if not status.st_mode & 0o400:  # tests may run as root, whom nothing is denied
        return problem("bad-input", f"{path}: Permission denied") | {"seen": None}
    if data.startswith(b"DIE"):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.startswith(b"HANG"):
        time.sleep(600)
    if data.startswith(b"FULL") and not (NOTES / "room").exists():
        return problem("store-full", "the disk is full") | {"seen": seen}
    if data.startswith(b"BUSY") and not (NOTES / "closed").exists():
        return {"outcome": "busy", "detail": "open for writing"}
    if not data.endswith(b"END"):
        return problem("invalid-manifest", f"{path} ends too early") | {"seen": seen}
    digest = hashlib.sha256(data).hexdigest()[:26]
    backup = NOTES / f"{digest}.backup"
    outcome = "known" if backup.exists() else "imported"
    backup.write_bytes(data)
    return {"outcome": outcome, "backup": {"id": digest, "session_id": "s-" + Path(path).stem}, "seen": seen}


for line in sys.stdin:
    path = json.loads(line)["path"]
    answer = read(path) if not path.endswith("junk.pt") else "junk"
    with open(NOTES / "asked", "a") as notes:
        outcome = answer["outcome"] if isinstance(answer, dict) else answer
        notes.write(json.dumps([path, outcome]) + "\n")
    print(json.dumps(answer) if isinstance(answer, dict) else answer, flush=True)
