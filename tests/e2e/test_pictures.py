"""The pictures of the documentation: the dashboard over a home that was lived in, the tray's icons. For `make pictures`."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import httpx
import pytest
from PIL import Image
from support.browser import signed_in
from support.daemon import Daemon
from support.lived_in import live_in
from support.s3_servers import Place
from torpor.client.handing_over import hand_over
from torpor.client.places import route
from torpor.tray.drawing import SIZES, Panel, State, icons

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = os.environ.get("TORPOR_PICTURES")
pytestmark = pytest.mark.skipif(not FOLDER, reason="made by `make pictures`")
WIDE, TALL, NARROW, CARDS = ({"width": w, "height": h} for w, h in ((1440, 900), (1280, 1400), (360, 720), (1100, 760)))


@pytest.fixture
def lived(home: Path, moto: Place) -> Iterator[Daemon]:
    """A daemon with a bucket, and a quota that is half used."""
    settings = moto.settings | {"TORPOR_TTL_DAYS": "30", "TORPOR_QUOTA": "180MB"}
    with Daemon(home, settings=settings) as running:
        running.request("PUT", "/v1/sync/limits", json={"up": 4 << 20})
        live_in(running, time.time(), hiking=True)
        yield running


def show(page: Page, place: str) -> None:
    """Go to a place, and wait until all of it is there."""
    from playwright.sync_api import expect

    page.evaluate("place => { location.hash = place }", place)
    page.get_by_role("heading", level=1).wait_for()
    expect(page.locator(".waiting, [aria-busy=true]")).to_have_count(0)
    page.evaluate("() => Promise.all([...document.images].map(image => image.decode().catch(() => null)))")
    page.mouse.move(0, 0)


def keep(page: Page, name: str) -> None:
    """Write what the window shows, without loss."""
    assert FOLDER is not None
    image = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    folder = Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{name}.webp", lossless=True, quality=100, method=6)


def test_pictures(chromium: Browser, lived: Daemon) -> None:
    point = lived.request("GET", "/v1/backups", params={"session_id": "hike"}).json()["backups"][0]["id"]
    garden = f"#/sessions/hike/{point}"
    with signed_in(chromium, lived, viewport=WIDE, locale="en-US", color_scheme="light") as page:
        show(page, "#/sync")
        page.wait_for_selector("progress:not([value='0'])")
        keep(page, "second-copy")
        lived.request("PUT", "/v1/sync/limits", json={"up": None})
        page.get_by_role("heading", name="Everything is in S3").wait_for()
        for name, place in (("sessions", garden), ("health", "#/health")):
            show(page, place)
            keep(page, name)
        page.set_viewport_size(TALL)
        show(page, "#/storage")
        keep(page, "storage")
        page.set_viewport_size(WIDE)
        ask = {"label": "Qwen chat", "scopes": ["read", "save", "restore"]}
        httpx.post(f"{lived.url}/v1/pair", json=ask, headers={"Origin": "http://localhost:8000"})
        show(page, "#/access")
        page.locator(".request").wait_for()
        keep(page, "access")
        page.get_by_role("button", name="Deny").click()
        page.locator(".request").wait_for(state="detached")
    with signed_in(chromium, lived, viewport=WIDE, locale="en-US", color_scheme="dark") as page:
        show(page, garden)
        keep(page, "dark")
    with signed_in(chromium, lived, viewport=TALL, locale="zh-CN", color_scheme="light") as page:
        show(page, "#/storage")
        keep(page, "chinese")
    with signed_in(
        chromium, lived, viewport=NARROW, locale="en-US", color_scheme="light", device_scale_factor=2
    ) as page:
        show(page, "#/sessions")
        keep(page, "narrow")


def test_an_opened_file(chromium: Browser, lived: Daemon, tmp_path: Path) -> None:
    """What a double click shows: a backup of another machine, and a file that was cut short."""
    hike, torn = tmp_path / "hike.bundle.qwnbak", tmp_path / "download.qwnbak"
    with lived.keeper() as keeper:
        backup = keeper.api.backup("hike")
        keeper.export(backup.id, hike)
        torn.write_bytes(hike.read_bytes()[:-5000])
        keeper.api.purge(backup.id)
        names = [hand_over(keeper.api, path)["id"] for path in (hike, torn)]
    with signed_in(chromium, lived, viewport=CARDS, locale="en-US", color_scheme="light") as page:
        show(page, f"#{route('open', *names)}")
        page.get_by_role("button", name="Import").wait_for()
        page.get_by_role("alert").wait_for()
        keep(page, "opened")


def test_icons_of_the_tray() -> None:
    """Every state in every size, on a dark panel, on a light one, and on both where nobody knows."""
    assert FOLDER is not None
    dark, light = (36, 38, 43), (245, 245, 246)
    panels: tuple[tuple[Panel, tuple[int, int, int]], ...] = (
        ("dark", dark),
        ("light", light),
        ("any", dark),
        ("any", light),
    )
    across, down = sum(SIZES) + 12 * (len(SIZES) + 1), 60
    sheet = Image.new("RGB", (across * len(panels), down * len(get_args(State)) + 12))
    for column, (panel, background) in enumerate(panels):
        sheet.paste(background, (column * across, 0, (column + 1) * across, sheet.height))
        for row, state in enumerate(get_args(State)):
            at = column * across + 12
            for image in icons(state, panel):
                sheet.paste(image, (at, row * down + 12 + (48 - image.height) // 2), image)
                at += image.width + 12
    sheet.save(Path(FOLDER) / "tray-icons.webp", lossless=True, quality=100, method=6)
