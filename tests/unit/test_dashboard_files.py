"""The dashboard's files by themselves: what is loaded beforehand, and what its policy would refuse."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

WEB = Path(str(files("torpor.web"))).resolve()
DASHBOARD = WEB / "dashboard"
KEEPERS = ("first.js", "theme.js", "words.js", "keys.js")  # of what is no secret: colours, the language, shortcuts
_REFUSED = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function|document\.write")
_IMPORT = re.compile(r'^(?:import|export)\b[^;]*?from "(\.[^"]+)";|^import "(\.[^"]+)";', re.MULTILINE)


def imported(path: Path) -> list[Path]:
    found = (a or b for a, b in _IMPORT.findall(path.read_text()))
    return [(path.parent / name).resolve() for name in found]


def with_all_imports(*starts: Path) -> set[Path]:
    seen: set[Path] = set()
    todo = list(starts)
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo.extend(imported(path))
    return seen


def test_what_the_first_view_needs_is_loaded_beforehand() -> None:
    """Or each file would only be asked for when the one that imports it has come."""
    listed = re.findall(r'rel="modulepreload" href="([^"]+)"', (DASHBOARD / "index.html").read_text())
    needed = with_all_imports(DASHBOARD / "app.js", DASHBOARD / "sessions.js") - {DASHBOARD / "app.js"}
    assert listed == sorted("/" + path.relative_to(WEB).as_posix() for path in needed)


def test_a_module_is_small_and_imports_files_of_the_package() -> None:
    for path in sorted(DASHBOARD.rglob("*.js")):
        text = path.read_text()
        assert len(text.splitlines()) <= 350, path
        assert all(each.is_file() and each.is_relative_to(WEB) for each in imported(path)), path
        assert not _REFUSED.search(text), path
        assert "localStorage" not in text or path.name in KEEPERS, path


def test_the_page_has_nothing_inline() -> None:
    text = (DASHBOARD / "index.html").read_text()
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*\bsrc=)|https?://", text)


def test_every_phrase_that_is_said_is_in_the_catalogs() -> None:
    said = {key for path in DASHBOARD.glob("*.js") for key in re.findall(r"""\bt\("([\w.-]+)\"""", path.read_text())}
    words = {
        path: set(re.findall(r'^  "([\w.-]+)":', path.read_text(), re.MULTILINE))
        for path in DASHBOARD.glob("words/*.js")
    }
    english = set().union(*(keys for path, keys in words.items() if path.name.startswith("en")))
    chinese = set().union(*(keys for path, keys in words.items() if path.name.startswith("zh")))
    assert said - english == set()
    assert said - chinese == set()
    assert len(said) > 100
