"""The keeper: the one object that an inference process needs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..codec import manifest_file
from ..codec.bundle import blob_refs
from ..state.backup import Backup
from ..state.block_keys import Medium
from ..state.canary import CanaryResult
from ..state.errors import InvalidManifest, ManifestDamaged, TorporError
from ..state.kv_limits import DEFAULT_MAX_TOKENS
from ..state.manifest import Manifest
from ..state.plan import Conditions, Mode, RestorePlan, TargetState, check_required, plan_restore, refused
from ..state.quota import SMALL_BYTES
from ..state.rates import Observation
from ..state.watching import Signature
from ..state.window import Overflow, check_overflow
from ..store.crash import from_environment
from .api import Api
from .blob_access import BlobAccess, OverHttp, SharedFiles
from .canary import read_checked
from .capture import Foreseeing, Restored, RestoreTarget, SessionSource, Woken
from .digest_memo import DigestMemo
from .discover import find_endpoint
from .fetching import Fetching
from .foresight import foreseen, must_render, with_outcome
from .forking import fork
from .groups import GroupHandle, check_targets
from .losses import NOT_THERE, why_let_go, why_not_fetched
from .memory import Pool, available_bytes
from .opening import opened, opened_for
from .own_process import OwnProcess
from .prefix import Prefixes, PrefixHit, PrefixSession, PrefixTarget
from .rates import RateBook
from .remembered import InDaemon, Memory, lend
from .restore import read_graded
from .room import RoomDesk
from .save import SaveWorker, step_back
from .save_job import SaveHandle
from .saver import Saver
from .switch import WayBack
from .transfer import ExportFormat, Progress, no_progress

if TYPE_CHECKING:  # imported where they are used: a process that wakes a session is waited for
    from .attach import Attachment
    from .exporting import Exported
    from .history import History
    from .importing import Imported
    from .preview import Preview
    from .provider import Provider

S = TypeVar("S")
READERS = 4
WRITERS = min(4, (os.cpu_count() or 1) + 1)  # one more than can hash, to keep a disk busy; more would share the cores


@dataclass(frozen=True, slots=True)
class _Read:
    """A backup that is read and checked, for a target that is not touched yet."""

    backup: Backup
    woken: Woken
    checked: CanaryResult
    state: TargetState


def connect(
    *, home: str | Path | None = None, url: str | None = None, token: str | None = None, pool: Pool | None = None
) -> Keeper:
    """Connect to the daemon of a home folder (argument, `TORPOR_HOME`, or the platform's data folder).

    With `url` and `token` (or `TORPOR_URL` and `TORPOR_TOKEN`) no files are shared and blobs go over HTTP.
    Raises: DaemonNotRunning, Unauthorized, VersionMismatch.
    """
    api = Api(lambda: find_endpoint(os.environ, home=home, url=url, token=token))
    try:
        status = api.status()
    except BaseException:
        api.close()
        raise
    return Keeper(
        api,
        pool=pool,
        max_recoverable_tokens=status["max_recoverable_tokens"],
        has_bucket=status.get("remote") is not None,
        unasked_bytes=status["storage"]["unasked_bytes"],
    )


class Keeper:
    """Saves sessions in the background and restores them. Safe to use from several threads.

    It belongs to the process that first saved or restored with it. In one that is forked from that, what needs its
    threads or its files raises ForkedProcess, and closing it does nothing.
    """

    def __init__(
        self,
        api: Api,
        *,
        pool: Pool | None = None,
        free_memory: Callable[[], int] = available_bytes,
        clock: Callable[[], float] = time.time,
        max_recoverable_tokens: int = DEFAULT_MAX_TOKENS,
        has_bucket: bool = False,
        unasked_bytes: int = SMALL_BYTES,
    ) -> None:
        checkpoint = from_environment(os.environ)
        self._process = OwnProcess("this keeper")
        self.api, self._clock = api, clock
        shared = api.endpoint.home
        plain: BlobAccess = SharedFiles(shared, checkpoint) if shared is not None else OverHttp(api)
        self._fetching = Fetching(plain, api) if has_bucket else None
        self.blobs: BlobAccess = self._fetching or plain
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="torpor-io")
        self.max_recoverable_tokens = max_recoverable_tokens
        self._way_back = WayBack(api, self.blobs)
        self.memory: Memory = InDaemon(api)
        self._rates = RateBook(self.memory)
        self._prefixes = Prefixes(api, self.blobs, self._threads)
        self.desk = RoomDesk(api, unasked_bytes)
        self._attached: set[Attachment] = set()
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="torpor-write", initializer=step_back)
        worker = SaveWorker(api, self.blobs, self._writers, DigestMemo(), checkpoint, self.desk)
        self._saver = Saver(worker, pool or Pool(), self.memory, self._rates, free_memory, clock, at_exit=self.close)

    def save(self, session_id: str, source: SessionSource, *, small: bool = False) -> SaveHandle:
        """Capture a session and write it in the background; returns in milliseconds.

        A `small` save takes all but new KV: blocks that the last whole save of the live cache wrote are referred to,
        and the rest of the cache is prefilled after a restore. It is cheap enough for every message.
        Raises: InvalidId, UnsupportedState. What fails later is raised by `handle.wait()`.
        """
        self._process.claim()
        return self._saver.save(session_id, source, small=small)

    def save_group(self, name: str, sources: Mapping[str, SessionSource]) -> GroupHandle:
        """Capture several sessions (by session id) at one moment, and save all of them or none.

        Each becomes a backup of its own, which knows its group. Returns in milliseconds a session.
        Raises: InvalidId, BadInput, UnsupportedState. What fails later is raised by `handle.wait()`.
        """
        self._process.claim()
        return self._saver.save_group(name, sources)

    def plan(
        self,
        ref: str,
        target: RestoreTarget[Any] | TargetState,
        *,
        require: Mode | None = None,
        at_most: Mode = "full",
        overflow: Overflow = "refuse",
    ) -> RestorePlan:
        """Tell what a restore would do, why, and how long it takes; changes nothing. `ref` is a backup or session id.

        Where the conversation has to be put into the model's own form, that is tried, so that the tokens are counted.
        A manifest that cannot be read gives the mode `refuse`, with the reason in the notes.
        Raises: BackupNotFound, SessionNotFound, RestoreRefused; ManifestDamaged, InvalidManifest with `require`.
        """
        try:
            backup, manifest = opened(self.api, ref, self._rates)
        except (ManifestDamaged, InvalidManifest) as error:
            if require is not None:
                raise
            return refused(self.api.backup(ref).id, error.detail)
        lend(self.memory, target)
        state = target if isinstance(target, TargetState) else target.describe()
        source = self._way_back.source(manifest, state, at_most)
        conditions = self._foreseen(state, backup, source.manifest)
        plan = plan_restore(source.manifest, state, conditions, require=require, at_most=source.at_most(at_most))
        plan = source.label(plan)
        if isinstance(target, Foreseeing) and must_render(plan, source.manifest, state.window_tokens):
            plan = foreseen(source.manifest, plan, target, self.blobs, check_overflow(overflow), conditions.rates)
            check_required(plan, require)
        return plan

    def _missing(self, manifest: Manifest) -> frozenset[str]:
        return frozenset(self.blobs.missing(blob_refs(manifest)))

    def _conditions(self, state: TargetState) -> Conditions:
        return Conditions(self.max_recoverable_tokens, rates=self._rates.rates(state))

    def _foreseen(self, state: TargetState, backup: Backup, manifest: Manifest) -> Conditions:
        """Return the conditions of a restore as far as they are known before anything is read."""
        conditions, missing, let_go = self._conditions(state), self._missing(manifest), why_let_go(backup, manifest)
        if self._fetching is None or not missing:
            return replace(conditions, missing=missing, reasons=let_go)
        there, trouble = self._fetching.look(missing)
        reasons = dict.fromkeys(missing - there, NOT_THERE) | let_go
        if trouble is not None:
            reasons |= dict.fromkeys(there, why_not_fetched(trouble))
            there = frozenset()
        return replace(conditions, missing=missing - there, remote=there, reasons=reasons)

    def _to_fetch(self, manifest: Manifest) -> frozenset[str]:
        """Return the blobs that a restore has to fetch; whether it can is seen when it tries."""
        missing = self._missing(manifest) if self._fetching is not None else frozenset()
        return self._fetching.look(missing)[0] if self._fetching is not None else frozenset()

    def manifest(self, ref: str) -> tuple[Backup, Manifest]:
        """Return a backup and its manifest. Raises: BackupNotFound, SessionNotFound, ManifestDamaged."""
        return opened(self.api, ref)

    def restore(
        self,
        ref: str,
        target: RestoreTarget[S],
        *,
        require: Mode | None = None,
        at_most: Mode = "full",
        canary: bool = False,
        overflow: Overflow = "refuse",
    ) -> Restored[S]:
        """Wake a session in a target: the newest backup of a session, or a backup by its id.

        Everything is read and checked before the target is touched; a failure leaves it as it was. What is missing or
        damaged and can be made again lowers the mode, and the plan says so. Where another model had the session in the
        meantime, it goes on from the last backup under this one. `overflow` decides when the context is longer than the
        model's window: refuse it, or leave whole turns out of it (the conversation keeps them). With `canary`, one
        token is run first and its logits are compared with those saved; if they differ, the KV is not taken over.
        Raises: BackupNotFound, SessionNotFound, RestoreRefused, ContextTooLong, ManifestDamaged, and BlobDamaged or
        BlobNotFound where nothing is left to restore. Where a bucket has the second copy, what is missing or damaged
        is fetched from there; where it cannot be, Offline (or what else the bucket fails with) in place of both.
        """
        started = time.perf_counter()
        read = self._read(ref, target, require, at_most, overflow, canary=canary)
        session = target.adopt(read.woken)
        if read.woken.plan.bytes_fetch:
            self._rates.forget_fetches()  # the daemon has measured anew
        elif not canary:  # which takes time of its own
            took = Observation("read", read.woken.plan.bytes_read, time.perf_counter() - started)
            self._threads.submit(self._rates.note, [took], read.state)
        restored = self._handed_over(read, target, session)
        self._threads.submit(self.api.restored, restored.mode, time.perf_counter() - started, read.backup.id)
        return restored

    def restore_group(
        self,
        ref: str,
        targets: Mapping[str, RestoreTarget[S]],
        *,
        require: Mode | None = None,
        at_most: Mode = "full",
        overflow: Overflow = "refuse",
        canary: bool = False,
    ) -> dict[str, Restored[S]]:
        """Wake all sessions of a group, each in the target given for its session id. `ref`: a group's id or its name.

        Everything of every member is read and checked before the first target is touched. Targets may share one model:
        rope deltas and RNG state are then those of the last one, as `activate` on a session changes them.
        Raises: GroupNotFound, GroupIncomplete, BadInput (a target too few or too many), and as `restore`.
        """
        members = check_targets(self.api.group(ref), targets)
        read = {
            name: self._read(members[name].id, target, require, at_most, overflow, canary=canary)
            for name, target in targets.items()
        }
        for name, target in targets.items():
            if isinstance(target, Foreseeing):
                target.foresee(read[name].woken)  # raises what `adopt` would, before any target is touched
        sessions = {name: target.adopt(read[name].woken) for name, target in targets.items()}
        return {name: self._handed_over(read[name], target, sessions[name]) for name, target in targets.items()}

    def _read(
        self,
        ref: str,
        target: RestoreTarget[Any],
        require: Mode | None,
        at_most: Mode,
        overflow: Overflow,
        *,
        canary: bool,
    ) -> _Read:
        self._process.claim()
        check_overflow(overflow)
        lend(self.memory, target)
        (backup, manifest), state = opened_for(self.api, ref, target, self._rates)
        source = self._way_back.source(manifest, state, at_most)
        self._threads.submit(
            self._note_used, {backup.id, source.base_id or backup.id}
        )  # nothing of them leaves meanwhile
        conditions = replace(self._conditions(state), remote=self._to_fetch(source.manifest))
        conditions = replace(conditions, reasons=why_let_go(backup, source.manifest))

        def read(highest: Mode) -> Woken:
            options: Any = {"require": require, "at_most": source.at_most(highest), "label": source.label}
            return read_graded(source.manifest, target, state, conditions, self.blobs, self._threads, **options)[1]

        woken, checked = read_checked(read, target, asked=canary, at_most=at_most, require=require)
        woken.overflow = overflow
        if require is not None and isinstance(target, Foreseeing):
            check_required(with_outcome(woken.plan, target.foresee(woken)), require)
        return _Read(backup, woken, checked, state)

    def _note_used(self, backup_ids: set[str]) -> None:
        with suppress(TorporError):  # what is gone all the same is fetched, or lowers the mode
            self.api.note_used(backup_ids)

    def _handed_over(self, read: _Read, target: RestoreTarget[S], session: S) -> Restored[S]:
        woken, plan = read.woken, with_outcome(read.woken.plan, read.woken.outcome)
        kv = woken.kv_cache
        self._saver.follow(read.backup)
        self._saver.woken(session, read.backup.id, target.live(session) if kv else None, kv.blocks if kv else ())
        return Restored(plan.mode, session, read.backup, plan, woken.layers, read.checked)

    def find_prefix(self, target: PrefixTarget, token_ids: Any, media: Sequence[Medium] = ()) -> PrefixHit:
        """Find the longest stored prefix of some ids, whatever session it comes from; reads no tensors.

        `media` are the images and videos behind the placeholders, in their order (see `medium`).
        Raises: DaemonNotRunning, ManifestDamaged.
        """
        lend(self.memory, target)
        return self._prefixes.find(target.describe().fingerprint, target.token_row(token_ids, media))

    def restore_prefix(self, hit: PrefixHit, target: PrefixTarget) -> Any:
        """Return a fresh cache of the positions of a hit; every block is checked against its digest.

        Raises: BadInput, RestoreRefused (another model), BackupNotFound, BlobNotFound, BlobDamaged, UnsupportedState.
        """
        self._process.claim()
        lend(self.memory, target)
        cache, kv = self._prefixes.read(hit, target)
        self._saver.filled(target.live_cache(cache), kv.blocks)  # the next save reuses the blocks unread
        return cache

    def reuse_prefix(self, session: PrefixSession) -> PrefixHit:
        """Give a session without a cache the longest stored prefix. When none is found, it stays as it was.

        Raises: as `find_prefix` and `restore_prefix`; the session is untouched then.
        """
        target = session.prefix_target()
        lend(self.memory, target)
        hit = self._prefixes.find(target.describe().fingerprint, session.token_row())
        if hit.tokens:
            session.take_prefix(self.restore_prefix(hit, target))
        return hit

    def fork(self, ref: str, session_id: str | None = None) -> Backup:
        """Begin a new session at any backup; no blob is copied. Without an id, a free one is found.

        Raises: BackupNotFound, SessionNotFound, Conflict when the session id is in use, BlobNotFound.
        """
        backup, manifest = self.manifest(ref)
        if self._fetching is not None:
            self._fetching.bring(backup.id, blob_refs(manifest))
        return fork(self.api, backup, manifest, session_id, self._clock())

    def history(self, session_id: str, *, limit: int | None = None) -> History:
        """Return a session's backups as a drawing, newest first; what happened at each is read as it is asked for.

        Raises: InvalidId, SessionNotFound.
        """
        from .history import read_history

        return read_history(self.api, self.blobs, session_id, limit)

    def export(
        self,
        ref: str,
        path: str | Path,
        kind: ExportFormat = "bundle",
        progress: Progress = no_progress,
        *,
        strict: bool = False,
        force: bool = False,
    ) -> Exported:
        """Write a backup to a file, and read it back. `strict` is for v1: what its first reader understood.

        Raises: BackupNotFound, SessionNotFound, FileExists, UnsupportedState, StoreFull, StoreFailed, BlobDamaged.
        """
        from .exporting import Exporter

        raw = self.api.manifest(self.api.backup(ref).id)
        if self._fetching is not None:
            manifest = manifest_file.load(raw)
            self._fetching.expect(manifest.id, blob_refs(manifest))
        return Exporter(self.blobs).run(raw, path, kind, progress, strict=strict, force=force)

    def import_file(
        self,
        path: str | Path,
        session_id: str | None = None,
        progress: Progress = no_progress,
        *,
        follow: bool = True,
        expected: Signature | None = None,
        digest: str | None = None,
        name: str | None = None,
    ) -> Imported:
        """Make a backup of a state file: v1, bundle, safetensors or .pt; the same file again gives the same backup.

        Without `follow`, a symbolic link is refused; with `expected`, a file that looks otherwise; with `digest` (of a
        preview), one that holds other bytes. `name` is what it was called before, where it lies under another name now.

        Raises: UnknownFormat, NewerFormat, InvalidFile, FileDamaged, FileChanged, TooLarge, UnsupportedState,
        MissingExtra.
        """
        from .importing import Importer

        self._process.claim()
        importer = Importer(self.api, self.blobs, self.desk, self._clock)
        how: dict[str, Any] = {"follow": follow, "expected": expected, "digest": digest, "name": name}
        return importer.run(path, session_id, progress, **how)

    def preview_file(
        self,
        path: str | Path,
        session_id: str | None = None,
        progress: Progress = no_progress,
        *,
        follow: bool = True,
        expected: Signature | None = None,
        name: str | None = None,
    ) -> Preview:
        """Read a state file as `import_file` would, to the last byte, and tell what it is; nothing is changed.

        The arguments and what is raised are those of `import_file`.
        """
        from .preview import Previewer

        looking = Previewer(self.api, self.blobs, self._clock)
        return looking.look(path, session_id, progress, follow=follow, expected=expected, name=name)

    def attach(self, provider: Provider, *, name: str | None = None) -> Attachment:
        """Let the command line and pages save and wake this process's sessions, until the attachment is closed.

        `name` is what people see. A daemon that is away is looked for until it is there; nothing is raised for it.
        """
        from .attach import Attachment
        from .backup_desk import BackupDesk

        self._process.claim()
        made = Attachment(BackupDesk(self, provider), name, self._attached.discard)
        self._attached.add(made)
        return made

    def close(self) -> None:
        """Finish the saves that were started, then free everything."""
        if self._process.is_elsewhere():  # which needs all of it
            return
        for attachment in list(self._attached):
            attachment.close()
        if not self._saver.close():
            return
        self._threads.shutdown()
        self._writers.shutdown()
        self.blobs.close()
        self.api.close()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
