"""`torpor gc` and `torpor keep`: what goes when a TTL is over or the room is short, and what is to stay."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from ..client import Keeper, connect
from ..state.errors import BadInput, SessionNotFound
from .output import duration, show, size, table, when
from .sync import parse_time
from .visible import plain

GC_S = 3600.0  # of one request: a large store takes its time
SHOWN = 20  # without --all
FOR_EVER_S = 1e10
DAY_S = 86_400.0
_WHAT = {"drop": "KV cache and embeddings", "remove": "all of it", "evict leftover": "blobs that were left"}
_WHAT |= {"evict fetchable": "what S3 has", "evict rebuildable": "KV cache and embeddings"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and why.")] = False,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="This machine's clock is right, whatever it was before.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every backup that goes, however many.")] = False,
    as_json: Json = False,
) -> None:
    """Let go of what is over, make room, and remove blobs that nobody needs; it happens every hour by itself."""
    body = {"dry_run": dry_run, "trust_clock": trust_clock}
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/gc", json=body, timeout=GC_S)
    show(found, as_json, lambda: _page(found, None if everything else SHOWN))


def _page(found: dict[str, Any], limit: int | None) -> Group:
    parts: list[Any] = []
    if found["distrust"] is not None:
        parts.append(plain(f"TTLs are judged by {when(found['at'])}: {found['distrust']}.", "yellow"))
        parts.append(plain("If the clock is right, `torpor gc --trust-clock` says so.", "dim"))
    rows = table("!backup", "what goes", "why")
    actions = found["actions"]
    for each in actions[:limit]:
        amount = "" if each["size_bytes"] is None else f", {size(each['size_bytes'])}"
        rows.add_row(each["backup_id"], _WHAT[each["what"]] + amount, each["reason"])
    if actions:
        parts.append(rows)
    if limit is not None and len(actions) > limit:
        parts.append(plain(f"… and {len(actions) - limit} more (--all)", "dim"))
    parts.append(Text(_summary(found)))
    return Group(*parts)


def _summary(found: dict[str, Any]) -> str:
    would = "would be " if found["dry_run"] else ""
    if not found["dropped"] and not found["removed"] and not found["freed_bytes"]:
        return "Nothing goes."
    return (
        f"{found['removed']} backups {would}removed, of {found['dropped']} KV cache and embeddings {would}let go,"
        f" {size(found['freed_bytes'])} {would}freed."
    )


def keep(
    ref: Annotated[str, typer.Argument(help="A session id, or a backup id (or the end of one) for that one alone.")],
    ttl: Annotated[
        str | None, typer.Option(help="How long: 12h, 30d; `forever`; `default` for the setting again.")
    ] = None,
    newest: Annotated[
        str | None, typer.Option(help="So many of the newest outlive their TTL; `default` for the setting again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how long the backups of a session are kept, or one backup from now on. Pins outlive everything."""
    if ttl is None and newest is None:
        raise BadInput("nothing is said", hint="torpor keep SESSION --ttl 30d --newest 3")
    with connect() as keeper:
        backup = keeper.api.backup(ref)
        if ref == backup.id or (ref != backup.session_id and not _is_session(keeper, ref)):
            found = _keep_backup(keeper, backup.id, ttl, newest)
            show(found, as_json, lambda: plain(f"{backup.id} is kept until {when(found['expires_at'])}"))
            return
        body: dict[str, Any] = {} if ttl is None else {"ttl_s": _ttl(ttl)}
        body |= {} if newest is None else {"keep_newest": _count(newest)}
        found = keeper.api.json("PATCH", f"/v1/sessions/{backup.session_id}/retention", json=body)
    show(found, as_json, lambda: plain(_kept(found)))


def _is_session(keeper: Keeper, ref: str) -> bool:
    try:
        return bool(keeper.api.backups(session_id=ref, limit=1))
    except (BadInput, SessionNotFound):
        return False


def _keep_backup(keeper: Keeper, backup_id: str, ttl: str | None, newest: str | None) -> dict[str, Any]:
    if newest is not None or ttl is None:
        raise BadInput("--newest is said of a session, not of a backup", hint="torpor keep SESSION --newest 3")
    return keeper.api.json("PATCH", f"/v1/backups/{backup_id}/retention", json={"ttl_s": _ttl(ttl)})


def _ttl(text: str) -> float | None:
    if text == "default":
        return None
    return FOR_EVER_S if text == "forever" else parse_time(text)


def _count(text: str) -> int | None:
    if text == "default":
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise BadInput(f"{text!r} is not a number of backups", hint="--newest 3, or --newest default")
    return int(text)


def _kept(found: dict[str, Any]) -> str:
    ttl_s, newest = found["ttl_s"] or found["default_ttl_s"], found["keep_newest"]
    long = "for ever" if ttl_s >= FOR_EVER_S else f"for {_days(ttl_s)}"
    more = f", and the newest {newest} for ever" if newest else ""
    return f"backups of {found['session_id']} are kept {long}{more}; the newest one's text always"


def _days(seconds: float) -> str:
    return f"{seconds / DAY_S:g} days" if seconds >= 2 * DAY_S else duration(seconds)
