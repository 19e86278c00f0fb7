"""The pump: one thread that takes items from the outbox, has them pushed, and decides what becomes of each failure.

What concerns the whole remote side (offline, refused credentials, a wrong clock) is a state: the item goes back
untouched, and the pump looks again by itself. What concerns one item waits alone, while the others go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import BackupNotFound, Throttled, TorporError, Unavailable, error_classes
from ..state.outbox import LEASE_S, Item, Stage, delay_s, error_class, is_dead, priority
from ..state.sync_state import ASKED, RemoteState, Troubled, later, next_trouble, verdict
from .ports import Interrupted, Pushed, Pusher
from .pump_ports import Clocks, Queue, Remote, Watcher
from .turn import RunningPush

log = logging.getLogger("torpor.sync")

STOP_S = 2.0
STILL_S, LONG_STILL_S = 5.0, 20.0  # without a byte for so long, a transfer is broken off: network changed, user asks
_LOCAL_RETRY_S = 30.0  # the index or the disk failed
_LONGEST_WAIT_S = 60.0  # then the clocks are looked at again
_NEXT_TURN_S = 60.0  # then a backup is tried again that was refused as all others were
_SOONEST_S = 0.5  # between two looks at a remote side in trouble, however often the network changes


class Pump:
    """The worker over a queue. Safe to call from several threads; `step` belongs to its own."""

    def __init__(
        self,
        queue: Queue,
        remote: Remote,
        watcher: Watcher,
        clocks: Clocks,
        owner: str,
        *,
        changed: Callable[[], None] = lambda: None,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._queue, self._remote, self._watcher, self._clocks = queue, remote, watcher, clocks
        self._owner, self._changed, self._checkpoint = owner, changed, checkpoint
        self._wake, self._stopping, self._holding = threading.Event(), threading.Event(), threading.Event()
        self._turn = threading.Lock()  # held while something is done, and by whoever wants nothing to be
        self._pusher: Pusher | None = None
        self._trouble: Troubled | None = None
        self._looked_at = -1e9
        self._running: RunningPush | None = None
        self._refused: tuple[str, str] | None = None  # the backup that failed last, alone, and with which error
        self._paused_at: float | None = None
        self._resume_at: float | None = None  # in steady seconds; None: until it is resumed
        self._since, self._unclean = clocks.wall(), True
        self._asked_to_look = False  # and did not yet: a remote side in trouble is looked at then, whatever waits
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    # -- what others ask of it ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to pump."""
        self._thread.start()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """End, in mid-transfer too; what was not noted is sent again. Return whether the thread is gone."""
        self._stopping.set()
        self._end_running()
        self._remote.break_off()  # it may be opening the remote side, which is no transfer yet
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def notify(self) -> None:
        """Learn that items were queued: at once, and before what is less urgent."""
        running, trouble = self._running, self._trouble
        if trouble is not None and trouble.by_pushes:
            self._trouble = replace(trouble, retry_at=self._clocks.steady())  # what is new may be what goes
        if running is not None and running.priority > priority("text"):
            first = self._queue.first_priority(self._clocks.wall())
            if first is not None and first < running.priority:
                running.give_way()
        self._wake.set()

    def network_changed(self) -> None:
        """Look at the remote side now: the network is another one, or the machine has slept."""
        self.retry_now(STILL_S)

    def retry_now(self, still_s: float = LONG_STILL_S) -> None:
        """Look at the remote side now, whatever it was; break off a transfer without a byte for so long."""
        self._asked_to_look = True
        trouble, running = self._trouble, self._running
        if running is not None and running.still_s() > still_s:
            self._remote.break_off()
        if trouble is not None:
            soonest = max(self._looked_at + _SOONEST_S, self._clocks.steady())
            self._trouble = replace(trouble, retry_at=min(trouble.retry_at, soonest))
        self._wake.set()

    def look_again(self) -> None:
        """Learn anew what the bucket has, before anything else is sent; what is being sent may end."""
        self._pusher = None
        self.retry_now()

    def reconnect(self) -> None:
        """Open the remote side anew: its key or its settings changed."""
        self._pusher = None
        self._end_running()
        self.retry_now()

    def pause(self, seconds: float | None) -> None:
        """Send nothing for so long, or until it is resumed; a transfer ends now."""
        self._resume_at = None if seconds is None else self._clocks.steady() + seconds
        self._paused_at = self._since = self._clocks.wall()
        self._end_running()

    def resume(self) -> None:
        """Go on."""
        self._paused_at = self._resume_at = None
        self._wake.set()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Send nothing while this is open; a transfer ends first."""
        self._holding.set()
        self._end_running()
        with self._turn:
            self._holding.clear()
            yield
        self._wake.set()

    def drop(self, session_id: str) -> None:
        """End what is being sent of a session, since it is to stay here, and wait a moment until it has ended."""
        running = self._running
        if running is not None and any(item.session_id == session_id for item in running.items):
            self._end_running()
            if threading.current_thread() is not self._thread:
                running.over.wait(STOP_S)

    def give_way(self, stage: Stage) -> None:
        """End what is being sent of a stage behind the blobs that are under way: what may go is decided again."""
        running = self._running
        if running is not None and stage in running.stages:
            running.give_way()

    @property
    def state(self) -> RemoteState:
        """Tell how it is."""
        if self._is_paused():
            return "paused"
        trouble = self._trouble
        if trouble is not None:
            return trouble.name
        return "busy" if self._running is not None else "idle"

    @property
    def looked(self) -> bool:
        """Tell whether what the remote side has is known, and what it lacks is queued."""
        return self._pusher is not None

    @property
    def waits(self) -> bool:
        """Tell whether something is to be noticed soon: a transfer runs, or the remote side is in trouble."""
        return self._running is not None or (self._trouble is not None and not self._is_paused())

    @property
    def running(self) -> RunningPush | None:
        """Return what is being sent."""
        return self._running

    def trouble_now(self, fresh_s: float) -> TorporError | None:
        """Return why the remote side cannot be used, if that was seen so lately; else it is looked at again."""
        trouble = self._trouble
        if trouble is None or trouble.by_pushes:
            return None
        if self._clocks.steady() - self._looked_at > fresh_s:
            self.retry_now()
            return None
        return error_classes().get(trouble.code, Unavailable)(trouble.detail, hint=trouble.hint)

    def describe(self) -> dict[str, Any]:
        """Return the state with its reason, and when the remote side is looked at again."""
        state, trouble = self.state, self._trouble
        found: dict[str, Any] = {"state": state, "since": self._since, "reason": None, "hint": None, "retry_in_s": None}
        if state == "paused":
            found["hint"] = "`torpor sync resume` goes on."
        elif trouble is not None:
            left = max(trouble.retry_at - self._clocks.steady(), 0.0)
            found |= {"since": trouble.since, "reason": trouble.detail, "hint": trouble.hint, "retry_in_s": left}
            found["code"] = trouble.code
        return found

    # -- its own thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            wait = self._step_or_rest()
            self._changed()
            if wait is None or wait > 0:
                self._wake.wait(None if wait is None else min(wait, _LONGEST_WAIT_S))

    def _step_or_rest(self) -> float | None:
        try:
            return self.step()
        except TorporError as error:
            log.warning("the queue cannot be used: %s", error.detail)
        except Exception:
            log.exception("a defect in the pump")
        self._unclean = True
        return _LOCAL_RETRY_S

    def step(self) -> float | None:
        """Do the next thing; return how many seconds to wait then, or None to wait until something happens."""
        with self._turn:
            return self._step()

    def _step(self) -> float | None:
        steady = self._clocks.steady()
        if self._stopping.is_set():
            return None
        if self._is_paused():
            return None if self._resume_at is None else self._resume_at - steady
        if self._unclean:
            self._queue.release_all()
            self._unclean = False
        if self._trouble is not None and self._trouble.retry_at > steady:
            return self._trouble.retry_at - steady if self._asked_to_look or self._has_work() else None
        if not self._is_ready() or self._is_paused():  # which may have been said meanwhile: that took its time
            return 0.0
        now = self._clocks.wall()
        items = self._queue.lease(now, self._owner, now + LEASE_S)
        if items:
            self._push(items)
            return 0.0
        due = self._queue.next_due()
        if due is None:
            self._get_out()  # throttled or refused, and nothing is left that could be
        return None if due is None else max(due - now, 0.05)

    def _has_work(self) -> bool:
        """Tell whether something waits: an idle remote side in trouble is not looked at until the network changes."""
        return self._queue.next_due() is not None

    def _is_ready(self) -> bool:
        """Open the remote side, or see whether its trouble is over."""
        self._asked_to_look = False
        self._looked_at, trouble = self._clocks.steady(), self._trouble
        if trouble is not None and trouble.name == "offline" and not self._remote.can_connect():
            self._trouble = later(trouble, steady=self._clocks.steady(), random=self._clocks.random)
            return False
        if self._pusher is not None:
            return trouble is None or trouble.by_pushes or trouble.name not in ASKED or self._asks()
        try:
            self._pusher = self._remote.connect()
        except TorporError as error:
            self._get_into(error)
            return False
        self._get_out()
        return True

    def _asks(self, *, keep: bool = False) -> bool:
        """Ask the bucket something that has nothing to do with any item; return whether it answers.

        Then a trouble is over, unless it is to be kept: an answer says nothing of what pushes meet.
        """
        try:
            self._remote.ask()
        except TorporError as error:
            self._get_into(error)
            return False
        if not keep:
            self._get_out()
        return True

    def _push(self, items: list[Item]) -> None:
        self._checkpoint("outbox.leased")
        items = self._allowed(items)
        if not items:
            return
        ids = [item.id for item in items]
        renewed = [self._clocks.steady()]

        def keep() -> None:
            if self._clocks.steady() - renewed[0] > LEASE_S / 3:
                renewed[0] = self._clocks.steady()
                self._queue.renew(ids, self._clocks.wall() + LEASE_S)

        running = RunningPush(items, self._clocks.wall(), self._clocks.steady, keep)
        started = self._clocks.steady()
        self._begin(running)
        try:
            result = self._send(running)
        except Interrupted:
            self._queue.release(ids)
        except TorporError as error:
            if running.ended:  # its connections were broken off for that
                self._queue.release(ids)
            else:
                self._failed(items, error)
        else:
            self._done(running, result, self._clocks.steady() - started)
        finally:
            self._begin(None)
            running.over.set()

    def _send(self, running: RunningPush) -> Pushed:
        """Push, with a defect of ours as a failure of the item: it must not hold up the others for ever."""
        ids, pusher, first = {item.id for item in running.items}, self._pusher, running.items[0]
        # Whatever was asked for before this push could be seen was not told to it.
        if pusher is None or self._is_to_end() or self._queue.still_leased(ids) != ids:
            raise Interrupted
        left_out = self._queue.left_out(first.backup_id, running.stages) if running.stages else {}
        try:
            return pusher.push(running.items, running, left_out)
        except TorporError:
            raise
        except Exception as error:
            log.exception("a defect while pushing %s", first.backup_id)
            raise TorporError(f"{type(error).__name__}: {error}") from error

    def _allowed(self, items: list[Item]) -> list[Item]:
        allowed = []
        for item in items:
            reason = self._watcher.kept_back(item)
            if reason is None:
                allowed.append(item)
            else:
                self._queue.hold(item.id, reason)
        return allowed

    def _done(self, running: RunningPush, result: Pushed, seconds: float) -> None:
        self._queue.finish(item.id for item in running.items if item.id not in result.failed)
        self._checkpoint("outbox.finished")
        self._refused = None
        self._get_out()
        for item in running.items:
            if item.id in result.failed:
                self._item_failed(item, result.failed[item.id])
        done = tuple(item for item in running.items if item.id not in result.failed)
        if done:
            self._watcher.pushed(done, result, seconds)

    def _failed(self, items: list[Item], error: TorporError) -> None:
        found = verdict(error)
        if isinstance(error, Throttled):  # an attempt all the same: one object may be throttled for ever
            for item in items:
                self._item_failed(item, error, at_once=True)
        if found == "remote":
            self._queue.release(item.id for item in items)
            self._get_into(error)
        elif found == "ask" and not self._asks(keep=True):
            self._queue.release(item.id for item in items)
        elif found == "ask" and self._is_everybodys(items[0].backup_id, error):
            self._get_into(error, by_pushes=True)
            wait = self._clocks.wall() + _NEXT_TURN_S
            self._queue.defer([item.id for item in items], wait)
        elif isinstance(error, BackupNotFound):  # it was removed in the meantime
            self._queue.finish(item.id for item in items)
        elif len(items) > 1:
            self._one_by_one(items)
        else:
            self._item_failed(items[0], error)

    def _is_everybodys(self, backup_id: str, error: TorporError) -> bool:
        """Tell whether backups are refused one after the other, for the same reason, with none that goes in between."""
        before, self._refused = self._refused, (backup_id, error.code)
        trouble = self._trouble
        if trouble is not None and trouble.by_pushes and trouble.code == error.code:
            return True
        return before is not None and before[1] == error.code and before[0] != backup_id

    def _one_by_one(self, items: list[Item]) -> None:
        """Send stages alone that failed together: only the one that cannot go is to wait."""
        for item in items:
            if self._trouble is None and not self._is_to_end():
                self._push([item])
            else:
                self._queue.release([item.id])

    def _item_failed(self, item: Item, error: TorporError, *, at_once: bool = False) -> None:
        kind, attempts = error_class(error), item.attempts + 1
        if is_dead(kind, attempts):
            self._queue.fail(item.id, kind, error.detail, None)
            self._watcher.gave_up(item, error)
            return
        delay = 0.0 if at_once else delay_s(attempts, self._clocks.random)
        self._queue.fail(item.id, kind, error.detail, self._clocks.wall() + delay)

    def _begin(self, running: RunningPush | None) -> None:
        self._running = running
        if self._trouble is None:
            self._since = self._clocks.wall()
        self._changed()

    def _get_into(self, error: TorporError, *, by_pushes: bool = False) -> None:
        if self._stopping.is_set():
            return  # broken off by that
        before, clocks = self._trouble, self._clocks
        times = {"wall": clocks.wall(), "steady": clocks.steady()}
        self._trouble = next_trouble(before, error, **times, random=clocks.random, by_pushes=by_pushes)
        if self._trouble.name in ("key-missing", "unusable"):
            self._pusher = None  # only opening it anew tells whether it can be used
        if before is None or before.name != self._trouble.name:
            self._watcher.troubled(self._trouble, before)

    def _get_out(self) -> None:
        before, self._trouble = self._trouble, None
        if before is not None:
            self._since = self._clocks.wall()
            self._watcher.troubled(None, before)

    def _is_paused(self) -> bool:
        if self._paused_at is None:
            return False
        if self._resume_at is not None and self._clocks.steady() >= self._resume_at:
            self._paused_at = self._resume_at = None
            self._since = self._clocks.wall()
        return self._paused_at is not None

    def _is_to_end(self) -> bool:
        return self._stopping.is_set() or self._holding.is_set() or self._is_paused()

    def _end_running(self) -> None:
        running = self._running
        if running is not None:
            running.end()
            self._remote.break_off()
        self._wake.set()
