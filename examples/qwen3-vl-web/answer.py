"""An answer while it is written: `generate` puts its tokens here, and pages read them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import torch
from torpor.adapters.transformers import TransformersSession
from transformers import StoppingCriteria

MAX_NEW_TOKENS = 1024


class Answer(StoppingCriteria):
    """An answer that is being written. Any number of readers read it from its beginning; `generate` asks it to stop."""

    def __init__(self, chat: TransformersSession, pause: threading.Event) -> None:
        assert chat.mark is not None
        self._decode, self._start, self._pause = chat.tokenizer.decode, int(chat.mark.answer or 0), pause
        self._news, self._stop = threading.Condition(), threading.Event()
        self.ids: list[int] = chat.token_ids[0, self._start :].tolist()  # what was written before it was put to sleep
        self.written: Future[dict[str, Any]] = Future()
        self.readers = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Take the ids so far; tell whether generation is to end here."""
        with self._news:
            self.ids += input_ids[0, self._start + len(self.ids) :].tolist()
            self._news.notify_all()
        ends = self._stop.is_set() or self._pause.is_set() or self.written.done()
        return torch.full((input_ids.shape[0],), ends, dtype=torch.bool, device=input_ids.device)

    @property
    def room(self) -> int:
        """How many tokens it may still have."""
        return max(0, MAX_NEW_TOKENS - len(self.ids))

    @property
    def stopped(self) -> bool:
        """Whether the reader has had enough."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End it at the next token; what is written stays."""
        self._stop.set()

    def end(self, message: dict[str, Any] | None, error: BaseException | None = None) -> None:
        """Tell the readers that nothing more comes."""
        with self._news:
            if error is not None:
                self.written.set_exception(error)
            elif message is not None:
                self.written.set_result(message)
            self._news.notify_all()

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield `{text}` as it comes, and at the end `{message}`. Raises: what writing it raised."""
        seen, shown = 0, 0
        self.readers += 1
        try:
            while True:
                ids = self._more_than(seen)
                text = self._decode(ids, skip_special_tokens=True).rstrip("\ufffd")  # half a letter waits for the rest
                if len(ids) > seen:
                    yield {"text": text[shown:]}
                elif self.written.done():
                    yield {"message": self.written.result()}
                    return
                seen, shown = len(ids), max(shown, len(text))
        finally:
            self.readers -= 1

    def _more_than(self, seen: int) -> list[int]:
        """Wait for more ids than were seen, or for the end."""
        with self._news:
            self._news.wait_for(lambda: len(self.ids) > seen or self.written.done())
            return list(self.ids)
