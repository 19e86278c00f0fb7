"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.botocore_loader import share_loader
from support.browser import new_tab, running_chromium
from support.daemon import Daemon, new_daemon
from support.new_index import replay_new_indexes
from support.s3_servers import Moto, Place, Weed, new_place, new_room, remove_place, running_moto, running_weed

if TYPE_CHECKING:  # playwright takes a while to import, and few tests need it
    from playwright.sync_api import Browser, Page

# Torch's threads wait for each other; on cores that several workers share, that costs more than it gains.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A run in the background of a shell has Ctrl-C ignored, and so would have every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
SOAK = bool(os.environ.get("TORPOR_SOAK"))
settings.register_profile(
    "torpor",
    deadline=None,
    max_examples=400 if SOAK else 40,
    derandomize=not SOAK,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("torpor")
replay_new_indexes()
share_loader()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the full counts to `make soak`."""
    if not SOAK:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for garbage in what the tests make alone: what is imported and collected stays to the end, and is large."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ("TORPOR_", "S3_", "AWS_", "PERSISTENCE_BACKEND")
    for name in [n for n in os.environ if n.startswith(ours) and n != "TORPOR_SOAK"]:
        monkeypatch.delenv(name)
    os.umask(0o022)  # commands that run in this process close theirs


@pytest.fixture
def home() -> Iterator[Path]:
    """A home folder with a short path (Unix sockets allow about 100 characters)."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        yield Path(folder) / "home"


@pytest.fixture
def daemon(home: Path) -> Iterator[Daemon]:
    with Daemon(home) as running:
        yield running


@pytest.fixture(scope="session")
def shared_daemon() -> Iterator[Daemon]:
    """One daemon for tests that only need somewhere to save."""
    with new_daemon() as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for the tests of a file. While it runs, its event loop does: no `asyncio.run` in such a file."""
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Page]:
    """A tab that knows nothing yet; an error in its console, or a request off the machine, is a failure."""
    with new_tab(chromium) as page:
        yield page


@pytest.fixture(scope="session")
def weed_server() -> Iterator[Weed]:
    """A SeaweedFS for all tests of this process; one that kills it takes `running_weed` instead."""
    with running_weed() as server:
        yield server


@pytest.fixture(scope="session")
def moto_server() -> Iterator[Moto]:
    """A moto for all tests of this process."""
    with running_moto() as server:
        yield server


@pytest.fixture
def weed(weed_server: Weed) -> Iterator[Place]:
    """A bucket of its own on a real server."""
    place = new_place(weed_server)
    yield place
    remove_place(place)


@pytest.fixture
def moto(moto_server: Moto) -> Iterator[Place]:
    """A bucket of its own on the server that behaves like AWS."""
    place = new_place(moto_server)
    yield place
    remove_place(place)


@pytest.fixture
def weed_room(weed_server: Weed) -> Place:
    """A prefix of its own in a bucket that tests share, which is quicker than a bucket."""
    return new_room(weed_server)


@pytest.fixture
def moto_room(moto_server: Moto) -> Place:
    """A prefix of its own in a bucket that tests share."""
    return new_room(moto_server)
