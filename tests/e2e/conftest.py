"""Fixtures of several files here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.watching import Watching


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Watching]:
    """Nothing is watched yet."""
    watching = Watching(tmp_path).start()
    yield watching
    watching.stop()


@pytest.fixture
def watching(idle: Watching) -> Watching:
    return idle.watch()


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[Watching]:
    """Watches, but no event ever comes."""
    watching = Watching(tmp_path).start().watch()
    watching.folder()._subscription._on_change = lambda folder: None
    yield watching
    watching.stop()
