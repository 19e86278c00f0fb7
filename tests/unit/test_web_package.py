"""The page's client as it is given away: what npm packs, what it imports, and what it never does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from torpor.daemon.pages import page_files

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
MODULES = sorted((WEB / "client").glob("*.js"))
_IMPORT = re.compile(r'^(?:import|export)\b[^"\n]*from "([^"]+)";$', re.MULTILINE)


def packed() -> set[Path]:
    """Return what `npm pack` takes: what `files` names, and never more."""
    patterns = json.loads((WEB / "package.json").read_text())["files"]
    found = [set(WEB.glob(pattern)) for pattern in patterns]
    assert all(found), patterns
    return set().union(*found)


def test_what_is_packed_is_whole() -> None:
    package = json.loads((WEB / "package.json").read_text())
    entry = package["exports"]["."]
    assert {WEB / entry["default"], WEB / entry["types"], WEB / package["types"], *MODULES} <= packed()
    assert f'version = "{package["version"]}"' in (ROOT / "pyproject.toml").read_text()
    whole = {path.resolve() for path in packed()}
    for module in (path for path in whole if path.suffix == ".js"):
        for name in _IMPORT.findall(module.read_text()):
            assert (module.parent / name).resolve() in whole, (module.name, name)


def test_the_daemon_serves_all_modules() -> None:
    assert {f"/client/{module.name}" for module in MODULES} <= set(page_files())


def test_what_is_declared_is_there() -> None:
    declared = re.findall(r"^export declare (?:class|function) (\w+)", (WEB / "client/torpor.d.ts").read_text(), re.M)
    entry = (WEB / "client/torpor.js").read_text()
    assert declared == ["Problem", "connect"]
    assert all(re.search(rf"^export (?:function {name}\b|{{[^}}]*\b{name}\b)", entry, re.M) for name in declared)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_is_modest(module: Path) -> None:
    text = module.read_text()
    assert text.startswith("/**")
    assert len(text.splitlines()) <= 350
    # Tokens are of a tab and of headers; nothing is run or shown that came from elsewhere.
    for never in ("localStorage", "innerHTML", "eval(", "new Function", "document.cookie", "console.", "import("):
        code = re.sub(r"/\*\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
        assert never not in code, never
