"""The chats of one model at a time: what the page asks of them, and what Torpor asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from answer import Answer
from torpor.adapters.chat import progress
from torpor.adapters.demo_model import Loaded
from torpor.adapters.transformers import Media, TransformersSession, TransformersTarget, start_chat
from torpor.client import Restored
from torpor.state.answer import message_of
from torpor.state.errors import BadInput, Conflict, NotFound, SessionNotFound, TorporError
from torpor.state.ids import parse_session_id

Speaker = Callable[[TransformersSession], dict[str, Any]]  # more options of `generate`, for one answer


class Chats:
    """Chats by their session id, under one model. `torpor.client.Provider`: backups and restores go through it."""

    def __init__(self, load: Callable[[str], Loaded], names: Sequence[str], speaker: Speaker = lambda chat: {}) -> None:
        self._load, self.names, self._speaker = load, tuple(names), speaker
        self._live: dict[str, TransformersSession] = {}
        self._answers: dict[str, Answer] = {}
        self._gate, self._turn, self._pause = threading.RLock(), threading.RLock(), threading.Event()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="answers")  # one model writes one answer at a time
        self.on_unread: Callable[[str, TransformersSession], object] = lambda session_id, chat: None
        self._use(names[0])

    def _use(self, name: str) -> None:
        self.model, self._loaded = name, self._load(name)
        loaded = self._loaded
        self._target = TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)

    # What Torpor asks for.

    def sessions(self) -> list[str]:
        """Return the chats that are awake."""
        return list(self._live)

    @contextmanager
    def hold(self, session_id: str) -> Iterator[TransformersSession]:
        """Lend a chat while nothing is generated. Raises: SessionNotFound when it is asleep."""
        with self.pause():
            if session_id not in self._live:
                raise SessionNotFound(f"{session_id} is not awake here")
            yield self._live[session_id]

    def target(self) -> TransformersTarget:
        """Return what a chat is woken in."""
        return self._target

    def woken(self, session_id: str, restored: Restored[TransformersSession]) -> None:
        """Take a chat that was woken."""
        self.stop(session_id)
        self._live[session_id] = restored.session

    def conversation(self, session_id: str) -> list[Any] | None:
        """Return the messages of a chat that is awake."""
        chat = self._live.get(session_id)
        return None if chat is None else chat.conversation

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Keep the model still: an answer that is being written pauses at its next token."""
        with self._gate:  # who writes an answer passes here, too, so that it does not go on before us
            self._pause.set()
            with self._turn:
                self._pause.clear()
                yield

    # What the page asks for.

    def look(self, session_id: str) -> dict[str, Any] | None:
        """Return a chat as it stands, or None where it is asleep."""
        with self.pause():
            chat = self._live.get(session_id)
            if chat is None:
                return None
            conversation, unfinished = shown(chat)
            writing = self._running(session_id) is not None
            return {"conversation": conversation, "unfinished": unfinished, "writing": writing}

    def image(self, session_id: str, number: int) -> Media:
        """Return an image of a chat, as it was sent. Raises: NotFound."""
        chat = self._live.get(session_id)
        if chat is None or not 0 <= number < len(chat.media):
            raise NotFound("there is no such image, or the chat is asleep")
        return chat.media[number]

    def say(self, session_id: str, text: str, images: Sequence[Media], known: int) -> Answer:
        """Append a user's message and begin the answer. `known` is how many messages the page shows.

        Raises: InvalidId; Conflict when that is not where the chat stands; BadInput when an image cannot be read.
        """
        parse_session_id(session_id)  # one that could not be saved
        with self.pause():
            chat = self._live.get(session_id)
            if self._running(session_id) or known != (0 if chat is None else len(shown(chat)[0])):
                raise Conflict("the chat has gone on elsewhere, or is asleep", hint="Load it again.")
            if chat is None:
                loaded = self._loaded
                chat = start_chat(loaded.model, loaded.tokenizer, loaded.image_processor)
            chat.say(
                {"role": "user", "content": [*[{"type": "image"}] * len(images), {"type": "text", "text": text}]},
                media=images,
            )
            self._live[session_id] = chat
            return self._begin(session_id, chat)

    def go_on(self, session_id: str) -> Answer:
        """Return the answer that is being written; one that was interrupted goes on.

        Raises: SessionNotFound, Conflict.
        """
        running = self._running(session_id)
        if running is not None:
            return running
        with self.hold(session_id) as chat:
            if chat.mark is None or chat.mark.answer is None:
                raise Conflict("there is no unfinished answer")
            return self._begin(session_id, chat)

    def stop(self, session_id: str) -> None:
        """End the answer that is being written."""
        answer = self._running(session_id)
        if answer is not None:
            answer.stop()

    def close(self) -> None:
        """Let go of who reads along. What was being written goes on when its chat is woken."""
        for answer in list(self._answers.values()):
            if not answer.written.done():
                answer.end(None, ConnectionAbortedError())

    def switch(self, name: str, put_to_sleep: Callable[[str, TransformersSession], object]) -> None:
        """Put another model in place of this one, once all chats are saved; they sleep until somebody asks for them.

        Raises: what `put_to_sleep` raises; nothing has changed then.
        """
        if name not in self.names:
            raise BadInput(f"there is no model {name}")
        for answer in list(self._answers.values()):
            answer.stop()
            answer.written.exception()
        with self.pause():
            for session_id, chat in self._live.items():
                put_to_sleep(session_id, chat)
            self._live.clear()
            before = self.model
            del self._target, self._loaded  # two real ones may not fit into memory
            try:
                self._use(name)
            except TorporError:
                self._use(before)
                raise

    def _running(self, session_id: str) -> Answer | None:
        answer = self._answers.get(session_id)
        return answer if answer is not None and not answer.written.done() else None

    def _begin(self, session_id: str, chat: TransformersSession) -> Answer:
        answer = self._answers[session_id] = Answer(chat, self._pause)
        self._writer.submit(self._write, session_id, chat, answer)
        return answer

    def _write(self, session_id: str, chat: TransformersSession, answer: Answer) -> None:
        end = chat.tokenizer.eos_token_id
        options = {"eos_token_id": end, "pad_token_id": end, "stopping_criteria": [answer], **self._speaker(chat)}
        try:
            while not (answer.stopped or answer.room == 0 or end in answer.ids[-1:]):
                with self._gate:  # who wants the model to be still goes first
                    pass
                with self._turn:
                    chat.generate(max_new_tokens=answer.room, **options)
                if answer.written.done():  # the server ends
                    return
            with self._turn:
                answer.end(chat.finish())
        except Exception as error:  # whoever reads along is told
            answer.end(None, error)
            return
        if not answer.readers and self._live.get(session_id) is chat:  # the page was closed, so nobody has it saved
            self.on_unread(session_id, chat)


def shown(chat: TransformersSession) -> tuple[list[Any], bool]:
    """Return the messages of a chat with what was begun of an answer, and whether that answer waits to go on."""
    begun = progress(chat).get("pending")
    if begun is None:
        return chat.conversation, False
    return [*chat.conversation, *([message_of(begun["text"])] if begun["text"] else [])], not begun["ended"]
