"""Files that somebody hands over to be imported: parsed one after the other by the import worker.

One that is held is looked at first, and waits until somebody says whether to import it. Files that came as bytes lie in
staging; one that was named lies where it is, and stays there whatever becomes of it.

They and what became of them are known in memory alone: a restart forgets them, and whoever handed one over does it
again. The same file again gives the same backup.
"""

from __future__ import annotations

import logging
import os
import queue
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from ..state.errors import Conflict, NotFound, ScopeDenied, TorporError, Unavailable
from ..state.problems import to_problem
from ..state.quota import on_disk
from ..state.watching import Answer, Signature, printable
from ..store.files import translated
from .catalog import Catalog
from .importer import Importer, Stopped
from .room import Room

log = logging.getLogger("torpor.imports")
# ready: it was looked at, and waits for a word; discarded: the word was no, or none came.
State = Literal["waiting", "running", "ready", "done", "failed", "discarded"]
MOST_WAITING, KEPT, MOST_READY = 64, 200, 20
LINGER_S = 5.0  # how long the worker waits for another file before it ends
READY_S = 3600.0  # how long a file waits for a word, at least
_LATER = "Send it again, or put it into a watched folder."


@dataclass(frozen=True, slots=True)
class Import:
    """A file that was handed over. `known`: its backup was there before. Bytes are those that were parsed so far.

    `held` until somebody has said what is to become of it; `preview` is what it holds, once it was looked at.
    """

    id: str
    name: str
    size_bytes: int
    session: str | None
    began_at: float
    state: State = "waiting"
    bytes_done: int = 0
    bytes_total: int = 0
    known: bool = False
    backup_id: str | None = None
    session_id: str | None = None
    problem: dict[str, Any] | None = None
    ended_at: float | None = None
    held: bool = False
    preview: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _File:
    """Where the bytes are. `ours` lie in staging, and go when they are not needed any more."""

    path: Path
    ours: bool
    expected: Signature


class Imports:
    """The files of one home that wait. Safe to use from several threads."""

    def __init__(self, importer: Importer, catalog: Catalog, room: Room, new_id: Callable[[], str]) -> None:
        self._importer, self._catalog, self._room, self._new_id = importer, catalog, room, new_id
        self._lock, self._known = threading.RLock(), OrderedDict[str, Import]()
        self._files: dict[str, _File] = {}
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def check(self) -> None:
        """See whether another file may be handed over. Raises: Unavailable."""
        if self._stopped or self._queue.qsize() >= MOST_WAITING:
            raise Unavailable(f"{self._queue.qsize()} files wait to be imported", hint="Try again in a moment.")

    def add(self, path: Path, name: str, session_id: str | None, size_bytes: int, *, hold: bool = False) -> Import:
        """Import a staged file, which is this one's from now on; with `hold`, look at it first."""
        return self._add(_File(path, True, _signature(os.lstat(path))), name, session_id, size_bytes, hold)

    def add_named(self, path: Path, expected: Signature, session_id: str | None, *, hold: bool = False) -> Import:
        """Import a file where it lies, if it is the one that the caller sees there.

        Raises: Unavailable; NotFound where this process sees no such file: it may have another view of the folders.
        """
        self.check()
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            status = None
        if status is None or not stat.S_ISREG(status.st_mode) or not _signature(status).matches(expected):
            raise NotFound("the daemon does not see that file", hint="Send its bytes: POST /v1/imports.")
        return self._add(_File(path, False, expected), path.name, session_id, expected.size_bytes, hold)

    def accept(self, import_id: str, *, sees_it: bool = True) -> Import:
        """Import a file that was looked at; one that was named, on the word alone of somebody who sees what it holds.

        Raises: NotFound, Conflict, ScopeDenied.
        """
        with self._lock:
            if self.find(import_id).state != "ready":
                raise Conflict("the file does not wait for a word", hint="Look at what became of it, or open it again.")
            if not (sees_it or self._files[import_id].ours):
                raise ScopeDenied("the file was named by the owner of this home: who may not see it, may not import it")
            accepted = self._change(import_id, state="waiting", held=False, bytes_done=0)
            self._begin(import_id)
        return accepted

    def discard(self, import_id: str) -> Import:
        """Forget a file that waits for a word, or is still looked at. A second time changes nothing.

        Raises: NotFound; Conflict when it is imported, or was.
        """
        with self._lock:
            found = self.find(import_id)
            if found.state == "discarded":
                return found
            if not found.held:
                raise Conflict("the file is imported, or was", hint="Remove the backup that was made of it.")
            gone = self._change(import_id, state="discarded", held=False, ended_at=self._catalog.now())
            if found.state == "ready":  # else the worker has it, or will find it so
                self._drop(import_id)
        return gone

    def let_go(self) -> None:
        """Discard what has waited long for a word."""
        late = self._catalog.now() - READY_S
        for each in self.newest(KEPT + MOST_READY):
            if each.state == "ready" and each.began_at < late:
                with suppress(Conflict, NotFound):  # the word came just now
                    self.discard(each.id)

    def find(self, import_id: str) -> Import:
        """Tell how an import is. Raises: NotFound."""
        with self._lock:
            found = self._known.get(import_id)
        if found is None:
            raise NotFound(f"there is no import {import_id[:40]}", hint=_LATER)
        return found

    def newest(self, limit: int) -> list[Import]:
        """Return the newest imports, newest first."""
        with self._lock:
            return list(reversed(self._known.values()))[:limit]

    def stop(self) -> None:
        """End what runs, and begin nothing more."""
        self._stopped = True
        self._importer.stop()
        self._queue.put(None)

    def _add(self, file: _File, name: str, session_id: str | None, size_bytes: int, hold: bool) -> Import:
        made = Import(self._new_id(), shown(name), size_bytes, session_id, self._catalog.now(), held=hold)
        with self._lock:
            self._make_place(hold)
            self._known[made.id], self._files[made.id] = made, file
            self._begin(made.id)
        return made

    def _make_place(self, hold: bool) -> None:
        """Forget the oldest of those that ended, and with `hold` of those that wait for a word, beyond what is kept."""
        ready = [each.id for each in self._known.values() if each.state == "ready"]
        for old in ready[: max(len(ready) + 1 - MOST_READY, 0) if hold else 0]:
            self.discard(old)
        ended = [each.id for each in self._known.values() if each.ended_at is not None]
        for old in ended[: max(len(self._known) + 1 - KEPT, 0)]:
            del self._known[old]

    def _begin(self, import_id: str) -> None:
        self._queue.put(import_id)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="imports", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        """Import until nothing has come for a while."""
        while True:
            try:
                work = self._queue.get(timeout=LINGER_S)
            except queue.Empty:
                with self._lock:  # nobody puts one between this look and the end
                    if self._queue.empty():
                        self._importer.close()
                        self._thread = None
                        return
                continue
            if work is None or self._stopped:
                return
            self._import(work)

    def _import(self, import_id: str) -> None:
        with self._lock:
            wanted = self._known.get(import_id)
            if wanted is None or wanted.state != "waiting":
                self._drop(import_id)
                return
            self._change(import_id, state="running")
        try:
            answer = self._ask(wanted, self._files[import_id])
        except Stopped:
            self._drop(import_id)
            return
        except Exception as error:
            log.exception("an import failed for a reason that is a defect of ours")
            answer = Answer("failed", error=TorporError(f"a defect of ours: {type(error).__name__}"))
        with self._lock:
            self._settle(import_id, answer)

    def _ask(self, wanted: Import, file: _File) -> Answer:
        def told(done_bytes: int, total_bytes: int) -> None:
            with self._lock:
                if wanted.id in self._known:  # one that was discarded may be forgotten
                    self._change(wanted.id, bytes_done=done_bytes, bytes_total=total_bytes)

        return self._importer.ask(
            str(file.path),
            file.expected,
            name=wanted.name,
            session_id=wanted.session,
            progress=told,
            preview=wanted.held,
            digest=None if wanted.preview is None else wanted.preview["digest"],  # what was shown, and nothing else
        )

    def _drop(self, import_id: str) -> None:
        """Let go of a file; a staged one is removed, and its room given back."""
        file = self._files.pop(import_id, None)
        if file is None or not file.ours:
            return
        try:
            with self._room.usage.removing("staging") as removed, translated("remove", file.path):
                size = os.lstat(file.path).st_size
                file.path.unlink()
                removed(on_disk(size))
        except TorporError as error:  # staging is swept at the next start
            log.warning("%s", error.detail)

    def _settle(self, import_id: str, answer: Answer) -> None:
        found, now = self._known.get(import_id), self._catalog.now()
        if found is not None and found.state == "running" and answer.outcome == "previewed":
            self._change(import_id, state="ready", preview=answer.preview)
            return
        file = self._files[import_id]
        self._drop(import_id)
        if found is None or found.state != "running":  # it was discarded meanwhile
            return
        name = found.name
        if answer.outcome in ("imported", "known"):
            known = answer.outcome == "known"
            ids = {"backup_id": answer.backup_id, "session_id": answer.session_id}
            self._change(import_id, state="done", known=known, ended_at=now, **ids)
            self._tell("info", "imported", name, answer.backup_id)
            return
        again = _LATER if file.ours else "Open it again."
        problem = to_problem(answer.error or Unavailable("the file changed while it was read", hint=again))
        problem["detail"] = str(problem["detail"]).replace(str(file.path), name)
        self._change(import_id, state="failed", held=False, problem=problem, ended_at=now)
        if not found.held:  # a look that fails is told to who looks
            self._tell("warning", "import-failed", f"{name}: {problem['detail']}", None)

    def _tell(self, level: str, kind: str, detail: str, backup_id: str | None) -> None:
        try:
            self._catalog.note(level, kind, detail, backup_id)
        except TorporError as error:
            log.warning("an event cannot be noted: %s", error.detail)

    def _change(self, import_id: str, **changes: Any) -> Import:
        changed = self._known[import_id] = replace(self._known[import_id], **changes)
        return changed


def _signature(status: os.stat_result) -> Signature:
    return Signature.of(status.st_size, status.st_mtime_ns, status.st_ino)


def shown(name: str) -> str:
    """Return the name of a file, without the folders that somebody may have written before it, as one line."""
    last = PurePath(name.replace("\\", "/")).name
    return printable(last)[:255] or "file"


def described(each: Import, *, content: bool = True) -> dict[str, Any]:
    """Return an import as the API tells it; without `content`, nothing of what the file holds."""
    told = asdict(each)
    return told if content else told | {"preview": None}
