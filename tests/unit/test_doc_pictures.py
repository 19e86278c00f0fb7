"""The pictures of the documentation: each is shown somewhere, described for who cannot see it, and small."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 700 << 10  # of all, in every clone


def test_every_picture_is_shown_and_described() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    shown = [
        found for page in pages for found in re.findall(r"!\[([^\]]*)\]\([^)]*pictures/([^)]+)\)", page.read_text())
    ]
    assert all(len(words) > 5 for words, _ in shown)
    there = list((ROOT / "docs" / "pictures").iterdir())
    assert {name for _, name in shown} == {each.name for each in there}
    assert sum(each.stat().st_size for each in there) < MOST_BYTES
