"""What 10,000 backups cost the dashboard: `python bench/dashboard_cost.py [--backups 10000] [--rounds 7]`.

Twice: each backup in a session of its own (the list is long), and all in one session (its history is long). A real
Chromium opens the page (the list by a login link); a load lasts from the click until the first row is painted. Then the
list is scrolled from end to end, a step a frame, and the times between frames are counted. The exit status is 1 when a
limit is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import large_home
from torpor.client import Keeper, connect
from torpor.daemon.compose import compose
from torpor.daemon.search_care import SearchCare
from torpor.daemon.settings import load_settings
from torpor.measure.rig import daemon, scratch
from torpor.store.home import Home

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.browser import new_tab, running_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOAD_LIMIT_S = 1.0
STEPS = 240  # of a scroll from end to end
FIRST_ROW = """
new MutationObserver((_, watcher) => {
  if (!document.querySelector("ROW")) return;
  watcher.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.firstRow = performance.now(); }));
}).observe(document, {childList: true, subtree: true});
"""
SCROLL = """async ([steps, row]) => {
  const list = document.querySelector(row).closest(".virtual");
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  let most = 0;
  for (let step = 0; step <= steps; step++) {
    const before = await frame();
    list.scrollTop = (list.scrollHeight - list.clientHeight) * step / steps;
    times.push(await frame() - before);
    most = Math.max(most, list.querySelectorAll("li").length);
  }
  return {times, most};
}"""
AT_END = """([row]) => {
  const list = document.querySelector(row)?.closest(".virtual");
  if (!list) return false;
  const rows = [...list.querySelectorAll("li")];
  return list.scrollTop + list.clientHeight > list.scrollHeight - 4 && rows.every(each => each.querySelector(row));
}"""


def main() -> int:
    """Build both homes and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backups", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dir", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args()
    missed = 0
    with running_chromium() as browser:
        for sessions, row, place in (
            (options.backups, ".session-row[data-row]", ""),
            (1, ".history-row[data-row]", "#/sessions/session-0"),
        ):
            with ExitStack() as stack:
                home = stack.enter_context(scratch(options.dir)) / "home"
                large_home.build(home, options.backups, sessions)
                _look_at_all(home)
                stack.enter_context(daemon(home))
                keeper = stack.enter_context(connect(home=home))
                print(f"{options.backups:,} backups in {sessions:,} sessions", flush=True)
                missed |= _measure(browser, keeper, row, place, options.rounds)
    return missed


def _look_at_all(home: Path) -> None:
    """Do what a daemon does with a home of an older version, at its leisure: previews, and the words for the search."""
    with ExitStack() as stack:
        SearchCare(compose(Home(home), load_settings(), stack)).settle()


def _measure(browser: Browser, keeper: Keeper, row: str, place: str, rounds: int) -> int:
    loads, again = [], []
    for _ in range(rounds):
        with _tab(browser, row) as page:
            link, there = keeper.api.json("POST", "/v1/login/links")["url"], f"{keeper.api.endpoint.url}/{place}"
            if place:  # a login link leads to the list
                _load(page, link, ".session-row[data-row]")
                page.context.new_cdp_session(page).send("Network.clearBrowserCache")
            loads.append(_load(page, there if place else link))
            again.append(_load(page, there))
    with _tab(browser, row) as page:
        _load(page, keeper.api.json("POST", "/v1/login/links")["url"], ".session-row[data-row]")
        _load(page, f"{keeper.api.endpoint.url}/{place}")
        ways = [_scroll(page, row) for _ in range(2)]
    _say("load, nothing cached", loads, LOAD_LIMIT_S)
    _say("load again", again, LOAD_LIMIT_S)
    for name, (times, most, settled_s) in zip(("scroll, first time", "scroll, again"), ways, strict=True):
        ordered = sorted(times)
        middle, most_of, longest = statistics.median(ordered), ordered[int(len(ordered) * 0.95)], ordered[-1]
        print(f"  {name:38} frames: median {middle:.1f} ms, 95% {most_of:.1f} ms, longest {longest:.0f} ms")
        print(f"  {'':38} {most} rows at once; the last ones were there {settled_s:.2f} s later", flush=True)
    return int(statistics.median(loads) > LOAD_LIMIT_S or statistics.median(again) > LOAD_LIMIT_S)


@contextmanager
def _tab(browser: Browser, row: str) -> Iterator[Page]:
    with new_tab(browser, viewport={"width": 1440, "height": 900}) as page:
        page.add_init_script(FIRST_ROW.replace("ROW", row))
        yield page


def _load(page: Page, url: str, row: str | None = None) -> float:
    """Open a page and return the seconds until its first row is painted; with `row`, only wait until one is there."""
    page.goto("about:blank")
    page.goto(url, wait_until="commit")
    if row is not None:
        page.locator(row).first.wait_for()
        return 0.0
    _until(page, "() => window.firstRow")
    return float(page.evaluate("window.firstRow")) / 1000


def _until(page: Page, true: str, arg: object = None) -> None:
    """Wait for a function of the page; playwright's own way needs `eval`, which the page's policy forbids."""
    page.evaluate(f"async arg => {{ while (!({true})(arg)) await new Promise(requestAnimationFrame) }}", arg)


def _scroll(page: Page, row: str) -> tuple[list[float], int, float]:
    page.evaluate("row => { document.querySelector(row).closest('.virtual').scrollTop = 0 }", row)
    found = page.evaluate(SCROLL, [STEPS, row])
    began = time.perf_counter()
    _until(page, AT_END, [row])
    return found["times"], found["most"], time.perf_counter() - began


def _say(what: str, seconds: list[float], limit: float) -> None:
    told = f"{statistics.median(seconds):.3f} s ({min(seconds):.3f}–{max(seconds):.3f})"
    print(f"  {what:38} {told}   at most {limit:g}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
