"""`torpor sync` and `torpor no-sync`: how the second copy is, and what the user says of it."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..client import Keeper, connect
from ..state.errors import BadInput, Refused, Unavailable, error_classes
from .output import age, duration, show, size, table, when
from .progress import bar
from .visible import plain

app = typer.Typer(help="The second copy, in S3-compatible storage.", no_args_is_help=True)

POLL_S = 0.25
COLLECT_S = 3600.0
_SHOWN = 10  # items of a kind, unless --all
_TIMES = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_WORDS = {
    "off": "off: no S3 storage is configured",
    "idle": "everything is in the bucket",
    "busy": "sending",
    "paused": "paused",
    "offline": "offline",
    "throttled": "slowed down by the storage",
    "failing": "the storage fails",
    "denied": "refused by the storage",
    "clock-skew": "the clock is wrong",
    "key-missing": "the key is missing",
    "unusable": "the bucket cannot be used",
    "disk-full": "this machine's disk is full",
}
_TROUBLES = ("offline", "throttled", "failing", "denied", "clock-skew", "key-missing", "unusable", "disk-full")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def status(
    everything: Annotated[bool, typer.Option("--all", help="Every item that was given up or is kept here.")] = False,
    as_json: Json = False,
) -> None:
    """Say how the second copy is: its state and why, what waits, what was given up, what is kept here."""
    with connect() as keeper:
        found = keeper.api.json("GET", "/v1/sync")
    show(found, as_json, lambda: _page(found, None if everything else _SHOWN))


@app.command()
def pause(
    how_long: Annotated[str | None, typer.Argument(metavar="[TIME]", help="30m, 1h, 2d.")] = None,
    for_: Annotated[
        str | None, typer.Option("--for", help="The same; without a time until `torpor sync resume`.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send nothing for a time. It outlives a restart; what is saved meanwhile waits."""
    if how_long is not None and for_ is not None:
        raise BadInput("two times were given", hint="`torpor sync pause 30m`")
    given = how_long if for_ is None else for_
    seconds = None if given is None else parse_time(given)
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/sync/pause", json={"seconds": seconds})
    show(found, as_json, lambda: _state_line(found))


@app.command()
def resume(as_json: Json = False) -> None:
    """Go on after a pause."""
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/sync/resume")
    show(found, as_json, lambda: _state_line(found))


@app.command()
def now(
    wait: Annotated[
        bool, typer.Option("--wait", help="Until everything is in the bucket, or it cannot go on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Try everything that waits now, whatever the storage said before."""
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/sync/now")
        if wait:
            found = _wait(keeper, found, as_json)
    show(found, as_json, lambda: _state_line(found))


@app.command()
def limit(
    up: Annotated[str | None, typer.Option(help="Bytes a second up: 500K, 2M; `off` for none.")] = None,
    down: Annotated[str | None, typer.Option(help="Bytes a second down; `off` for none.")] = None,
    off: Annotated[bool, typer.Argument(metavar="[off]", parser=lambda text: _is_off(text))] = False,
    as_json: Json = False,
) -> None:
    """Limit the bandwidth, at once and after restarts; `torpor sync limit off` lifts both limits."""
    body: dict[str, Any] = {"up": None, "down": None} if off else {}
    body |= {name: _rate(text) for name, text in (("up", up), ("down", down)) if text is not None}
    with connect() as keeper:
        found = keeper.api.json("PUT", "/v1/sync/limits", json=body) if body else keeper.api.json("GET", "/v1/sync")
    limits = found.get("limits", {"up": None, "down": None})
    show(limits, as_json, lambda: _limits_line(limits))


@app.command()
def retry(
    item: Annotated[int | None, typer.Argument(help="Which one, as `torpor sync status` numbers them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: Json = False,
) -> None:
    """Try again what was given up."""
    if (item is None) != everything:
        raise BadInput("name one item, or say --all", hint="`torpor sync status` lists what was given up.")
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/sync/retry", json={"ids": None if item is None else [item]})
    if item is not None and not found["retried"]:
        raise BadInput(f"item {item} was not given up", hint="`torpor sync status` lists what was given up.")
    show(found, as_json, lambda: f"trying {found['retried']} again")


@app.command()
def policy(
    kv: Annotated[str | None, typer.Argument(help="auto: what is worth it; always; never.")] = None,
    daily: Annotated[
        str | None, typer.Option("--daily", help="Bytes of KV caches a day at most: 5G; `off` for no limit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which KV caches go up. Text, pictures and embeddings always go."""
    body: dict[str, Any] = {} if kv is None else {"kv": kv}
    if daily is not None:
        body["daily_bytes"] = None if daily == "off" else parse_size(daily)
    with connect() as keeper:
        found = keeper.api.json("PUT", "/v1/sync/policy", json=body) if body else keeper.api.json("GET", "/v1/sync")
    if not found["on"]:
        show(found, as_json, lambda: _state_line(found))
        return
    kept = {name: found[name] for name in ("kv_policy", "kv_daily_bytes", "kv_used_today", "held_count", "held_bytes")}
    show(kept, as_json, lambda: _policy_line(kept))


@app.command()
def collect(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say only what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Remove from the bucket what no backup of any machine needs; it happens once a day by itself."""
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/sync/collect", json={"dry_run": dry_run}, timeout=COLLECT_S)
    show(found, as_json, lambda: _collected(found))


def no_sync(
    session: Annotated[str, typer.Argument(help="A session id; one that was not saved yet, too.")],
    off: Annotated[bool, typer.Option("--off", help="Let it go to the bucket again.")] = False,
    as_json: Json = False,
) -> None:
    """Keep a session on this machine: nothing of it goes to the bucket from now on."""
    with connect() as keeper:
        found = keeper.api.json("PUT", f"/v1/sessions/{session}/no-sync", json={"no_sync": not off})
    show(found, as_json, lambda: Group(*_no_sync_lines(found)))


def _no_sync_lines(found: dict[str, Any]) -> list[Text]:
    name = found["session_id"]
    if not found["no_sync"]:
        return [plain(f"{name} goes to the bucket from now on")]
    lines = [plain(f"{name} stays on this machine, and so do its forks from now on")]
    if found["in_bucket"]:
        many = f"{found['in_bucket']} of its backups are in the bucket already"
        lines.append(plain(f"{many}; `torpor rm --purge` takes one out, here and there", "yellow"))
    return lines


# -- how it is shown ------------------------------------------------------------------------------------------------


def add_status_rows(rows: Table, found: dict[str, Any] | None) -> None:
    """Add to `torpor status` how the second copy is."""
    if found is None:
        rows.add_row("second copy", "off")
        return
    rows.add_row("second copy", _where(found))
    rows.add_row("", _state_line(found))
    for line in _complaints(found):
        rows.add_row("", line)


def _page(found: dict[str, Any], most: int | None) -> Any:
    rows = table("!", "")
    if not found["on"]:
        rows.add_row("state", _WORDS["off"])
        for warning in found["warnings"]:
            rows.add_row("", plain(warning, "yellow"))
        return rows
    rows.add_row("bucket", _where(found))
    rows.add_row("", f"as {', '.join(found['origin'])} says")
    rows.add_row("encrypted", _encrypted(found))
    rows.add_row("state", _state_line(found))
    if found["hint"] and found["state"] not in ("idle", "busy"):
        rows.add_row("", plain(found["hint"], "dim"))
    for line in _complaints(found):
        rows.add_row("", line)
    _add_queue(rows, found)
    rows.add_row("KV caches", _policy_line(found))
    rows.add_row("limits", _limits_line(found["limits"]))
    if found["plain_copies"]:
        _add_plain_copies(rows, found["plain_copies"])
    if found["quirks"]:
        rows.add_row("storage", _quirks(found["quirks"]))
    _add_items(rows, "kept here", found["held"], found["held_count"], most)
    _add_items(rows, "tried again", found["retrying"], len(found["retrying"]), most)
    _add_items(rows, "given up", found["dead"], found["dead_count"], most)
    return rows


def _where(found: dict[str, Any]) -> str:
    prefix = f"/{found['prefix'].strip('/')}" if found["prefix"] else ""
    return f"{found['bucket']}{prefix} at {found['endpoint'] or 'AWS'}"


def _encrypted(found: dict[str, Any]) -> Text:
    if found["encrypted"] is None:
        return plain("not known yet: the bucket was not reached")
    if found["encrypted"]:
        return plain("yes" + (f". {found['key_warning']}" if found["key_warning"] else ""))
    return plain(f"no: {found['readable']}", "yellow")


def _state_line(found: dict[str, Any]) -> Text:
    state = found["state"]
    words = _WORDS.get(state, state)
    if state == "off":
        return plain(words)
    waiting = found["waiting_count"]
    if state == "idle" and waiting:
        words = "waiting"
    if state != "idle":
        words += f" since {when(found['since'])}"
    if state == "paused" and found["paused_until"]:
        words += f", until {when(found['paused_until'])}"
    if found["reason"]:
        words += f": {found['reason']}"
    if found["retry_in_s"] is not None:
        words += f" (looked at again in {duration(found['retry_in_s'])})" if waiting else ""
    if waiting:
        words += f"; {waiting} items wait, {size(found['waiting_bytes'])}"
    return plain(words, "yellow" if state in _TROUBLES else "")


def _complaints(found: dict[str, Any]) -> list[Text]:
    lines = [plain(warning, "yellow") for warning in found["warnings"]]
    if found["dead_count"]:
        lines.append(plain(f"{found['dead_count']} items were given up; `torpor sync retry --all` tries again", "red"))
    return lines


def _add_queue(rows: Table, found: dict[str, Any]) -> None:
    for each in found["waiting"]:
        rows.add_row(f"{each['stage']} waits", f"{each['count']} items, {size(each['size_bytes'])}")
    running = found["running"]
    if running is not None:
        what = ", ".join(running["stages"]) or "a removal"
        sent = f"{size(running['sent_bytes'])} of at most {size(running['size_bytes'])}"
        rate = f"{size(running['rate_bytes_s'])}/s"
        rows.add_row("sending", f"{what} of {running['session_id']} ({running['backup_id']}): {sent}, {rate}")
    last = found["last_synced_at"]
    rows.add_row("last synced", "–" if last is None else f"{when(last)} ({age(last, time.time())})")


def _add_items(rows: Table, title: str, items: list[dict[str, Any]], count: int, most: int | None) -> None:
    shown = items[:most]
    for at, item in enumerate(shown):
        what = f"{item['id']}: {item['stage'] or 'removal'} of {item['session_id']} ({item['backup_id']})"
        bytes_ = f", {size(item['size_bytes'])}" if item["size_bytes"] else ""
        rows.add_row("" if at else title, plain(f"{what}{bytes_}: {item['error']}"))
    if count > len(shown):
        rows.add_row("", f"and {count - len(shown)} more")


def _add_plain_copies(rows: Table, copies: dict[str, Any]) -> None:
    words = [f"{copies['waiting']} wait" if copies["waiting"] else "all there"]
    words += [copies["refusal"]] if copies["refusal"] else []
    rows.add_row("plain copies", plain("; ".join(words)))
    for each in copies["failed"][:5]:
        rows.add_row("", plain(f"none of {each['backup_id']}: {each['detail']}"))


def _policy_line(found: dict[str, Any]) -> str:
    words = f"policy {found['kv_policy']}"
    if found["kv_daily_bytes"] is not None:
        words += f", {size(found['kv_used_today'])} of {size(found['kv_daily_bytes'])} used today"
    return words + (f"; {found['held_count']} kept here, {size(found['held_bytes'])}" if found["held_count"] else "")


def _limits_line(limits: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'–' if rate is None else size(rate) + '/s'}" for name, rate in limits.items())


def _quirks(quirks: dict[str, Any]) -> str:
    shown = {name: value for name, value in quirks.items() if name != "server"}
    return ", ".join(f"{name.replace('_', ' ')}: {_said(value)}" for name, value in shown.items())


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _collected(found: dict[str, Any]) -> str:
    would = "would be " if found["dry_run"] else ""
    return (
        f"{found['blobs']} blobs ({size(found['blob_bytes'])}) of {found['records']} records: {found['condemned']} "
        f"{would}condemned, {found['deleted']} {would}deleted ({size(found['deleted_bytes'])}), {found['waiting']} wait"
    )


# -- what the user writes -------------------------------------------------------------------------------------------


def parse_time(text: str) -> float:
    """Read a time such as 30m, in seconds. Raises: BadInput."""
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)(s|min|m|h|d)", text.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise BadInput(f"{text!r} is not a time", hint="Write 90s, 30m, 1h or 2d.")
    return float(found[1]) * _TIMES[found[2]]


def parse_size(text: str) -> int:
    """Read a number of bytes such as 2M (2 MiB). Raises: BadInput."""
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]+)?)([kmgt]?)(i?b)?(/s)?", text.strip().lower())
    if found is None or float(found[1]) <= 0:
        raise BadInput(f"{text!r} is not a number of bytes", hint="Write 500K, 2M or 1.5G: K is 1024 bytes.")
    return int(float(found[1]) * _SIZES[found[2]])


def _rate(text: str) -> int | None:
    return None if text == "off" else parse_size(text)


def _is_off(text: str) -> bool:
    if text != "off":
        raise BadInput(f"{text!r} is no limit", hint="`torpor sync limit --up 2M`, or `torpor sync limit off`.")
    return True


# -- waiting --------------------------------------------------------------------------------------------------------


def _wait(keeper: Keeper, found: dict[str, Any], as_json: bool) -> dict[str, Any]:
    """Wait until nothing is on its way. Raises: what keeps the remote side from going on."""
    total = found["waiting_bytes"]
    with bar("to the bucket", as_json) as tell:
        while found["waiting_count"] or found["state"] == "busy":
            _refuse_trouble(found)
            total = max(total, found["waiting_bytes"])
            sent = found["running"]["sent_bytes"] if found["running"] else 0
            tell(min(total - found["waiting_bytes"] + sent, total), total)
            time.sleep(POLL_S)
            found = keeper.api.json("GET", "/v1/sync")
        tell(total, total)
    if found["dead_count"]:
        first = found["dead"][0]
        detail = f"{found['dead_count']} items were given up, the first: {first['error']}"
        raise Refused(detail, hint="`torpor sync status` lists them, `torpor sync retry --all` tries them again.")
    return found


def _refuse_trouble(found: dict[str, Any]) -> None:
    state = found["state"]
    if state == "paused":
        raise Refused("the second copy is paused", hint=found["hint"])
    if state in _TROUBLES and state != "throttled":
        raise error_classes().get(found.get("code", ""), Unavailable)(found["reason"], hint=found["hint"])
    if found["retrying"] and len(found["retrying"]) >= found["waiting_count"] and found["running"] is None:
        first = found["retrying"][0]
        raise Unavailable(f"it is tried again later: {first['error']}", hint="`torpor sync status` says when.")
