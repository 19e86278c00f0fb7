"""requirements.py ask | check FOLDER: what the Debian package bundles, and that constraints.txt pins all of it."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXTRAS = ("cli", "daemon", "tray")


def asked() -> list[str]:
    """Return the requirements of `torpor[daemon,tray]`, without torpor itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS)]
    return sorted({line for lines in lists for line in lines if not line.startswith("torpor[")})


def unpinned(folder: Path) -> list[str]:
    """Return the distributions in a folder that are not there in the version that constraints.txt has."""
    lines = (ROOT / "packaging" / "constraints.txt").read_text().splitlines()
    pins = {normal(name): version for name, _, version in (line.partition("==") for line in lines)}
    found = {normal(dist.metadata["Name"]): dist.version for dist in distributions(path=[str(folder)])}
    return sorted(f"{name}=={version}" for name, version in found.items() if pins.get(name) != version)


def normal(name: str) -> str:
    """Return a distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Run the command line."""
    if sys.argv[1] == "ask":
        print("\n".join(asked()))
    elif loose := unpinned(Path(sys.argv[2])):
        sys.exit(f"Not pinned in packaging/constraints.txt: {' '.join(loose)}")


if __name__ == "__main__":
    main()
