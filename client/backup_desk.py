"""What a page or a command may ask of a process and its sessions: saved, planned, woken. Answers are JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from ..codec.source_media import sources
from ..state.backup import Backup
from ..state.errors import (
    BackupNotFound,
    BadInput,
    InvalidManifest,
    ManifestDamaged,
    Refused,
    SessionNotFound,
    TorporError,
)
from ..state.ids import is_backup_id, parse_backup_id, parse_session_id
from ..state.manifest import Manifest
from ..state.page_view import View, page_message, view_or_nothing
from ..state.plan import RestorePlan
from ..state.plan_words import images_in, tell
from ..state.problems import to_problem
from .provider import Busy, Conversing, Provider
from .save_job import SaveHandle
from .switch import read_small

if TYPE_CHECKING:
    from .keeper import Keeper

    There = Callable[[], Keeper]  # what returns a keeper once there is a daemon (client/late.py)

SAVE_WAIT_S = 600.0  # hours of context are written at the speed of the disk
AWAKE = "the session is awake here and goes on; nothing had to be read"

Json = dict[str, Any]


class BackupDesk:
    """Saves and wakes the sessions of a provider for whoever asks. Safe to use from several threads."""

    def __init__(self, keeper: Keeper | There, provider: Provider) -> None:
        """`keeper` is one, or what returns one once there is a daemon."""
        self._there: There = keeper if callable(keeper) else lambda: keeper
        self.provider = provider

    @property
    def keeper(self) -> Keeper:
        """The keeper. Raises: DaemonNotRunning where there never was a daemon yet."""
        return self._there()

    def create(self, session_id: str | None, *, small: bool = False, state: Mapping[str, Any] | None = None) -> Json:
        """Save a session (None: all that are awake) and return when it is durable.

        `state` is what the page shows (state/page_items.py). Where the session is not awake, and of a small save
        also where it would wait for the model, or the page has a draft or an unfinished message, the daemon saves that
        state alone; else it looks whether the session has all of it,
        and saves what is missing. `item` of the answer says what became of it.
        Raises: SessionNotFound, and whatever a save fails with; of a save of all, `failed` tells.
        """
        self._check_daemon()
        if session_id is None:
            return self._create_all(small)
        name = parse_session_id(session_id)
        if state is not None and not self._can_hold(name, state, small):
            return self._of_page(name, state)
        try:
            with self.provider.hold(name) as source:
                handle = self.keeper.save(name, source, small=small)
            del source
        except SessionNotFound:
            if state is None:
                raise
            return self._of_page(name, state)
        return _saved(handle, small) | self._rest_of(state)

    def _check_daemon(self) -> None:
        """Ask whether the daemon is there: a commit waits a while for one that restarts, and a page should be told."""
        with suppress(Refused):  # a token that opens less has asked all the same
            self.keeper.api.call("GET", "/v1/attached")

    def _can_hold(self, session_id: str, state: Mapping[str, Any], small: bool) -> bool:
        if session_id not in self.provider.sessions():
            return False
        busy = isinstance(self.provider, Busy) and self.provider.busy()
        return not small or not (busy or state.get("partial") or state.get("draft"))

    def _of_page(self, session_id: str, state: Mapping[str, Any]) -> Json:
        body = {"session_id": session_id, "small": True, "state": dict(state)}
        made = self._hand_on("/api/backup/create", body)
        return made | {"item": {"id": state.get("id"), "backup_id": made.get("backup_id"), "kind": made.get("kind")}}

    def _rest_of(self, state: Mapping[str, Any] | None) -> Json:
        """Save what a page shows and the session does not have; what the daemon refuses the page sends again itself."""
        drained = self.drain([dict(state)]).get("drained") if state is not None else None
        return {"item": drained[0]} if drained else {}

    def _create_all(self, small: bool) -> Json:
        handles: list[SaveHandle] = []
        backups, failed = list[Json](), list[Json]()
        for name in self.provider.sessions():
            try:
                with self.provider.hold(name) as source:
                    handles.append(self.keeper.save(name, source, small=small))
                del source
            except TorporError as error:
                failed.append({"session_id": name, "problem": to_problem(error)})
        for handle in handles:
            try:
                backups.append(_saved(handle, small))
            except TorporError as error:
                failed.append({"session_id": handle.session_id, "problem": to_problem(error)})
        return {"success": bool(backups) or not failed, "backups": backups, "failed": failed}

    def restore(self, ref: str, *, text_only: bool = False) -> Json:
        """Wake a session in this process: the newest backup of a session, or a backup. Returns what the page shows.

        A session that is awake and has all of it goes on as it is: nothing said since is lost, nothing is read.
        Raises: BackupNotFound, SessionNotFound, RestoreRefused, and as `Keeper.restore`.
        """
        if text_only:
            return self.keeper.api.json("GET", f"/api/backup/restore/{_checked(ref)}", params={"text": 1})
        backup, manifest = self.keeper.manifest(_checked(ref))
        exactly = is_backup_id(ref)
        awake = self._awake(backup, manifest, exactly=exactly)
        if awake is not None:
            return awake
        with self.provider.pause():
            awake = self._awake(backup, manifest, exactly=exactly)  # another tab may have asked for the same
            if awake is not None:
                return awake
            restored = self.keeper.restore(backup.id, self.provider.target())
            self.provider.woken(backup.session_id, restored)
        return _page(backup, manifest, restored.plan, view_or_nothing(restored.layers.get("text_context")))

    def _awake(self, backup: Backup, manifest: Manifest, *, exactly: bool) -> Json | None:
        """Return what a page shows of a session that is awake and has all of a backup, or None."""
        if not isinstance(self.provider, Conversing):
            return None
        live = self.provider.conversation(backup.session_id)
        if not live:
            return None
        saved = view_or_nothing(read_small(manifest, "text_context", self.keeper.blobs))
        shown = tuple(page_message(message) for message in live)
        whole = saved.conversation[:-1] if saved.partial else saved.conversation
        if shown[: len(whole)] != whole or (exactly and shown != saved.conversation):
            return None
        written = saved.partial and len(shown) == len(whole)  # the model is at it, or was
        plan = RestorePlan(backup.id, "full", {}, 0, manifest.tokens, 0, estimated_s=0.0, notes=(AWAKE,))
        seen = saved if written else View(shown, draft=saved.draft)
        return _page(backup, manifest, plan, seen)

    def plan(self, ref: str) -> Json:
        """Tell what a restore would bring back into the model that is loaded, and how long it takes."""
        found = self.keeper.plan(_checked(ref), self.provider.target())
        with suppress(ManifestDamaged, InvalidManifest):  # the plan says so
            return tell(found, images=images_in(self.keeper.manifest(found.backup_id)[1]), exact=True)
        return tell(found, images=0, exact=True)

    def points(self, session_id: str, limit: int = 20) -> Json:
        """Return the backups that a session can go back to, newest first."""
        path = f"/api/backup/points/{parse_session_id(session_id)}"
        return self.keeper.api.json("GET", path, params={"limit": limit})

    def drain(self, pending: Sequence[Any]) -> Json:
        """Save what a page could not save when it was said; each item once, however often it comes."""
        return self._hand_on("/api/backup/drain", {"pending": list(pending)})

    def _hand_on(self, path: str, body: Json) -> Json:
        try:
            raw = orjson.dumps(body)
        except orjson.JSONEncodeError as error:  # nested deeper than any state is
            raise BadInput(f"the page's state is no JSON that can be handed on: {error}") from error
        return self.keeper.api.json("POST", path, content=raw, headers={"Content-Type": "application/json"})

    def media(self, backup_id: str, index: int) -> tuple[bytes, str]:
        """Return a picture of a backup and its media type."""
        answer = self.keeper.api.call("GET", f"/api/backup/media/{parse_backup_id(backup_id)}/{int(index)}")
        return answer.content, answer.headers.get("content-type") or ""


def _checked(ref: str) -> str:
    try:
        return ref if is_backup_id(ref) else parse_session_id(ref)
    except TorporError as error:
        raise BackupNotFound(error.detail, hint=error.hint) from error


def _saved(handle: SaveHandle, small: bool) -> Json:
    backup = handle.wait(SAVE_WAIT_S)
    return {
        "success": True,
        "backup_id": backup.id,
        "session_id": backup.session_id,
        "created_at": backup.created_at,
        "messages": handle.messages,
        "tokens": backup.tokens,
        "bytes_written": backup.bytes_written,
        "kind": "small" if small else "full",
    }


def _costs(plan: RestorePlan) -> Json:
    return {
        "mode": plan.mode,
        "notes": list(plan.notes),
        "tokens_reused": plan.tokens_reused,
        "tokens_prefill": plan.tokens_prefill,
        "seconds": plan.estimated_s,
    }


def _page(backup: Backup, manifest: Manifest, plan: RestorePlan, seen: View) -> Json:
    return {
        "success": True,
        "mode": plan.mode,
        "session_id": backup.session_id,
        "backup_id": backup.id,
        "created_at": backup.created_at,
        "conversation": list(seen.conversation),
        "partial": seen.partial,
        "images": _images(manifest),
        "draft": seen.draft,
        "plan": _costs(plan),
    }


def _images(manifest: Manifest) -> list[Json]:
    """List the pictures of a backup."""
    found = [each.medium for each in sources(manifest)]
    return [asdict(medium) for medium in found if not medium.media_type.startswith("video/")]
