"""Plain copies in the bucket (`remote_format = "v1"`): `backups/<id>.qwnbak`, for tools that read nothing else.

They come beside the repository and hold nothing up: what the bucket lists under `backups/` is there, what is here and
not listed is written. So there is no queue to lose; after a crash the difference is the same. The file is made by a
process of its own, since the formats need numpy. In an encrypted bucket no copy is made: it could be read by anybody.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import orjson

from ..state.backup import Backup
from ..state.errors import Timeout, TorporError, Unavailable
from ..state.problems import from_problem
from ..state.remote import PLAIN_PREFIX, plain_copy_name
from ..sync.bucket import Bucket
from ..sync.multipart import give_up, put_object
from ..sync.ports import PartJournal

log = logging.getLogger("torpor.sync")

EXPORT_S, _LOOK_S = 3600.0, 0.2
COMMAND = (sys.executable, "-m", "torpor.cli.entry", "export", "--format", "v1", "--force", "--json")


class Stopped(Exception):  # noqa: N818  (no failure)
    """The daemon ends."""


class PlainCopies:
    """Writes the copies that the bucket lacks, one after the other, in a thread that sleeps until it is woken.

    `backups` returns what may leave this machine, newest first; `refusal` says why nothing is to be done now, if so.
    """

    def __init__(
        self,
        home: Path,
        bucket: Callable[[], Bucket],
        journal: PartJournal,
        backups: Callable[[], Iterable[Backup]],
        new_path: Callable[[], Path],
        refusal: Callable[[], str | None],
    ) -> None:
        self._home, self._bucket, self._journal = home, bucket, journal
        self._backups, self._new_path, self._refusal = backups, new_path, refusal
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="plain-copies", daemon=True)
        self._lock = threading.Lock()
        self._failed: dict[str, TorporError] = {}
        self._written, self._waiting = 0, 0

    def start(self) -> None:
        """Begin."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Look again: something was saved, or the bucket can be reached again."""
        self._wake.set()

    def retry(self) -> None:
        """Look again, also at what failed for good."""
        with self._lock:
            self._failed.clear()
        self._wake.set()

    def stop(self) -> None:
        """End at once; what is not written is written later."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def describe(self) -> dict[str, object]:
        """Return why nothing is written (if so), how many wait, and what cannot be written, with its reason."""
        with self._lock:
            failed = [{"backup_id": key, "code": e.code, "detail": e.detail} for key, e in self._failed.items()]
            waiting = self._waiting
        return {"refusal": self._refusal(), "waiting": waiting, "written": self._written, "failed": failed}

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopping.is_set():
                return
            try:
                if self._refusal() is None:
                    self._write_missing()
            except Stopped:
                return
            except TorporError as error:
                log.info("plain copies wait: %s", error.detail)

    def _write_missing(self) -> None:
        bucket = self._bucket()
        there = {info.name for info in bucket.list(PLAIN_PREFIX)}
        missing = [
            each for each in self._backups() if plain_copy_name(each.id) not in there and each.id not in self._failed
        ]
        for count, backup in enumerate(missing):
            self._waiting = len(missing) - count
            if self._stopping.is_set():
                raise Stopped
            if self._refusal() is not None:
                return
            self._write(bucket, backup)
            self._written += 1
        self._waiting = 0

    def _write(self, bucket: Bucket, backup: Backup) -> None:
        """Write one copy; what says something of this backup alone is noted, and the others go on."""
        path, name = self._new_path(), plain_copy_name(backup.id)
        try:
            self._export(backup.id, path)
            give_up(bucket, self._journal, name)  # of a daemon that ended: its bytes may have been others
            with path.open("rb") as file:
                put_object(bucket, self._journal, name, backup.manifest_digest, file, path.stat().st_size)
        except Unavailable:
            raise
        except TorporError as error:
            with self._lock:
                self._failed[backup.id] = error
            log.warning("there is no plain copy of %s: %s", backup.id, error.detail)
        finally:
            path.unlink(missing_ok=True)

    def _export(self, backup_id: str, path: Path) -> None:
        environment = {**_without_settings(), "TORPOR_HOME": str(self._home)}
        process = subprocess.Popen(
            [*COMMAND, backup_id, "-o", str(path)],
            env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            said = self._wait(process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            process.communicate()
        if process.returncode != 0:
            raise _problem(said)

    def _wait(self, process: subprocess.Popen[bytes]) -> bytes:
        for _ in range(round(EXPORT_S / _LOOK_S)):
            try:
                return process.communicate(timeout=_LOOK_S)[0]
            except subprocess.TimeoutExpired:
                if self._stopping.is_set():
                    raise Stopped from None
        raise Timeout(f"a plain copy was not written within {EXPORT_S:.0f} s")


def _without_settings() -> dict[str, str]:
    """Return the environment without what belongs to the daemon alone: keys of the bucket among it."""
    ours = ("TORPOR_", "S3_", "AWS_", "PERSISTENCE_BACKEND")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _problem(said: bytes) -> TorporError:
    """Read what the process said of its failure."""
    try:
        return from_problem(orjson.loads(said[said.index(b"{") :]))
    except (ValueError, orjson.JSONDecodeError):
        last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it ended without a word"]
        return TorporError(f"the copy could not be made: {last[0]}")
