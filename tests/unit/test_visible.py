"""Text of others on a terminal: nothing in it acts, and all of it is told."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.manifests import hostile_trees, manifest
from torpor.cli import diff, output, show, watch
from torpor.cli.output import table
from torpor.cli.visible import plain, visible
from torpor.codec.compare import compare
from torpor.codec.describe import describe
from torpor.db.records import record_of
from torpor.state.backup import Backup
from torpor.state.errors import BadInput
from torpor.state.manifest import Manifest


def printed(what: Any, width: int = 4000) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(what, crop=False)
    return out.getvalue()


def acting(text: str) -> set[str]:
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [bold]text[/]", "plain [bold]text[/]"), ("\x1b[31mred", "\\x1b[31mred"), ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\u202eevil\u202c", "\\u202eevil\\u202c"), ("\u2066x", "\\u2066x"), ("\x9b2J", "\\x9b2J"), ("\x7f", "\\x7f"),
        ("\u2028", "\\u2028"), ("\ufeff", "\\ufeff"), ("\U000e0041", "\\U000e0041"), ("\ud800", "\\ud800"),
        ("é 日本 👩\u200d👩 می\u200cخواهم", "é 日本 👩\u200d👩 می\u200cخواهم"), ("", ""),
    ],
    ids=ascii,
)  # fmt: skip
def test_what_acts_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert printed(plain(text)) == shown + "\n"


@given(st.text())
def test_nothing_acts(text: str) -> None:
    assert acting(visible(text)) <= {"\u200c", "\u200d"}
    rows = table("a", title=text)
    rows.add_row(text)
    assert acting(printed(rows)) <= {"\u200c", "\u200d"}


def of(text: str) -> Manifest:
    """A manifest with the text wherever a user's text may stand."""
    message = {"role": text, "content": [{"type": "text", "text": text}]}
    layers = {
        "metadata": {"model_name": text, text: text},
        "text_context": {text: [message, {text: {"$bytes": {"size_bytes": 0, "data": ""}}}], "thinking": text},
        "config_snapshot": {"$tensor": {"dtype": text}},
        "vision_cache": {"$map": [[text, {"$tensor": {"shape": [0], "dtype": "int8", "kind": text, "data": ""}}]]},
    }
    return manifest(layers=layers, adapter=text, omitted={text: text})


def record(made: Manifest) -> Backup:
    return record_of(made, manifest_digest="d" * 64, manifest_bytes=1, pinned=False, expires_at=None)


def pages(a: Manifest, b: Manifest) -> list[Any]:
    blob = {"digest": "c" * 64, "size_bytes": 1, "layer": "media", "path": "/x/y/z", "present": False, "shared_with": 0}
    sharing = {"others": 0, "backups": [], "shared_bytes": 0, "own_bytes": 1}
    seen = show.View(record(b), b, describe(b), [blob], sharing)
    compared = compare(a, b)
    return [
        show.render(seen, everything=True, all_blobs=True),
        diff.render(compared, record(a), record(b), everything=True),
    ]


HOSTILE = "\x1b]0;pwned\x07\x1b[2J\x9b1m\u202e[red]m[/red][/]:smile:"


def test_hostile_text_reaches_no_terminal() -> None:
    for page in pages(manifest(adapter=HOSTILE), of(HOSTILE)):
        text = printed(page)
        assert acting(text) == set()
        assert visible(HOSTILE)[:15] in text
        assert "[red]m[/red][/]:smile:" in text


def test_what_a_file_says_of_itself_reaches_no_terminal() -> None:
    """A failure's detail names keys of the file that was refused."""
    problem = {"detail": HOSTILE, "hint": HOSTILE}
    failing = [{"path": "/drop/f", "detail": HOSTILE, "at": 0.0}]
    row = {"folder": f"/{HOSTILE}", "mode": "inotify", "files": 0, "waiting": 0, "failing_count": 1}
    watches = [row | {"problem": problem, "failing": failing}]
    rows = table("!", "")
    watch.add_status_rows(rows, watches)
    for page in (rows, watch._watches_table(watches)):
        text = printed(page)
        assert acting(text) == set()
        assert text.count("[red]m[/red][/]:smile:") == 4


def test_a_name_that_is_not_utf8_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"path": Path("a\udcff"), "files": [("b\udcff", 1, None)]})
    assert orjson.loads(capsys.readouterr().out) == {"path": "a\\udcff", "files": [["b\\udcff", 1, None]]}


@given(hostile_trees, hostile_trees)
def test_any_manifest_is_shown_and_compared(a: Any, b: Any) -> None:
    first, second = (manifest(layers={"text_context": x, "vision_cache": [x]}) for x in (a, b))
    try:
        made = pages(first, second)
    except BadInput:
        return
    for page in made:
        assert acting(printed(page)) <= {"\u200c", "\u200d"}


@given(st.text(max_size=30))
def test_any_text_is_shown(text: str) -> None:
    for page in pages(manifest(), of(text)):
        assert acting(printed(page)) <= {"\u200c", "\u200d"}
