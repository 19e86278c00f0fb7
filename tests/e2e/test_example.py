"""The example's page in a real browser: it comes back after every crash, and goes on as if nothing had been."""

from __future__ import annotations

import base64
import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image
from support.browser import axe_violations, new_tab
from support.daemon import Daemon
from support.example import Example, example
from torpor.codec import manifest_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = os.environ.get("TORPOR_PICTURES")
SAID = ["What is on the picture?", "And behind it?", "Who lives there?", "What is it called?", "Would you go there?"]
# What a browser writes into the console by itself: the server died in mid-answer; the chat was asleep when it was called;
# the daemon was away.
EXPECTED = ("net::ERR_INCOMPLETE_CHUNKED", "status of 409", "status of 503")
SLOW_S = 0.012  # a letter: an answer lasts long enough to be interrupted


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon that may be killed."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder, Daemon(Path(folder) / "home") as running:
        yield running


@pytest.fixture(scope="module")
def running(daemon: Daemon) -> Iterator[Example]:
    with example(daemon.home) as server:
        yield server


@pytest.fixture
def server(running: Example) -> Example:
    running.start()
    return running


@pytest.fixture
def page(chromium: Browser, server: Example) -> Iterator[Page]:
    with new_tab(chromium, viewport={"width": 900, "height": 760}, reduced_motion="reduce", allow=EXPECTED) as tab:
        tab.goto(server.url)
        yield tab


def session(page: Page) -> str:
    return page.url.partition("#")[2]


def add_picture(page: Page) -> None:
    page.get_by_role("button", name="Try it with a picture").click()
    page.get_by_alt_text("boat.png").wait_for()


def say(page: Page, text: str, *, whole: bool = True) -> None:
    """Say something, and wait for the answer or the beginning of it."""
    place = page.locator("#messages li").count() + 2
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "place => document.querySelector(`.assistant:nth-child(${place}) .words`)?.textContent.length > 10", arg=place
    )
    if whole:
        page.get_by_role("button", name="Send").wait_for()


def answers(page: Page) -> list[str]:
    return page.locator("#messages .assistant .words").all_inner_texts()


def expect_words(page: Page, place: str, words: str) -> None:
    page.locator(place, has_text=words).wait_for()


def pictures_shown(page: Page) -> int:
    page.wait_for_function("() => [...document.querySelectorAll('.shown img')].every((image) => image.naturalWidth)")
    return page.locator(".shown img").count()


def until(found: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def newest(daemon: Daemon, session_id: str) -> dict[str, Any]:
    points = daemon.request("GET", f"/api/backup/points/{session_id}").json()["points"]
    return dict(points[0])


def is_newest(daemon: Daemon, page: Page) -> bool:
    points = daemon.request("GET", f"/api/backup/points/{session(page)}").json()["points"]
    return bool(points) and not points[0]["partial"] and points[0]["preview"] == answers(page)[-1]


def token_ids(daemon: Daemon, backup_id: str) -> Any:
    raw = daemon.request("GET", f"/v1/backups/{backup_id}/manifest").content
    return manifest_file.load(raw).layers["tokens"]["ids"]


def test_it_goes_on_with_the_tokens_of_a_run_that_was_left_alone(daemon: Daemon, server: Example, page: Page) -> None:
    add_picture(page)
    for text in SAID[:3]:
        say(page, text)
    expect_words(page, "#safety", "Saved")
    assert newest(daemon, session(page))["messages"] == 6
    twin, its = _twin(server, page)
    assert answers(page) == twin[:3]

    server.kill()  # between two messages
    expect_words(page, "#safety", "Saved")
    say_to_nobody(page)
    server.start(SLOW_S)
    expect_words(page, "#notice", "Woken with 6 messages")
    assert pictures_shown(page) == 1
    say(page, SAID[3], whole=False)

    server.kill()  # in the middle of an answer
    expect_words(page, "#notice", "does not answer")
    begun = answers(page)[3]
    assert begun != twin[3]
    assert twin[3].startswith(begun)
    server.start()
    expect_words(page, "#notice", "Woken with 8 messages")
    page.get_by_role("button", name="Send").wait_for()
    say(page, SAID[4])
    assert answers(page) == twin

    assert token_ids(daemon, saved(server, session(page))) == token_ids(daemon, its)


def saved(server: Example, session_id: str) -> str:
    answer = httpx.post(f"{server.url}/api/backup/create", json={"session_id": session_id}, trust_env=False)
    return str(answer.raise_for_status().json()["backup_id"])


def say_to_nobody(page: Page) -> None:
    page.get_by_label("Message", exact=True).fill("Is anybody there?")
    page.keyboard.press("Enter")
    expect_words(page, "#notice", "does not answer")
    assert page.get_by_label("Message", exact=True).input_value() == "Is anybody there?"  # it is not lost


def _twin(server: Example, page: Page) -> tuple[list[str], str]:
    """Say the same, with the same picture, in a chat that is not interrupted; return the answers, and its backup."""
    picture = httpx.get(f"{server.url}/chats/{session(page)}/images/0", trust_env=False)
    image = {"media_type": "image/png", "data": base64.b64encode(picture.content).decode()}
    said = [server.say("twin", text, 2 * n, images=[] if n else [image]) for n, text in enumerate(SAID)]
    return said, saved(server, "twin")


def test_a_tab_that_is_closed_in_mid_message_loses_nothing(
    daemon: Daemon, server: Example, chromium: Browser, page: Page
) -> None:
    say(page, "Hello")
    server.kill()
    server.start(SLOW_S)  # the page sees that when it sends the next message
    name = session(page)
    say(page, "And then?", whole=False)
    shown = answers(page)
    page.close(run_before_unload=False)
    until(lambda: shown[1][:10] in newest(daemon, name)["preview"])  # what was shown, or already the whole
    server.kill()
    server.start()
    with new_tab(chromium) as elsewhere:  # a browser that has never seen it
        elsewhere.goto(f"{server.url}/#{name}")
        elsewhere.locator("#messages li").nth(3).wait_for()
        if elsewhere.get_by_role("button", name="Go on with the answer").is_visible():
            elsewhere.get_by_role("button", name="Go on with the answer").click()
        expect_end(elsewhere)
        back = answers(elsewhere)
        assert back[0] == shown[0]
        assert back[1].startswith(shown[1][:10])
    assert server.say("twin-of-the-tab", "Hello", 0) == back[0]
    assert server.say("twin-of-the-tab", "And then?", 2) == back[1]


def expect_end(page: Page) -> None:
    page.locator("#messages .assistant:last-child .words", has_text=re.compile(r"[.!]$")).wait_for()
    page.get_by_role("button", name="Send").wait_for()


def test_without_a_daemon_it_says_so_and_drains_later(daemon: Daemon, server: Example, page: Page) -> None:
    add_picture(page)
    say(page, "Hello")
    expect_words(page, "#safety", "Saved")
    daemon.kill()
    say(page, "Are you alone?")
    expect_words(page, "#safety", "Backup is away: kept in this browser")
    said = answers(page)
    server.kill()  # now nobody but this browser knows of the second message
    server.start()
    page.reload()
    expect_words(page, "#notice", "The chat sleeps, and its backup is away")
    assert answers(page) == said
    daemon.errors.close()
    daemon.start()
    expect_words(page, "#notice", "Woken with 4 messages")
    assert pictures_shown(page) == 1
    say(page, "Never mind.")
    assert answers(page)[:2] == said
    until(lambda: newest(daemon, session(page))["messages"] == 6)


def test_another_model_is_given_the_pictures_without_asking(server: Example, page: Page) -> None:
    add_picture(page)
    say(page, "What is on the picture?")
    sizes: list[int] = []
    page.on("request", lambda request: sizes.append(len(request.post_data or "")))
    for name, words in (("4B", "text and images, for this model"), ("8B", "everything")):
        page.get_by_text(name, exact=True).click()
        expect_words(page, "#notice", words)
        assert pictures_shown(page) == 1
        say(page, f"And with {name}?")
    assert max(sizes) < 2000
    conversation = httpx.get(f"{server.url}/chats/{session(page)}", trust_env=False).json()["conversation"]
    assert [part["type"] for part in conversation[0]["content"]] == ["image", "text"]
    assert len(conversation) == 6


def test_an_earlier_point_is_a_click_away(daemon: Daemon, page: Page) -> None:
    for text in ("One", "Two", "Three"):
        say(page, text)
        until(lambda: is_newest(daemon, page))  # of two in a row, only the later would be sent
    before = answers(page)
    expect_words(page, "#safety", "Saved")
    page.locator("#safety").click()
    page.locator("#points summary", has_text="4 messages").click()
    expect_words(page, "#points p", "comes back")
    assert axe_violations(page) == []
    page.get_by_role("button", name="Go back to here").locator("visible=true").click()
    expect_words(page, "#notice", "Woken with 4 messages")
    say(page, "Three")
    assert answers(page) == before
    page.get_by_label("Message", exact=True).press_sequentially("Not sent yet")
    page.reload()
    page.wait_for_function("() => document.querySelector('#text').value === 'Not sent yet'")
    assert answers(page) == before
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 640})
    assert axe_violations(page) == []
    page.wait_for_function("document.documentElement.scrollWidth === 360")


@pytest.mark.skipif(not FOLDER, reason="made by `make pictures`")
def test_its_pictures(server: Example, page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 760})
    add_picture(page)
    say(page, "What is on the picture?")
    server.start(SLOW_S)
    say(page, "And who lives there?", whole=False)
    server.kill()
    server.start(SLOW_S)
    expect_words(page, "#notice", "Woken with 4 messages")
    pictures_shown(page)
    page.wait_for_function("text => document.querySelectorAll('.words')[3].textContent !== text", arg=answers(page)[1])
    keep(page, "chat")
    page.get_by_role("button", name="Send").wait_for()
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 780})
    page.locator("#safety").click()
    page.locator("#points summary").first.click()
    expect_words(page, "#points details[open] p", "back")
    keep(page, "chat-points-dark")


def keep(page: Page, name: str) -> None:
    """Write what the window shows, without loss."""
    image = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    folder = Path(str(FOLDER))
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{name}.webp", lossless=True, quality=100, method=6)
