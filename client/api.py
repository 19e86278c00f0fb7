"""Calls of the daemon's API, with its errors as the classes that they were there."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from ..state.api import API_VERSION, DIGEST_HEADER, TIMING_HEADER, VERSION_HEADER
from ..state.backup import Backup, Group
from ..state.errors import BadInput, DaemonNotRunning, ManifestDamaged, Timeout, TorporError, VersionMismatch
from ..state.ids import is_backup_id, parse_session_id, parse_title
from ..state.manifest import BlobRef
from ..state.problems import from_problem
from ..state.timing import Timing
from .discover import Endpoint
from .wire import ADDRESS_HINT, Answer, NoAnswer, NoAnswerInTime, Patience, Wire, target_of, to_json

if TYPE_CHECKING:
    from .over_httpx import Http, Stream

TIMEOUT = Patience(60.0, connect_s=5.0)
_PLAIN_URL = re.compile(r"http://(127\.0\.0\.1|localhost)(?::([0-9]{1,5}))?\Z")
A = TypeVar("A", "Answer", "Stream")


class _Way:
    """How a daemon is spoken with: `wire` for what is asked all the time, where it is on this machine."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Open nothing yet. Raises: BadInput for a URL or a token that cannot be used."""
        if not endpoint.token.isascii():
            raise BadInput("the daemon's token cannot be used: it is not ASCII", hint=ADDRESS_HINT)
        self._endpoint, self._lock, self._closed = endpoint, threading.Lock(), False
        self._headers = {"Authorization": f"Bearer {endpoint.token}", VERSION_HEADER: str(API_VERSION)}
        self._http: Http | None = None
        self.wire = _wire(endpoint, self._headers)
        if self.wire is None:
            self.http()

    def http(self) -> Http:
        """Return what does all that the wire does not, made when it is first needed. Raises: BadInput."""
        from .over_httpx import Http  # see there: most processes never come here

        with self._lock:
            if self._closed:
                raise RuntimeError("Cannot send a request, as the client has been closed.")
            if self._http is None:
                self._http = Http(self._endpoint, self._headers)
            return self._http

    def exchange(self, method: str, target: str, body: Any, headers: Mapping[str, str], patience: Patience) -> Answer:
        """Ask, and return the whole answer. Raises: NoAnswer, BadInput, RuntimeError once it is closed."""
        if self.wire is not None and (body is None or isinstance(body, bytes)):
            return self.wire.ask(method, target, body, headers, patience)
        return self.http().ask(method, target, body, headers, patience)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self._closed, http = True, self._http
        if http is not None:
            http.close()
        if self.wire is not None:
            self.wire.close()


def _wire(endpoint: Endpoint, headers: Mapping[str, str]) -> Wire | None:
    if endpoint.socket:
        return Wire("localhost", None, endpoint.socket, headers)
    found = _PLAIN_URL.match(endpoint.url.rstrip("/"))
    if found is None or int(found[2] or 80) > 65535:
        return None
    return Wire(found[1], int(found[2] or 80), None, headers)


def checked_ref(ref: str) -> str:
    """Return a backup's or group's id, or a session's, or a group's name. Raises: InvalidId."""
    return ref if is_backup_id(ref) else parse_session_id(ref)


class Api:
    """The daemon's API. After a restart of the daemon it is looked for once more. Safe to use from several threads."""

    def __init__(self, find: Callable[[], Endpoint]) -> None:
        self._find, self._lock = find, threading.Lock()
        self._broken, self._of_parents = list[_Way](), list[_Way]()
        self.endpoint, self._way = self._open()
        self._process = os.getpid()

    def _open(self) -> tuple[Endpoint, _Way]:
        endpoint = self._find()
        return endpoint, _Way(endpoint)

    def close(self) -> None:
        """Close all connections."""
        for way in (*self._broken, self._way):
            way.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        content: Any = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        timeout: float | None = None,
    ) -> Answer:
        """Send a request; a daemon that moved is found again once. `content` is a body as it is: bytes, or a file.

        Raises: DaemonNotRunning, Timeout, and whatever the daemon answers.
        """
        body = content
        if json is not None:
            body, headers = to_json(json), {"Content-Type": "application/json", **headers}
        patience = TIMEOUT if timeout is None else Patience.of(timeout)
        target = target_of(path, params)

        return self._sent(f"{method} {path}", lambda way: way.exchange(method, target, body, headers, patience))

    @contextmanager
    def asking(self, path: str) -> Iterator[Callable[[], Answer]]:
        """Send a question (GET), and yield what waits for its answer: the daemon works while its caller does, too.

        It is asked again when it comes to nothing, so nothing is raised before the answer is wanted; then as `call`.
        """
        way, target, sent = self._own_way(), target_of(path, None), None
        if way.wire is not None:
            with suppress(NoAnswer):
                sent = way.wire.put("GET", target, None, {}, TIMEOUT)

        def send(again: _Way) -> Answer:
            nonlocal sent
            ahead, sent = sent, None
            return again.exchange("GET", target, None, {}, TIMEOUT) if ahead is None else ahead.answer()

        try:
            yield lambda: self._sent(f"GET {path}", send)
        finally:
            if sent is not None:
                sent.drop()

    def open(self, path: str, silence_s: float, params: Mapping[str, Any]) -> Stream:
        """Get an answer that is read as it comes, and closed by the caller; silence for so many seconds breaks it off.

        How it begins is waited for no longer than for any other answer. Raises: as `call`.
        """
        return self._sent(f"GET {path}", lambda way: way.http().open(path, params, TIMEOUT, silence_s))

    def _sent(self, what: str, send: Callable[[_Way], A]) -> A:
        used = self._own_way()
        try:
            return self._checked(send(used))
        except NoAnswerInTime as error:
            raise Timeout(f"{what}: no answer in {TIMEOUT.answer_s:.0f} s") from error
        except NoAnswer:
            again = self._reopen(used)
        try:
            return self._checked(send(again))
        except NoAnswer as error:
            raise DaemonNotRunning(f"the daemon does not answer: {error}") from error

    def _own_way(self) -> _Way:
        """Return the connections of this process: in one that was forked, those that are open are the parent's."""
        if self._process != os.getpid():
            self._lock = threading.Lock()
            self._of_parents += [*self._broken, self._way]  # left alone: somebody may have been in them
            self._broken = []
            self.endpoint, self._way = self._open()
            self._process = os.getpid()
        return self._way

    def _reopen(self, broken: _Way) -> _Way:
        with self._lock:
            if self._way is broken and self._find() != self.endpoint:  # else it connects again by itself
                self.endpoint, self._way = self._open()
                self._broken.append(broken)  # other threads may still be in it
            return self._way

    @staticmethod
    def _checked(response: A) -> A:
        if response.is_success:
            return response
        try:
            problem = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            problem = None
        if not isinstance(problem, dict):
            raise TorporError(f"HTTP {response.status_code} without a problem: is this a torpor daemon?")
        raise from_problem(problem)

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a request and return its JSON object."""
        value: dict[str, Any] = orjson.loads(self.call(method, path, **options).content)
        return value

    def status(self, **options: Any) -> dict[str, Any]:
        """Return the daemon's status. Raises: VersionMismatch."""
        status = self.json("GET", "/v1/status", **options)
        if status.get("api_version") != API_VERSION:
            raise VersionMismatch(
                f"this SDK speaks API version {API_VERSION}, the daemon version {status.get('api_version')}"
            )
        return status

    def backup(self, ref: str, *, ask: bool = True) -> Backup:
        """Return a backup by its id, the newest of a session, or the only backup whose id ends so.

        Where a bucket has the second copy, one that only it has is adopted; without `ask`, only as far as it is known.
        Raises: InvalidId, BackupNotFound, SessionNotFound, AmbiguousId; Offline when nobody can look whether it is
        in the bucket.
        """
        query = {} if ask else {"ask": False}
        return Backup.from_dict(self.json("GET", f"/v1/backups/{checked_ref(ref)}", params=query))

    def backups(self, *, session_id: str | None = None, limit: int = 50, before: str | None = None) -> list[Backup]:
        """Return backups, newest first."""
        query = {"session_id": session_id, "limit": limit, "before": before}
        rows = self.json("GET", "/v1/backups", params={k: v for k, v in query.items() if v is not None})
        return [Backup.from_dict(row) for row in rows["backups"]]

    def timeline(self, session_id: str, *, limit: int, before: str | None = None) -> dict[str, Any]:
        """Return backups of a session, newest first, and what they are linked with. Raises: SessionNotFound."""
        query = {"limit": limit} if before is None else {"limit": limit, "before": before}
        return self.json("GET", f"/v1/sessions/{parse_session_id(session_id)}/timeline", params=query)

    def search(self, question: str, limit: int = 20) -> dict[str, Any]:
        """Return the sessions in which a question's words were said, best first (`GET /v1/search`)."""
        return self.json("GET", "/v1/search", params={"q": question, "limit": limit})

    def rename(self, session_id: str, title: str | None) -> Backup:
        """Give a session a title, and return its newest backup. Raises: SessionNotFound, BadInput."""
        path = f"/v1/sessions/{parse_session_id(session_id)}"
        return Backup.from_dict(self.json("PATCH", path, json={"title": parse_title(title)}))

    def manifest(self, backup_id: str) -> bytes:
        """Return a manifest's JSON, checked. Raises: ManifestDamaged."""
        from ..codec.manifest_file import digest_of  # what reads manifests takes 8 MiB, and few need it

        response = self.call("GET", f"/v1/backups/{backup_id}/manifest")
        if digest_of(response.content) != response.headers.get(DIGEST_HEADER):
            raise ManifestDamaged(f"the manifest of backup {backup_id} changed on its way")
        return response.content

    def backup_blobs(self, backup_id: str) -> dict[str, Any]:
        """Return where each blob of a backup lies on the daemon's machine (`blobs`), and who shares it (`sharing`)."""
        return self.json("GET", f"/v1/backups/{backup_id}/blobs")

    def watches(self) -> list[dict[str, Any]]:
        """Return the watched folders, as `/v1/status` does."""
        found: list[dict[str, Any]] = self.json("GET", "/v1/watches")["watches"]
        return found

    def remove(self, backup_id: str) -> None:
        """Remove a backup from the daemon's machine. Raises: BackupNotFound."""
        self.call("DELETE", f"/v1/backups/{backup_id}")

    def undo_removal(self, backup_id: str) -> Backup:
        """Bring back a backup that was removed a short while ago. Raises: BackupNotFound when it is too late."""
        return Backup.from_dict(self.json("POST", f"/v1/backups/{backup_id}/undo-removal"))

    def purge(self, backup_id: str) -> dict[str, Any]:
        """Remove a backup so that nothing of it stays, and return what was freed. Raises: BackupNotFound."""
        return self.json("DELETE", f"/v1/backups/{backup_id}", params={"purge": True})

    def discard(self, refs: Iterable[BlobRef]) -> None:
        """Let the daemon remove what a failed save wrote, unless a backup needs it by now."""
        self.json("POST", "/v1/blobs/discard", json={"blobs": {ref.digest: ref.size_bytes for ref in refs}})

    def note_used(self, backup_ids: Iterable[str]) -> None:
        """Tell that backups are being restored, so that nothing of them leaves meanwhile."""
        for backup_id in backup_ids:
            self.call("POST", f"/v1/backups/{backup_id}/used")

    def group(self, ref: str) -> Group:
        """Return a group by its id, or the newest of a name. Raises: InvalidId, GroupNotFound."""
        return Group.from_dict(self.json("GET", f"/v1/groups/{checked_ref(ref)}"))

    def groups(self, limit: int = 50) -> list[dict[str, Any]]:
        """Return groups, newest first: id, name, size, how many are `present`, `created_at`, `bytes_total`."""
        found: list[dict[str, Any]] = self.json("GET", "/v1/groups", params={"limit": limit})["groups"]
        return found

    def commit(self, backup_id: str, raw: bytes, *, new_session: bool = False, timing: Timing | None = None) -> Backup:
        """Commit a manifest, waiting a while for a daemon that is being restarted (a repeated commit is harmless).

        With `new_session`, only as the first backup of its session. Raises: Conflict, MissingBlobs, and more.
        """
        path = f"/v1/backups/{backup_id}" + ("?new_session=true" if new_session else "")
        return Backup.from_dict(self._put_patiently(path, raw, timing))

    def commit_group(self, group_id: str, raws: Iterable[bytes], *, timing: Timing | None = None) -> Group:
        """Commit the manifests of a group, all or none; waits like `commit`."""
        body = b'{"manifests":[' + b",".join(raws) + b"]}"
        return Group.from_dict(self._put_patiently(f"/v1/groups/{group_id}", body, timing))

    def restored(self, mode: str, took_s: float, backup_id: str) -> None:
        """Tell the daemon of a restore; one that does not count them is not asked again here."""
        with suppress(TorporError):
            self.call("POST", "/v1/restored", json={"mode": mode, "seconds": took_s, "backup_id": backup_id})

    def events(self, after: int | None = None, *, limit: int = 50, wait_s: float = 0.0) -> dict[str, Any]:
        """Return the newest events, or those behind an id, waiting for the first: `events`, and the next `after`."""
        query = {"limit": limit} if after is None else {"limit": limit, "after": after, "wait_s": wait_s}
        return self.json("GET", "/v1/events", params=query)

    def _put_patiently(self, path: str, raw: bytes, timing: Timing | None, patience_s: float = 10.0) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if timing is not None:
            headers[TIMING_HEADER] = timing.to_header()
        deadline, delay_s = time.monotonic() + patience_s, 0.1
        while True:
            try:
                return self.json("PUT", path, content=raw, headers=headers)
            except DaemonNotRunning:
                if time.monotonic() + delay_s > deadline:
                    raise
                time.sleep(delay_s)
                delay_s = min(delay_s * 2, 2.0)
