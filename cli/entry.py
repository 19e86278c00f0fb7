"""The `torpor` command. Says which extra is missing before anything is imported that needs it."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line; a daemon without most of it."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        print(f"torpor: {' and '.join(missing)} not installed: pip install 'torpor[cli]'", file=sys.stderr)
        raise SystemExit(9)
    try:
        if sys.argv[1:2] == ["serve"]:
            from . import serving

            if (wanted := serving.asked(sys.argv[2:])) is not None:
                serving.run(wanted)
                return
        from .main import run

        run()
    except KeyboardInterrupt:  # while the libraries were loaded
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
