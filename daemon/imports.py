"""Files that somebody hands over to be imported: kept in staging, parsed one after the other by the import worker.

They and what became of them are known in memory alone: a restart forgets them, and whoever handed one over does it
again. The same file again gives the same backup.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from ..state.errors import NotFound, TorporError, Unavailable
from ..state.problems import to_problem
from ..state.quota import on_disk
from ..state.watching import Answer, Signature, printable
from ..store.files import translated
from .catalog import Catalog
from .importer import Importer, Stopped
from .room import Room

log = logging.getLogger("torpor.imports")
State = Literal["waiting", "running", "done", "failed"]
MOST_WAITING, KEPT = 64, 200
LINGER_S = 5.0  # how long the worker waits for another file before it ends
_LATER = "Send it again, or put it into a watched folder."


@dataclass(frozen=True, slots=True)
class Import:
    """A file that was handed over. `known`: its backup was there before. Bytes are those that were parsed so far."""

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


class Imports:
    """The files of one home that wait. Safe to use from several threads."""

    def __init__(self, importer: Importer, catalog: Catalog, room: Room, new_id: Callable[[], str]) -> None:
        self._importer, self._catalog, self._room, self._new_id = importer, catalog, room, new_id
        self._lock, self._known = threading.Lock(), OrderedDict[str, Import]()
        self._queue: queue.Queue[tuple[str, Path] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def check(self) -> None:
        """See whether another file may be handed over. Raises: Unavailable."""
        if self._stopped or self._queue.qsize() >= MOST_WAITING:
            raise Unavailable(f"{self._queue.qsize()} files wait to be imported", hint="Try again in a moment.")

    def add(self, path: Path, name: str, session_id: str | None, size_bytes: int) -> Import:
        """Import a staged file, which is this one's from now on."""
        made = Import(self._new_id(), shown(name), size_bytes, session_id, self._catalog.now())
        with self._lock:
            self._known[made.id] = made
            ended = [each.id for each in self._known.values() if each.ended_at is not None]
            for old in ended[: max(len(self._known) - KEPT, 0)]:
                del self._known[old]
            self._queue.put((made.id, path))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="imports", daemon=True)
                self._thread.start()
        return made

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
            self._import(*work)

    def _import(self, import_id: str, path: Path) -> None:
        self._change(import_id, state="running")
        try:
            answer = self._ask(self.find(import_id), path)
        except Stopped:
            return
        except Exception as error:
            log.exception("an import failed for a reason that is a defect of ours")
            answer = Answer("failed", error=TorporError(f"a defect of ours: {type(error).__name__}"))
        finally:
            self._drop(path)
        self._settle(import_id, answer, path)

    def _ask(self, wanted: Import, path: Path) -> Answer:
        status = os.stat(path, follow_symlinks=False)
        expected = Signature.of(status.st_size, status.st_mtime_ns, status.st_ino)

        def told(done_bytes: int, total_bytes: int) -> None:
            self._change(wanted.id, bytes_done=done_bytes, bytes_total=total_bytes)

        return self._importer.ask(str(path), expected, name=wanted.name, session_id=wanted.session, progress=told)

    def _drop(self, path: Path) -> None:
        """Remove a staged file, and give its room back."""
        try:
            with translated("remove", path):
                size = os.lstat(path).st_size
                path.unlink()
            self._room.usage.add("staging", -on_disk(size))
        except TorporError as error:  # staging is swept at the next start
            log.warning("%s", error.detail)

    def _settle(self, import_id: str, answer: Answer, path: Path) -> None:
        name, now = self.find(import_id).name, self._catalog.now()
        if answer.outcome in ("imported", "known"):
            known = answer.outcome == "known"
            ids = {"backup_id": answer.backup_id, "session_id": answer.session_id}
            self._change(import_id, state="done", known=known, ended_at=now, **ids)
            self._tell("info", "imported", name, answer.backup_id)
            return
        error = answer.error or Unavailable("the file changed while it was read", hint=_LATER)
        problem = to_problem(error)
        problem["detail"] = str(problem["detail"]).replace(str(path), name)
        self._change(import_id, state="failed", problem=problem, ended_at=now)
        self._tell("warning", "import-failed", f"{name}: {problem['detail']}", None)

    def _tell(self, level: str, kind: str, detail: str, backup_id: str | None) -> None:
        try:
            self._catalog.note(level, kind, detail, backup_id)
        except TorporError as error:
            log.warning("an event cannot be noted: %s", error.detail)

    def _change(self, import_id: str, **changes: Any) -> None:
        with self._lock:
            self._known[import_id] = replace(self._known[import_id], **changes)


def shown(name: str) -> str:
    """Return the name of a file, without the folders that somebody may have written before it, as one line."""
    last = PurePath(name.replace("\\", "/")).name
    return printable(last)[:255] or "file"


def described(each: Import) -> dict[str, Any]:
    """Return an import as the API tells it."""
    return asdict(each)
