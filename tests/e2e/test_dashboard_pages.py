"""The pages of the dashboard beside the sessions, in a real Chromium over a real daemon with a real S3 server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import httpx
import pytest
from support.browser import axe_violations, layout_shift, signed_in
from support.daemon import Daemon
from support.lived_in import STORIES, live_in
from support.s3_servers import Moto, Place, new_place, remove_place
from support.waiting import until
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client.provider import SessionTable
from torpor.state.quota import GIB
from torpor.state.summary import REFUSED, Facts, Kind, Summary, sentence, summarise

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PAGES = ("storage", "sync", "health", "access", "settings")


@pytest.fixture(scope="module")
def place(moto_server: Moto) -> Iterator[Place]:
    found = new_place(moto_server)
    yield found
    remove_place(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A watched folder with a file that is no backup."""
    found = tmp_path_factory.mktemp("watched")
    (found / "broken.qwnbak").write_bytes(b"not a backup")
    return found


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, place: Place, folder: Path) -> Iterator[Daemon]:
    """A daemon with sessions, a bucket and a watched folder."""
    home = tmp_path_factory.mktemp("h") / "home"
    settings = place.settings | {"TORPOR_TTL_DAYS": "3650"}
    with Daemon(home, watch=str(folder), settings=settings) as running:
        live_in(running, time.time(), tokens=64, stories=STORIES[:3])
        yield running


@pytest.fixture(scope="module")
def page(chromium: Browser, lived: Daemon) -> Iterator[Page]:
    """One signed-in tab for the file."""
    refused = ("status of 404",)  # a folder that is not there: the browser writes of it by itself
    with signed_in(chromium, lived, allow=refused, viewport={"width": 1280, "height": 900}, locale="en-US") as tab:
        yield tab


def go(page: Page, name: str) -> None:
    page.get_by_role("navigation").locator(f'a[href="#/{name}"]').click()
    page.get_by_role("heading", level=1).wait_for()


def card(page: Page, heading: str) -> Any:
    return page.locator(".card", has=page.get_by_role("heading", name=heading))


def settled(page: Page) -> None:
    """Wait until nothing is loading on the page, so that what is looked at is what stays."""
    from playwright.sync_api import expect

    expect(page.locator(".waiting, [aria-busy=true]")).to_have_count(0)


@pytest.mark.parametrize(
    ("scheme", "width", "locale"),
    [("light", 1440, "en-US"), ("dark", 360, "zh-CN")],
)
def test_pages_are_accessible_and_fit(chromium: Browser, lived: Daemon, scheme: str, width: int, locale: str) -> None:
    from playwright.sync_api import expect

    options: dict[str, Any] = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "locale": locale}
    options["reduced_motion"] = "reduce"  # what fades in has no contrast yet
    with signed_in(chromium, lived, **options) as page:
        for name in PAGES:
            go(page, name)
            settled(page)
            assert axe_violations(page) == [], name
            page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
            assert layout_shift(page) < 0.1, name  # what calls itself good is below it
            page.set_viewport_size({"width": 3840, "height": 2160})
            page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
            page.set_viewport_size(options["viewport"])
            expect(page.locator("html")).to_have_attribute("lang", "zh-CN" if locale == "zh-CN" else "en")
            if locale == "zh-CN":
                expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("[\u4e00-\u9fff]"))


def test_storage_tells_what_takes_the_room(page: Page, lived: Daemon) -> None:
    from playwright.sync_api import expect

    go(page, "storage")
    room = card(page, "This machine")
    room.get_by_role("row", name="KV cache").wait_for()
    found = lived.request("GET", "/v1/storage").json()
    expect(page.get_by_role("img", name=re.compile("are used"))).to_have_count(1)
    shares = room.locator("svg .part").count()
    assert shares >= 3
    expect(room.locator("tbody tr")).to_have_count(shares)
    ratio = f"{found['dedupe']['ratio']:.1f}".removesuffix(".0")
    expect(card(page, "Stored once")).to_contain_text(f"{ratio}×")
    first = card(page, "Largest sessions").locator("tbody tr").first
    expect(first.get_by_role("link")).to_have_attribute("href", f"#/sessions/{found['sessions'][0]['session_id']}")
    going = card(page, "What would leave first")
    expect(going).to_contain_text("nothing has to leave")
    assert found["next_to_go"]["items"]
    expect(going.locator("li")).to_have_count(min(len(found["next_to_go"]["items"]), 6))


def test_activity_is_a_chart_and_a_table(page: Page, lived: Daemon) -> None:
    from playwright.sync_api import expect

    go(page, "storage")
    activity = card(page, "Activity")
    activity.get_by_role("button", name="Backups").click()
    bars = activity.locator("svg .bar")
    bars.first.wait_for()
    points = lived.request("GET", "/v1/activity", params={"days": 30}).json()["points"]
    busy = [point for point in points if point["backups"]]
    assert len(busy) > 1
    expect(bars).to_have_count(len(busy))
    activity.get_by_text("As a table").click()
    expect(activity.locator("tbody tr")).to_have_count(len(busy))
    bars.last.hover()
    expect(activity.locator(".tip")).to_contain_text("Backups")
    activity.get_by_role("button", name="Today").click()
    hours = lived.request("GET", "/v1/activity", params={"days": 1, "step": "hour"}).json()["points"]
    total = sum(point["backups"] for point in hours)
    activity.locator("figcaption", has_text=f"{total} backups").wait_for()
    expect(activity.locator("svg .bar")).to_have_count(sum(point["backups"] > 0 for point in hours))


def test_the_second_copy_pauses_goes_on_and_tries_again(page: Page, lived: Daemon) -> None:
    from playwright.sync_api import expect

    go(page, "sync")
    page.get_by_role("heading", name="Everything is in S3").wait_for()
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="For an hour").click()
    page.get_by_role("heading", name="Paused").wait_for()
    assert lived.request("GET", "/v1/sync").json()["paused_until"] == pytest.approx(time.time() + 3600, abs=60)

    kept = card(page, "Speed and KV caches")
    kept.get_by_label("Up, at most").fill("2.5")
    kept.get_by_role("combobox").select_option("always")
    kept.get_by_role("button", name="Save").click()
    page.get_by_role("status").get_by_text("Saved").wait_for()
    chosen = lived.request("GET", "/v1/sync").json()
    assert (chosen["limits"], chosen["kv_policy"]) == ({"up": 2.5 * (1 << 20), "down": None}, "always")

    before = set(lived.blob_files())
    live_in(lived, time.time(), tokens=64, stories=STORIES[4:5])
    card(page, "Waiting").get_by_role("row", name="KV cache").wait_for()
    largest = max(set(lived.blob_files()) - before, key=lambda path: path.stat().st_size)
    sound = largest.read_bytes()
    largest.chmod(0o600)
    largest.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    page.get_by_role("button", name="Resume").click()

    given_up = card(page, "1 item was given up")
    given_up.wait_for()
    expect(given_up.locator(".reason")).to_contain_text("is damaged on this machine")
    expect(page.get_by_role("navigation").locator('a[href="#/sync"] .badge')).to_have_text("1")
    largest.write_bytes(sound)
    given_up.get_by_role("button", name="Try recipe-box again").click()
    page.get_by_role("heading", name="Everything is in S3").wait_for()
    given_up.wait_for(state="detached")


def ask_to_pair(daemon: Daemon, origin: str, label: str) -> dict[str, Any]:
    answer = httpx.post(
        f"{daemon.url}/v1/pair", json={"label": label, "scopes": ["read", "save"]}, headers={"Origin": origin}
    )
    return dict(answer.json())


def claimed(daemon: Daemon, origin: str, asked: dict[str, Any]) -> dict[str, Any]:
    body = {"secret": asked["secret"]}
    return dict(httpx.post(f"{daemon.url}/v1/pair/claim", json=body, headers={"Origin": origin}).json())


def test_pages_are_let_in_denied_and_thrown_out(page: Page, lived: Daemon) -> None:
    from playwright.sync_api import expect

    go(page, "storage")
    origin = "http://localhost:8000"
    asked = ask_to_pair(lived, origin, "Chat")
    news = page.locator(".toast", has_text="Chat asks for access")
    news.get_by_role("button", name="Look").click()
    news.wait_for(state="detached")
    request = page.locator(".request", has_text=origin)
    expect(request.locator(".pair-code")).to_have_text(asked["code"])
    request.get_by_label("Look").uncheck()
    request.get_by_role("button", name="Approve").click()
    request.get_by_text("the page fetches its token").wait_for()
    got = claimed(lived, origin, asked)
    assert (got["state"], got["scopes"]) == ("approved", ["save"])

    other = ask_to_pair(lived, "http://localhost:9000", "Other")
    page.locator(".request", has_text="Other").get_by_role("button", name="Deny").click()
    page.locator(".request", has_text="Other").wait_for(state="detached")
    assert claimed(lived, "http://localhost:9000", other)["state"] == "denied"

    page.get_by_role("button", name="Revoke Chat").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke", exact=True).click()
    page.get_by_role("button", name="Revoke Chat").wait_for(state="detached")
    headers = {"Authorization": f"Bearer {got['token']}"}
    assert httpx.get(f"{lived.url}/v1/status", headers=headers).status_code == 401


def test_health_shows_every_check_and_verifies(page: Page, lived: Daemon) -> None:
    from playwright.sync_api import expect

    go(page, "health")
    finding = page.locator(".findings li", has_text="broken.qwnbak").or_(
        page.locator(".findings li", has_text="cannot be imported")
    )
    finding.first.wait_for()
    settled(page)
    found = lived.request("GET", "/v1/doctor").json()
    assert len(found["checks"]) > 10
    expect(page.locator(".findings li, .wells li")).to_have_count(len(found["checks"]))
    bad = found["counts"]["warning"] + found["counts"]["error"]
    expect(page.get_by_role("navigation").locator('a[href="#/health"] .badge')).to_have_text(str(bad))
    card(page, "Verify everything").get_by_role("button", name="Verify").click()
    card(page, "Verify everything").get_by_text(re.compile(r"\d+ blobs read: 0 healed, 0 damaged")).wait_for()
    card(page, "What happened").get_by_text("import failed").first.wait_for()


def test_folders_are_watched_and_files_taken_in(page: Page, lived: Daemon, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    go(page, "settings")
    watched = card(page, "Watched folders")
    watched.get_by_text("1 file could not be taken in").click()
    expect(watched.locator(".failing")).to_contain_text("broken.qwnbak")
    watched.get_by_role("textbox").fill(str(tmp_path))
    watched.get_by_role("button", name="Watch", exact=True).click()
    watched.get_by_role("button", name=f"Watch {tmp_path} no longer").click()
    watched.get_by_text(str(tmp_path)).wait_for(state="detached")
    watched.get_by_role("textbox").fill("/no/such/folder")
    watched.get_by_role("button", name="Watch", exact=True).click()
    page.locator(".toast.bad", has_text="there is no folder").get_by_role("button", name="Close").click()

    newest = lived.request("GET", f"/v1/backups/{STORIES[0].id}").json()["id"]
    bundle = lived.request("GET", f"/v1/backups/{newest}/export").content
    lived.request("DELETE", f"/v1/backups/{newest}")
    card(page, "Take files in").locator("input[type=file]").set_input_files(
        [
            {"name": "garden.qwnbak", "mimeType": "", "buffer": bundle},
            {"name": "odd.qwnbak", "mimeType": "text/plain", "buffer": b"odd"},
        ]
    )
    taken = card(page, "Take files in").locator("li")
    taken.filter(has_text="garden.qwnbak").get_by_text("taken in", exact=True).wait_for()
    assert lived.request("GET", f"/v1/backups/{newest}").json()["session_id"] == STORIES[0].id
    taken.filter(has_text="odd.qwnbak").get_by_text("not taken in").wait_for()
    expect(taken.filter(has_text="odd.qwnbak").locator(".reason")).to_contain_text("none of")


def test_files_are_dropped_anywhere(page: Page, lived: Daemon, folder: Path) -> None:
    from playwright.sync_api import expect

    go(page, "storage")
    page.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File(["nothing of ours"], "dropped.bin"));
        const fire = (kind) => document.body.dispatchEvent(new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: data}));
        fire("dragenter");
        window.fire = fire;
    }""")
    page.get_by_text("Drop to take it in").wait_for()
    page.evaluate("window.fire('drop')")
    page.locator(".toast.bad", has_text="dropped.bin could not be taken in").get_by_role("button", name="Close").click()
    expect(page.get_by_text("Drop to take it in")).to_have_count(0)
    (folder / "later.qwnbak").write_bytes(b"nothing of ours, either")  # what the page did not send is news
    page.locator(".toast", has_text="later.qwnbak").get_by_role("button", name="Close").click()
    assert page.locator(".toast", has_text="dropped.bin").count() == 0


def test_the_daemon_is_understood_in_chinese(chromium: Browser, lived: Daemon) -> None:
    with signed_in(chromium, lived, locale="zh-CN") as page:
        go(page, "health")
        settled(page)
        english = page.locator(".wells [lang=en]").all_inner_texts()
        # Paths, numbers and names of programs are no language's.
        assert [each for each in english if not re.search(r"^/\S+ on \w+$|^max_user|^[\d.]+$", each)] == []
        told, sentences = page.evaluate("""() => Promise.all(
            ["daemon", "sentences"].map(name => import(`/dashboard/words/zh-CN-${name}.js`).then(words => words.default)))
        """)
    settings = {f"setting.{each['name']}" for each in lived.request("GET", "/v1/settings").json()["settings"]}
    assert settings == {key for key in told if key.startswith("setting.")}
    assert {f"check.{each['name']}" for each in lived.request("GET", "/v1/doctor").json()["checks"]} <= set(told)
    assert [each for each in sentences if each[0].count("{}") != each[1].count("{}")] == []


def test_programs_that_are_attached_back_up_now(page: Page, lived: Daemon) -> None:
    sessions = SessionTable(PlainTarget)
    sessions["chat-1"] = PlainSession({"text_context": {"conversation": [{"role": "user", "content": "hello"}]}})
    go(page, "access")
    with lived.keeper() as keeper, keeper.attach(sessions, name="Qwen chat server"):
        program = card(page, "Attached programs")
        program.get_by_text("1 session", exact=False).wait_for()
        program.get_by_role("button", name="Back up now").click()
        page.get_by_text("1 session is backed up").wait_for()
        assert lived.request("GET", "/v1/backups/chat-1").json()["session_id"] == "chat-1"


def sentences(page: Page, summaries: list[Summary], language: str) -> list[str]:
    """What the page says of summaries."""
    said: list[str] = page.evaluate(
        """async ([summaries, language]) => {
          const [{ said }, { speak }] = await Promise.all([import("/dashboard/standing.js"), import("/dashboard/words.js")]);
          speak(language);
          const found = summaries.map(said);
          speak("en");
          return found;
        }""",
        [[each.to_dict() | {"sentence": "in the daemon's words"} for each in summaries], language],
    )
    return said


def test_the_page_says_of_everything_what_the_daemon_says(page: Page, lived: Daemon) -> None:
    now = time.time()
    well = Facts(sessions=14, last_backup_at=now - 130, sync="idle")
    facts = [
        well,
        Facts(),
        replace(well, sessions=1, last_backup_at=now - 5 * 3600),
        replace(well, sync="off", last_backup_at=now - 9 * 86_400),
        replace(well, waiting_for_power=3),
        replace(well, damaged=1),
        replace(well, damaged=1200),
        replace(well, given_up=2, waiting=1),
        replace(well, quota_full=True),
        replace(well, watch_trouble="gone"),
        replace(well, asking=("https://a",)),
        replace(well, asking=("https://a", "https://b", "https://c")),
        replace(well, sync="paused", waiting=3),
        replace(well, sync="offline"),
        replace(well, sync="failing", waiting=1),
        replace(well, sync="busy"),
        replace(well, sync="busy", waiting=2),
        replace(well, waiting=2),
        replace(well, looked=False),
        replace(well, looked=False, waiting=1),
        replace(well, staying=2, waiting_for_power=1),
        replace(well, staying=13, last_backup_at=now + 9000, waiting_for_power=1),
        replace(well, removals_given_up=1),
        *(replace(well, sync=state, waiting=2) for state in sorted(REFUSED)),
    ]
    summaries = [summarise(each) for each in facts]
    assert sentences(page, summaries, "en") == [sentence(each, now) for each in summaries]
    timed = [summarise(replace(well, disk_full=True, disk_free_bytes=2 * GIB))]
    timed += [summarise(replace(well, sync="paused", paused_until=now + late)) for late in (600, 90_000)]
    free, soon, later = sentences(page, timed, "en")
    assert free == "Disk nearly full: 2\u00a0GiB free"  # sizes and times as the language writes them
    assert re.fullmatch(r"Sync is paused until \d\d:\d\d\s[AP]M", soon)
    assert re.fullmatch(r"Sync is paused until \w+ \d+, \d{4} \d\d:\d\d\s[AP]M", later)
    chinese = sentences(page, summaries + timed, "zh-CN")
    assert {each.kind for each in summaries + timed} == set(get_args(Kind))
    assert not [each for each in chinese if not re.search("[\u4e00-\u9fff]", each) or "{" in each]
    newer = "import('/dashboard/standing.js').then(({ said }) => said({ kind: 'newer', sentence: 'Well' }))"
    assert page.evaluate(newer) == "Well"
    shown = page.locator(".standing span")
    until(lambda: shown.inner_text() == lived.request("GET", "/v1/status").json()["summary"]["sentence"])
