"""A page that speaks with the daemon directly: paired, saved, offline, closed in mid-word, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from support.browser import new_tab
from support.daemon import Daemon, new_daemon
from support.ports import free_port
from support.waiting import until
from support.web_pages import approve, backups, page_origin, said, texts

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NOISE = ("Failed to load resource",)  # the browser's own words for an answer that is no success


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with page_origin() as found:
        yield found


@pytest.fixture(scope="module")
def _own() -> Iterator[Daemon]:
    with new_daemon(port=free_port()) as running:
        yield running


@pytest.fixture
def own(_own: Daemon) -> Daemon:
    """A daemon that tests stop and start again, at the same port."""
    assert _own.process is not None
    return _own if _own.process.poll() is None else again(_own)


def again(daemon: Daemon) -> Daemon:
    daemon.errors.close()
    return daemon.start()


@contextmanager
def chatting(browser: Browser, origin: str, daemon: Daemon, session_id: str, **options: Any) -> Iterator[Page]:
    """A tab whose page has a token of the daemon."""
    with new_tab(browser, allow=NOISE) as page:
        wanted = {"label": "A page", "scopes": ["read", "save", "restore"], "origin": origin}
        token = daemon.request("POST", "/v1/tokens", json=wanted).json()["token"]
        keep = f"sessionStorage.setItem('torpor.page-token:{daemon.url}', '{token}')"
        page.context.add_init_script(f"if (location.protocol === 'http:') {keep}")
        yield opened(page, origin, daemon, session_id, **options)


def opened(page: Page, origin: str, daemon: Daemon, session_id: str, **options: Any) -> Page:
    options = {"base": f"{daemon.url}/api/backup", "session": session_id} | options
    page.goto(f"{origin}/#{quote(json.dumps(options))}")
    page.wait_for_function("document.title === 'ready'")
    return page


def another(page: Page) -> Page:
    """Open the page in a second tab."""
    second = page.context.new_page()
    second.goto(page.url)
    second.wait_for_function("document.title === 'ready'")
    return second


def test_a_page_is_paired_saves_and_comes_back(chromium: Browser, origin: str, shared_daemon: Daemon) -> None:
    with new_tab(chromium, allow=NOISE) as page:
        approve(shared_daemon, opened(page, origin, shared_daemon, "web-a"))
        assert page.evaluate("localStorage.length") == 0
        assert page.evaluate("say('user', 'Hello')")["kind"] == "small"
        assert page.evaluate("say('assistant', 'Hi')")["messages"] == 2
        assert texts(said(shared_daemon, "web-a")) == ["Hello", "Hi"]
        assert page.evaluate("names()") == "saving saved saving saved"
        status = page.evaluate("backup.status")
        assert (status["phase"], status["online"], status["pending"]) == ("saved", True, 0)
        points = page.evaluate("backup.points()")
        assert [(p["messages"], p["local"]) for p in points] == [(2, False), (1, False)]

        page.reload()
        page.wait_for_function("window.backup")
        found = page.evaluate("comeBack()")
        assert (found["mode"], texts(found), found["local"]) == ("text-only", ["Hello", "Hi"], False)
        older = page.evaluate("backup.points().then((points) => comeBack(points[1]))")
        assert texts(older) == ["Hello"]
        page.evaluate("say('assistant', 'Another answer')")
        assert texts(said(shared_daemon, "web-a")) == ["Hello", "Another answer"]
        assert page.evaluate("backup.message()")["kind"] == "unchanged"
        assert backups(shared_daemon, "web-a") == 3


def test_a_page_that_is_not_let_in(chromium: Browser, origin: str, shared_daemon: Daemon) -> None:
    with new_tab(chromium, allow=(*NOISE, "CORS")) as page:
        opened(page, origin, shared_daemon, "web-b")
        page.evaluate("""() => { window.denied = new Promise((shown) => {
          window.outcome = torpor.pair({label: 'A page', onCode: shown}).catch((e) => e.code); }); }""")
        code = page.evaluate("denied")
        shared_daemon.request("POST", f"/v1/pair/requests/{code}/deny")
        assert page.evaluate("outcome") == "denied"
        page.evaluate("() => { start(); }")
        assert page.evaluate("say('user', 'Nobody may hear this')")["kind"] == "queued"
        assert page.evaluate("backup.status.problem.code") == "not-paired"
        assert page.evaluate("events.filter((event) => event.type === 'refused').length") == 1
        approve(shared_daemon, page)
        until(lambda: texts(said(shared_daemon, "web-b")) == ["Nobody may hear this"])

        tokens = shared_daemon.request("GET", "/v1/tokens").json()["tokens"]
        for token in (each for each in tokens if each["origin"] == origin):
            shared_daemon.request("DELETE", f"/v1/tokens/{token['id']}")
        assert page.evaluate("say('assistant', 'Revoked')")["kind"] == "queued"
        assert page.evaluate("backup.status.problem.code") == "not-paired"


def test_the_daemon_goes_and_comes_back(chromium: Browser, origin: str, own: Daemon) -> None:
    with chatting(chromium, origin, own, "web-c") as page:
        page.evaluate("say('user', 'One')")
        own.stop()
        assert page.evaluate("say('assistant', 'Two')")["kind"] == "queued"
        page.evaluate("() => { const real = Date.now; Date.now = () => real() - 3_600_000; }")  # the clock is set back
        assert page.evaluate("say('user', 'Three')")["kind"] == "queued"
        status = page.evaluate("({...backup.status, problem: backup.status.problem.code})")
        assert (status["online"], status["pending"], status["problem"]) == (False, 1, "unreachable")

        page.reload()  # the page itself is served by somebody who is there
        page.wait_for_function("window.backup")
        found = page.evaluate("comeBack()")
        assert (found["mode"], found["local"], texts(found)) == ("local", True, ["One", "Two", "Three"])
        assert [p["local"] for p in page.evaluate("backup.points()")] == [True] * 3
        page.evaluate("say('assistant', 'Four')")
        page.evaluate("""async () => { const oops = say('user', 'Oops');  // and it is taken back at once
                         chat.conversation.pop(); await backup.message(); await oops; }""")

        again(own)
        page.wait_for_function("events.some((event) => event.type === 'online')")
        page.wait_for_function("backup.status.pending === 0")
        assert texts(said(own, "web-c")) == ["One", "Two", "Three", "Four"]
        assert backups(own, "web-c") == 3
        assert page.evaluate("names()").count("offline") == 1


def test_a_tab_that_closes_in_mid_word(chromium: Browser, origin: str, shared_daemon: Daemon) -> None:
    with chatting(chromium, origin, shared_daemon, "web-d") as page:
        page.evaluate("say('user', 'Tell me a story')")
        page.evaluate("""() => { chat.conversation.push({role: 'assistant', content: 'Once upon a'});
                         chat.partial = true; chat.draft = 'and then'; }""")
        page.close(run_before_unload=True)
        until(lambda: len(said(shared_daemon, "web-d")["conversation"]) == 2)
        found = said(shared_daemon, "web-d")
        assert (texts(found), found["partial"], found["draft"]) == (
            ["Tell me a story", "Once upon a"],
            True,
            "and then",
        )


def test_a_page_that_hides_says_only_what_is_new(chromium: Browser, origin: str, shared_daemon: Daemon) -> None:
    with chatting(chromium, origin, shared_daemon, "web-e") as page:
        page.evaluate("say('user', 'x'.repeat(100_000))")
        page.evaluate("""() => { chat.draft = 'half a thought'; window.asked = []; const real = window.fetch;
            window.fetch = (url, options) => { asked.push([options.keepalive, options.body.length]); return real(url, options); };
            Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true});
            document.dispatchEvent(new Event('visibilitychange')); }""")
        until(lambda: said(shared_daemon, "web-e")["draft"] == "half a thought")
        ((keepalive, size),) = page.evaluate("asked")
        assert keepalive
        assert size < 600
        page.wait_for_function("backup.status.phase === 'saved'")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        assert page.evaluate("asked.length") == 1  # it is saved: nothing is said twice

        page.wait_for_function("backup._last._tokens.length > 0")
        with page.expect_request(lambda asked: asked.resource_type == "ping") as beacon:
            page.evaluate("() => { chat.draft = 'a last thought'; dispatchEvent(new Event('pagehide')); }")
        until(lambda: said(shared_daemon, "web-e")["draft"] == "a last thought")
        sent = beacon.value.post_data_json  # no header of it says who the page is: its token does, once
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        again = httpx.post(f"{shared_daemon.url}/api/backup/drain", content=json.dumps(sent), headers=headers)
        assert (bool(sent["token"]), again.status_code) == (True, 401)


def test_a_tab_that_dies_with_more_than_a_beacon_holds(chromium: Browser, origin: str, own: Daemon) -> None:
    with chatting(chromium, origin, own, "web-f") as page:
        own.stop()
        page.evaluate("say('user', 'y'.repeat(100_000))")
        page.evaluate("""() => { chat.conversation.push({role: 'assistant', content: 'Half'}); chat.partial = true;
                         backup.changed(); }""")
        second = another(page)
        until(lambda: second.evaluate("backup.points()")[0]["messages"] == 2)
        page.close()
        again(own)
        second.reload()
        second.wait_for_function("window.backup")
        found = second.evaluate("comeBack()")
        assert [message["content"][:4] for message in found["conversation"]] == ["yyyy", "Half"]
        assert (found["partial"], found["local"]) == (True, False)


def test_what_is_damaged_there_comes_back_from_here(chromium: Browser, origin: str, own: Daemon) -> None:
    with chatting(chromium, origin, own, "web-j") as page:
        page.evaluate("say('user', 'Well kept')")
        next(own.home.rglob(f"{said(own, 'web-j')['backup_id']}*")).write_bytes(b"{}")
        page.reload()
        page.wait_for_function("window.backup")
        assert texts(page.evaluate("comeBack()")) == ["Well kept"]


def test_two_tabs_do_not_fight(chromium: Browser, origin: str, own: Daemon) -> None:
    with chatting(chromium, origin, own, "web-g") as first:
        first.evaluate("say('user', 'Common')")
        second = another(first)
        second.evaluate("comeBack()")
        own.stop()
        first.evaluate("say('assistant', 'Of the first tab')")
        second.evaluate("say('assistant', 'Of the second tab')")
        assert first.evaluate("backup.points()").__len__() == 3
        again(own)
        for page in (first, second):
            page.wait_for_function("backup.status.online", polling=50)
            page.evaluate("backup.drain()")
            page.wait_for_function("backup.status.pending === 0", polling=50)
        assert backups(own, "web-g") == 3  # each branch once
        answers = {texts(said(own, point["id"]))[-1] for point in first.evaluate("backup.points()")}
        assert answers == {"Common", "Of the first tab", "Of the second tab"}


def test_one_bad_state_stops_no_other(chromium: Browser, origin: str, own: Daemon) -> None:
    with chatting(chromium, origin, own, "web-h") as page:
        page.evaluate("say('user', 'Kept by the daemon until somebody removes it')")
        own.request("DELETE", f"/v1/backups/{said(own, 'web-h')['backup_id']}")
        assert page.evaluate("say('assistant', 'Goes on')")["kind"] != "queued"  # its base is gone: it is sent whole
        assert len(texts(said(own, "web-h"))) == 2
        own.stop()
        page.evaluate("say('user', 'Good')")
        page.evaluate("""async () => { chat.conversation = [{role: 'x'.repeat(50), content: 'no role'}];
                         await backup.message(); chat.conversation = []; }""")
        again(own)
        page.wait_for_function("backup.status.online")
        page.wait_for_function("events.some((event) => event.type === 'refused')")
        assert page.evaluate("events.find((event) => event.type === 'refused').code") == "bad-input"
        until(lambda: texts(said(own, "web-h"))[-1] == "Good")
        assert page.evaluate("backup.points()")[0]["local"]  # what was refused is still here
        page.reload()
        page.wait_for_function("window.backup")
        found = page.evaluate("comeBack()")  # and it is what the page showed last
        assert (found["local"], texts(found)) == (True, ["no role"])


def test_a_browser_without_room(chromium: Browser, origin: str, own: Daemon) -> None:
    with chatting(chromium, origin, own, "web-i") as page:
        session = page.context.new_cdp_session(page)
        session.send("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": 1000})
        page.evaluate("say('user', 'z'.repeat(200_000))")
        assert page.evaluate("events.find((event) => event.type === 'refused').code") == "browser-storage"
        assert len(texts(said(own, "web-i"))[0]) == 200_000  # the server has it
        own.stop()
        page.evaluate("say('assistant', 'w'.repeat(200_000))")
        assert page.evaluate("backup.status.pending") == 1
        again(own)
        page.wait_for_function("backup.status.online && backup.status.pending === 0")
        assert len(texts(said(own, "web-i"))) == 2


def test_what_the_modules_decide(tab: Page, origin: str) -> None:
    tab.goto(f"{origin}/client/torpor.d.ts")
    found = tab.evaluate(
        """async () => {
          const { baseOf, covers, fitting, itemOf, leading, plain, rowOf, sizeOf } = await import('/client/items.js');
          const { made } = await import('/client/kept.js');
          const { backoffMs } = await import('/client/queue.js');
          const { timeOf, ulid } = await import('/client/ulid.js');
          const turns = (...texts) => texts.map((text, n) => ({ role: n % 2 ? 'assistant' : 'user', content: text }));
          let now = 1e12;
          const row = (texts, more = {}, base = null, tab = 't') => rowOf({ conversation: turns(...texts), ...more },
            { id: ulid(now += 1), sessionId: 's', now, tab, base, working: false });
          const system = { role: 'system', content: 's' };
          const base = baseOf('B', [system, ...turns('a', 'b', 'x')], false);
          const [one, two, fork] = [row(['a']), row(['a', 'b']), row(['a', 'c'])];
          const begun = row(['a', 'be'], { partial: true });
          const late = row(['a', 'b', 'c']);
          const earlier = [one, two, fork, begun];
          const settled = made(earlier, new Set(earlier.filter((each) => covers(late, each)).map((each) => each.id)), 4);
          const id = ulid(1_700_000_000_123);
          return {
            later: [covers(two, one), covers(one, two), covers(fork, two), covers(row(['a', 'best']), begun),
                    covers(two, begun), covers(begun, two), covers(row(['a', 'b'], { partial: true }), two)],
            drafts: [covers(row(['a', 'b']), row(['a'], { draft: 'd' })),
                     covers(row(['a', 'b']), row(['a'], { draft: 'd' }, null, 'other'))],
            item: itemOf(row(['a', 'b', 'c', 'd'], { partial: true }, base)),
            whole: itemOf(row(['a', 'b'], { partial: true }, base)).keep,
            shown: itemOf(rowOf({ conversation: [system, ...turns('a', 'b', 'c')] },
              { id: ulid(now), sessionId: 's', now, tab: 't', base, working: false })),
            gone: settled.gone.map((each) => each.id === one.id || each.id === two.id),
            settled: settled.settled.map((each) => each.id).sort().length,
            fits: fitting([itemOf(row(['x'.repeat(300)])), itemOf(row(['y']))], 300).map((each) => each.messages[0].content),
            first: [[one, two, row(['x'.repeat(9000)]), fork], [row(['x'.repeat(9000)])], []].map((rows) => leading(rows, 2000, 9)),
            few: leading([one, two, fork], 2000, 2),
            bytes: sizeOf('\\u00e4\\u{1f600}'),
            plain: plain({ role: 'user', extra: 1, name: null, content: ['t', { type: 'image', index: 2, src: 'blob:x' },
                   { type: 'image_url', image_url: 'data:' }, { type: 'video' }, { type: 'text', text: 'u', at: 1 }] }),
            waits: [backoffMs(0, 0), backoffMs(0, 1), backoffMs(50, 1)],
            id: [timeOf(id), id.length, ulid(1) < ulid(2), /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/.test(id)],
          };
        }"""
    )
    assert found["later"] == [True, False, False, True, False, False, False]
    assert found["drafts"] == [True, False]
    item = found["item"]
    assert (item["base"], item["keep"], [m["content"] for m in item["messages"]]) == ("B", 2, ["c", "d"])
    assert (item["bare"], found["shown"]["bare"], found["shown"]["keep"]) == (True, False, 3)
    assert found["whole"] == 1  # the server may have less of a message that is still being written
    assert (found["gone"], found["settled"]) == ([True], 1)
    assert (found["fits"], found["bytes"]) == (["y"], 8)
    assert (found["first"], found["few"]) == ([2, 1, 1], 2)
    parts = [{"type": "text", "text": "t"}, {"type": "image", "index": 2}, {"type": "image"}, {"type": "video"}]
    assert found["plain"] == {"role": "user", "content": [*parts, {"type": "text", "text": "u"}]}
    assert found["waits"] == [250, 500, 30_000]
    assert found["id"] == [1_700_000_000_123, 26, True, True]
