"""`python -m torpor.tray`: the tray icon, in a process of its own that imports no more than it needs."""

from __future__ import annotations

import sys


def _enter() -> int:
    # httpx offers a command line where click, rich and pygments are installed, and imports them: 5 MiB for nothing.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from .running import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_enter())
