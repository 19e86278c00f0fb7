"""What the figures were taken on."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from blake3 import blake3

PACKAGES = ("torpor", "torch", "transformers", "safetensors", "blake3", "zstandard", "zipnn", "blosc2")
PROBE_S = 0.2
_M_MMAP_THRESHOLD = -3
_ROOT = Path(__file__).resolve().parent.parent


def always_fresh_memory() -> bool:
    """Have malloc map every large block anew and unmap it when freed; tell whether the C library can.

    By default glibc raises its threshold after the first large free and from then on hands out pages that somebody
    has touched before, to whichever contender comes next. Pages that must be faulted in are the largest cost of a
    restore, so each side has to pay for its own: this makes every allocation of 128 KiB or more equally fresh.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(_M_MMAP_THRESHOLD, 128 << 10))


def describe(folder: Path) -> dict[str, Any]:
    """Return CPU, kernel, the file system of a folder, the load at the start, versions, and the commit."""
    return {
        "machine": {
            "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
            "cores": os.cpu_count(),
            "memory": _field("/proc/meminfo", "MemTotal"),
            "kernel": platform.release(),
            "filesystem": _filesystem(folder.resolve()),
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
    }


def commit() -> str | None:
    """Return the git commit that runs, with a `+` where files were changed since; None outside of a clone."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        head, changed = (_git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):  # no git here, or a clone that is somebody else's
        return None
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(_ROOT), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cores_given() -> float:
    """Return how many cores' worth of time one thread a core gets together; fewer than there are on a busy host."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as threads:
        until = time.perf_counter() + PROBE_S
        used_s = sum(threads.map(_spin_s, [until] * cores))
    return round(used_s / PROBE_S, 2)


def _spin_s(until: float) -> float:
    started, data = time.thread_time(), bytes(256 << 10)
    while time.perf_counter() < until:
        blake3(data).digest()  # lets the other threads run
    return time.thread_time() - started


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _filesystem(folder: Path) -> str:
    """Return type and device of the mount that a folder lies on."""
    found = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, place, kind = line.split()[:3]
        if folder.is_relative_to(place) and len(place) >= len(found[0]):
            found = (place, f"{kind} on {device}")
    return found[1]
