"""What a burst took is given back, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import ctypes
from torpor.daemon.memory import give_back, share_arenas

def rss_mib():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20

assert share_arenas()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
taken = [libc.malloc(100_000) for _ in range(640)]
for each in taken:
    ctypes.memset(each, 1, 100_000)
full = rss_mib()
for each in taken[:-1]:  # the last one keeps the end of the heap where it is
    libc.free(ctypes.c_void_p(each))
kept = rss_mib()
assert give_back()
print(full - kept, kept - rss_mib())
"""


def test_what_is_free_goes_back_to_the_machine() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    by_itself, given_back = map(int, done.stdout.split())
    assert by_itself < 10
    assert given_back > 50
