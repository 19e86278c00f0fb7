"""The dashboard's sessions in a real browser: list, history, backup, search, what can be done, keyboard, small and large."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.albums import AlbumTarget, hike, scene
from support.browser import axe_violations, new_tab
from support.chats import plain
from support.commands import as_json
from support.daemon import Daemon
from support.ports import free_port
from torpor.adapters.plain import PlainTarget
from torpor.client import Keeper
from torpor.client.provider import SessionTable
from torpor.state.backup import Backup
from torpor.state.errors import BackupNotFound, SessionNotFound

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

NARROW, USUAL, HUGE = ({"width": 360, "height": 740}, {"width": 1440, "height": 900}, {"width": 3840, "height": 2160})
BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor"
SHIFTS = """() => new Promise(done => {
  new PerformanceObserver(list => done(list.getEntries().reduce((sum, each) => sum + (each.hadRecentInput ? 0 : each.value), 0)))
    .observe({type: "layout-shift", buffered: true});
  setTimeout(() => done(0), 300);
})"""


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[Daemon]:
    """One for this file: what others save would push its sessions out of sight."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder, Daemon(Path(folder) / "home") as running:
        yield running


@pytest.fixture(scope="module")
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as opened:
        yield opened


@pytest.fixture(scope="module")
def hiking(keeper: Keeper) -> list[Backup]:
    """Backups of a session with pictures, two branches and a fork."""
    made = hike(keeper, "hike")
    keeper.api.json("PATCH", "/v1/sessions/hike", json={"title": "Hiking in Yunnan"})
    return made


def enter(page: Page, daemon: Daemon, place: str = "") -> None:
    page.goto(str(daemon.request("POST", "/v1/login/links").json()["url"]))
    page.get_by_role("heading", level=1).wait_for()
    if place:
        page.evaluate("place => { location.hash = place }", place)


def open_pane(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def history(page: Page) -> Locator:
    return open_pane(page, "History").get_by_role("listitem").get_by_role("link")


def test_from_the_list_to_a_message(shared_daemon: Daemon, hiking: list[Backup], chromium: Browser) -> None:
    from playwright.sync_api import expect

    with new_tab(chromium, viewport=USUAL, color_scheme="light") as page:
        enter(page, shared_daemon)
        row = page.get_by_role("link", name="Hiking in Yunnan")
        expect(row).to_contain_text("5 backups")
        row.locator("img").first.wait_for()
        assert axe_violations(page) == []
        row.click()
        expect(history(page)).to_have_count(5)
        expect(history(page).first).to_have_attribute("aria-current", "true")  # the newest is shown
        expect(page.locator(".lane")).to_have_count(8)  # two branches that meet
        expect(history(page).filter(has_text="1 fork")).to_contain_text("Start early")
        history(page).filter(has_text="The first is").click()
        panel = open_pane(page, "Backup")
        expect(panel.get_by_role("region", name="Restoring it")).to_contain_text("Everything comes back")
        expect(panel.get_by_role("region", name="Messages").get_by_role("listitem")).to_have_count(4)
        expect(panel.get_by_role("img", name="Image 3")).to_be_visible()
        expect(panel.get_by_role("img", name="Image 3")).to_have_js_property("naturalWidth", 280)
        expect(panel).to_contain_text("None is set up")
        assert axe_violations(page) == []
        assert page.evaluate(SHIFTS) < 0.02
        assert page.url.endswith(f"#/sessions/hike/{hiking[1].id}")
        page.reload()
        expect(panel.get_by_role("region", name="Messages").get_by_role("listitem")).to_have_count(4)
        page.set_viewport_size(HUGE)
        assert panel.evaluate("each => parseFloat(getComputedStyle(each).fontSize)") >= 20
        assert axe_violations(page) == []
        page.get_by_role("link", name="hike-winter").click()
        page.get_by_role("link", name="Forked from Hiking in Yunnan").click()
        page.wait_for_url(f"**/#/sessions/hike/{hiking[2].id}")
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]


def test_with_the_keyboard_alone(
    shared_daemon: Daemon, keeper: Keeper, hiking: list[Backup], chromium: Browser
) -> None:
    from playwright.sync_api import expect

    with new_tab(chromium, viewport=USUAL, allow=("503",)) as page:
        enter(page, shared_daemon)
        page.get_by_role("link", name="Hiking in Yunnan").wait_for()
        page.keyboard.press("/")
        page.keyboard.type("train, please")
        found = page.locator("mark")
        expect(found.first).to_have_text(re.compile("train", re.IGNORECASE))
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator(".message.found")).to_contain_text("Only by train, please.")
        page.get_by_role("button", name="Pin").wait_for()
        page.keyboard.press("p")
        expect(page.get_by_role("status").filter(has_text="Pinned")).to_be_visible()
        assert keeper.api.backup("hike").pinned
        page.keyboard.press("p")
        expect(page.get_by_role("status").filter(has_text="No longer pinned")).to_be_visible()
        page.keyboard.press("r")  # no process is attached
        expect(page.get_by_role("dialog", name="No model is attached")).to_contain_text("keeper.attach(provider)")
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
        assert axe_violations(page) == []
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        page.wait_for_url("**/#/sessions")


def test_what_is_removed_comes_back(
    shared_daemon: Daemon, keeper: Keeper, hiking: list[Backup], chromium: Browser
) -> None:
    from playwright.sync_api import expect

    with new_tab(chromium, viewport=USUAL, allow=("404",)) as page:  # a picture may be on its way
        enter(page, shared_daemon, f"#/sessions/hike/{hiking[4].id}")
        page.get_by_role("button", name="Remove", exact=True).click()
        expect(page.get_by_role("status").filter(has_text="Backup removed")).to_be_visible()
        expect(history(page)).to_have_count(4)
        with pytest.raises(BackupNotFound):
            keeper.api.backup(hiking[4].id)
        page.get_by_role("button", name="Undo").click()
        expect(history(page)).to_have_count(5)
        assert keeper.api.backup(hiking[4].id).created_at == hiking[4].created_at
        page.get_by_role("button", name="Remove the session").click()
        page.get_by_role("dialog", name="Remove the session").get_by_role("button", name="Remove").click()
        expect(page.get_by_role("link", name="Hiking in Yunnan")).to_have_count(0)
        with pytest.raises(SessionNotFound):
            keeper.api.backup("hike")
        page.get_by_role("button", name="Undo").last.click()
        expect(history(page)).to_have_count(5)
        assert keeper.api.backup("hike").title == "Hiking in Yunnan"


def test_the_process_that_is_attached_is_asked(shared_daemon: Daemon, keeper: Keeper, chromium: Browser) -> None:
    from playwright.sync_api import expect

    sessions = SessionTable(PlainTarget)
    sessions["awake"] = plain("good morning")
    with keeper.attach(sessions, name="chat server") as attachment, new_tab(chromium, viewport=USUAL) as page:
        assert attachment.wait_connected(20)
        first = keeper.save("awake", sessions["awake"]).wait(60)
        enter(page, shared_daemon, "#/sessions/awake")
        expect(page.get_by_title("Awake in chat server").first).to_be_visible()
        sessions["awake"] = plain("something else")
        page.get_by_role("button", name="Back up now").click()
        expect(history(page)).to_have_count(2)
        expect(history(page).first).to_contain_text("something else")
        del sessions["awake"]
        history(page).last.click()
        page.wait_for_url(f"**/{first.id}")
        page.get_by_role("button", name="Restore").click()
        expect(page.get_by_role("status").filter(has_text="Restored: Complete")).to_be_visible()
        assert sessions["awake"].state == plain("good morning").state


def test_a_backup_as_a_file(shared_daemon: Daemon, hiking: list[Backup], chromium: Browser, home: Path) -> None:
    with new_tab(chromium, viewport=USUAL) as page:
        enter(page, shared_daemon, f"#/sessions/hike/{hiking[1].id}")
        page.get_by_role("button", name="Export").click()
        assert axe_violations(page) == []
        with page.expect_download() as coming:
            page.get_by_role("button", name="Download").click()
        assert coming.value.suggested_filename == f"Hiking-in-Yunnan-{hiking[1].id[-6:]}.qwnbak"
        raw = Path(coming.value.path()).read_bytes()
    with Daemon(home) as other, other.keeper() as keeper:
        (home / "hike.qwnbak").write_bytes(raw)
        made = as_json(home, "import", str(home / "hike.qwnbak"), "--json")
        assert made
        assert keeper.restore(hiking[1].id, AlbumTarget(), require="full").session.pictures == [
            scene(n) for n in (1, 2, 3)
        ]


def test_a_name_and_news_as_they_come(shared_daemon: Daemon, keeper: Keeper, chromium: Browser) -> None:
    from playwright.sync_api import expect

    keeper.save("news", plain("first words")).wait(60)
    with new_tab(chromium, viewport=USUAL) as page:
        enter(page, shared_daemon, "#/sessions/news")
        page.get_by_role("button", name="Rename").click()
        page.get_by_role("textbox", name="Title").fill("A name of its own")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="A name of its own").wait_for()
        keeper.save("news", plain("then others")).wait(60)
        expect(page.get_by_role("link", name="A name of its own")).to_contain_text("2 backups")
        expect(history(page).first).to_contain_text("then others")


def test_small_and_dark(shared_daemon: Daemon, hiking: list[Backup], chromium: Browser) -> None:
    from playwright.sync_api import expect

    with new_tab(chromium, viewport=NARROW, color_scheme="dark", has_touch=True) as page:
        enter(page, shared_daemon)
        row = page.get_by_role("link", name="Hiking in Yunnan")
        row.wait_for()
        assert axe_violations(page) == []
        row.tap()
        expect(page.get_by_role("heading", level=1)).to_have_text("Hiking in Yunnan")
        assert axe_violations(page) == []
        history(page).first.tap()
        expect(page.get_by_role("region", name="Restoring it")).to_contain_text("Everything comes back")
        assert axe_violations(page) == []
        page.wait_for_function("document.documentElement.scrollWidth === 360")
        assert page.evaluate(SHIFTS) < 0.02
        page.get_by_role("link", name="Back to the session").tap()
        page.get_by_role("link", name="Back to the sessions").tap()
        expect(row).to_be_visible()


def test_two_languages_and_a_theme_that_stay(shared_daemon: Daemon, hiking: list[Backup], chromium: Browser) -> None:
    from playwright.sync_api import expect

    with new_tab(chromium, viewport=USUAL, locale="zh-CN") as page:
        enter(page, shared_daemon, f"#/sessions/hike/{hiking[2].id}")
        expect(page.get_by_role("region", name="恢复预览")).to_contain_text("全部内容都会恢复")
        expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
        assert axe_violations(page) == []
        catalogs = page.evaluate("import('/dashboard/words.js').then(words => words.CATALOGS)")
        english, chinese = catalogs["en"], catalogs["zh-CN"]
        assert set(english) == set(chinese)
        differ = [key for key in english if _blanks(english[key]) != _blanks(chinese[key])]
        assert differ == []
        page.get_by_role("combobox").select_option("en")
        expect(page.get_by_role("region", name="Restoring it")).to_be_visible()
        page.reload()
        expect(page.get_by_role("region", name="Restoring it")).to_be_visible()
        light = page.evaluate(BACKGROUND)
        page.keyboard.press("t")
        page.keyboard.press("t")
        page.get_by_role("button", name="Theme: dark").wait_for()
        page.reload()
        expect(page.get_by_role("region", name="Restoring it")).to_be_visible()
        page.wait_for_function(f"light => {BACKGROUND} !== light", arg=light)
        assert page.evaluate("Object.keys(localStorage).sort()") == ["torpor.language", "torpor.theme"]


def _blanks(phrase: Any) -> set[str]:
    """Return the names that a phrase is filled with; its forms have the same ones, or leave the number out."""
    forms = [phrase] if isinstance(phrase, str) else list(phrase.values())
    return {name for form in forms for name in re.findall(r"\{(\w+)\}", form)}


def test_the_daemon_goes_and_comes_back(home: Path, chromium: Browser) -> None:
    from playwright.sync_api import expect

    with new_tab(chromium, allow=("net::", "401")) as page:  # whatever a browser writes of a server that went
        with Daemon(home, port=free_port()) as daemon:
            enter(page, daemon)
            expect(page.get_by_role("heading", name="Nothing sleeps here yet")).to_be_visible()
            expect(page.get_by_text("Live", exact=True)).to_be_visible()
            daemon.stop()
        expect(page.get_by_role("alert")).to_contain_text("The daemon does not answer")
        assert axe_violations(page) == []
        with Daemon(home, port=daemon.port):
            expect(page.get_by_text("Live", exact=True)).to_be_visible()
            expect(page.get_by_role("alert")).to_have_count(0)
            page.get_by_role("button", name="Sign out").click()
            expect(page.get_by_role("heading", name="This tab is not signed in")).to_be_visible()
            page.wait_for_function("sessionStorage.length === 0")
            page.goto(f"{daemon.url}/#login=a-code-of-long-ago")
            expect(page.get_by_text("This login link was used already")).to_be_visible()
