"""Who may import whom. Each rule has its reason beside it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [
    "adapters",
    "cli",
    "client",
    "codec",
    "daemon",
    "db",
    "desktop",
    "measure",
    "state",
    "store",
    "sync",
    "tray",
    "web",
]

# folder -> folders it may import
MAY: dict[str, set[str]] = {
    "state": set(),  # what a session is depends on nothing
    "codec": {"state"},  # bytes know states, not files
    "store": {"state", "codec"},  # files are used by SDK and daemon alike, so they know neither
    "db": {"state"},  # the index can be rebuilt; it holds no format
    "sync": {"state", "codec"},  # outbox and blobs arrive as ports
    "daemon": {"state", "codec", "store", "db", "sync", "desktop"},  # the wiring; its doctor looks at the desktop
    "client": {"state", "codec", "store"},  # an inference environment has no database and no boto3
    "adapters": {"client", "codec", "state"},  # engines hand tensors over through the codec's bridge
    "desktop": {"state", "store"},  # files of the operating system, which name the home
    "measure": {"adapters", "client", "codec", "state", "store"},  # what users run: the SDK, and what lies under it
    "tray": {"client", "desktop", "state"},  # a client of the API
    "cli": {"client", "desktop", "state", "codec", "store"},  # formats and paths for what it shows
    "web": set(),
}
# These run other parts in their own process, and import them inside functions.
LATE: dict[str, set[str]] = {
    "cli": {"daemon", "adapters", "measure", "tray"},
    "measure": {"daemon", "sync"},  # the user's bucket: where it is, and plain requests to it
}
# Entry points of processes of their own; nothing imports them at start-up.
WHOLE_FILES: dict[str, set[str]] = {"cli/demo_worker.py": {"adapters"}}
# Third-party modules with one owner: importing them elsewhere would pull them into the wrong process.
OWNED = {
    "torch": {"codec/torch_bridge.py", "codec/pt_worker.py", "adapters", "cli/demo_worker.py", "measure"},
    "numpy": {"codec/torch_bridge.py", "adapters", "measure"},
    "transformers": {"adapters", "measure"},
    "sqlalchemy": {"db"},
    "alembic": {"db"},
    "fastapi": {"daemon"},
    "starlette": {"daemon"},
    "uvicorn": {"daemon"},
    "prometheus_client": {"daemon"},
    "watchdog": {"daemon"},
    "boto3": {"sync"},
    "botocore": {"sync"},
    "cryptography": {"codec"},
    "zstandard": {"codec"},
    "bitarray": {"codec/cold.py"},
    "keyring": {"daemon"},
    "httpx": {"client"},
    "typer": {"cli"},
    "rich": {"cli", "measure"},
    "pystray": {"tray"},
    "matplotlib": {"measure/chart.py"},
    "dbus_fast": {"tray", "daemon/logind.py"},
    "PIL": {"tray", "adapters"},
}


def files() -> list[Path]:
    return sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str, bool]]:
    """Return (relative level, module, inside a function or TYPE_CHECKING) of every import."""
    tree = ast.parse(path.read_text())
    late = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.dump(outer.test))
        for node in ast.walk(outer)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, id(node) in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", id(node) in late))
    return found


def check(path: Path) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    folder, depth = name.split("/")[0], name.count("/")
    wrong = []
    for level, module, late in imports(path):
        top = module.split(".")[0]
        if level == 0 and top == "torpor" and not name.startswith("db/migrations/"):
            wrong.append(f"{name}: absolute import of {module}")
        if level == 2 and depth == 1 and top != folder:
            allowed = MAY[folder] | WHOLE_FILES.get(name, set()) | (LATE.get(folder, set()) if late else set())
            if top not in allowed:
                wrong.append(f"{name}: may not import {top}")
        if level > 2:
            wrong.append(f"{name}: three dots")
        if level == 0 and top in OWNED and not OWNED[top] & {folder, name}:
            wrong.append(f"{name}: {top} belongs to {sorted(OWNED[top])}")
        if folder == "state" and level == 0 and top not in sys.stdlib_module_names:
            wrong.append(f"{name}: state imports {top}")
    return wrong


def test_every_import_is_allowed() -> None:
    assert [line for path in files() for line in check(path)] == []


def test_torch_is_imported_late() -> None:
    found = imports(ROOT / "codec" / "torch_bridge.py") + imports(ROOT / "codec" / "pt_worker.py")
    assert all(late for _, module, late in found if module in ("torch", "numpy"))


@pytest.mark.parametrize(
    "source",
    ["from ..client import x", "import torpor.state", "from ...state import x", "import sqlalchemy", "import blake3"],
)
def test_the_check_sees_a_forbidden_import(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "state" / "bad.py"
    bad.parent.mkdir()
    bad.write_text(source)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert check(bad)
