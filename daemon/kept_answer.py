"""An answer that is dear to make: made in a thread of its own, once at a time, and kept until it is old."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..state.errors import TorporError

T = TypeVar("T")
FRESH_S = 1.0
AT_MOST = 20  # times as long as it took to make is it kept


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """An answer, and how old it is."""

    value: T
    age_s: float


class KeptAnswer(Generic[T]):
    """The last answer of `make`. Safe to use from several threads."""

    def __init__(self, make: Callable[[], T], steady: Callable[[], float] = time.monotonic) -> None:
        self._make, self._steady = make, steady
        self._changed, self._making = threading.Condition(), False
        self._kept: tuple[T, float] | None = None
        self._failed: TorporError | None = None
        self._begun_at = self._old_at = float("-inf")

    def get(self, patience_s: float) -> Kept[T] | None:
        """Return the answer, and begin to make another where it is old. None: the first one takes longer than that.

        Patience counts from when it was begun, so that who asks again and again does not wait each time.

        Raises: what `make` failed with, as long as nothing better is there.
        """
        with self._changed:
            if not self._making and self._steady() >= self._old_at:
                self._making, self._failed, self._begun_at = True, None, self._steady()
                threading.Thread(target=self._renew, name="kept-answer", daemon=True).start()
            left_s = max(patience_s - (self._steady() - self._begun_at), 0.0)
            self._changed.wait_for(lambda: self._kept is not None or not self._making, left_s)
            if self._kept is None:
                if self._failed is not None:
                    raise self._failed
                return None
            value, made_at = self._kept
            return Kept(value, max(self._steady() - made_at, 0.0))

    def _renew(self) -> None:
        began, made, failed = self._steady(), None, None
        try:
            made = (self._make(), began)
        except TorporError as error:
            failed = error
        finally:
            with self._changed:
                ended = self._steady()
                self._kept, self._failed, self._making = made or self._kept, failed, False
                self._old_at = ended + max(FRESH_S, AT_MOST * (ended - began))
                self._changed.notify_all()
