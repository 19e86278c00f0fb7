"""A conversation around a real DynamicCache: token ids, messages and a model that has a name."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import torch
from torpor.adapters.plain import PlainSession
from torpor.client import Capture, Woken
from torpor.state.fingerprint import Fingerprint

from support.caches import IDENTITY, CacheSession, CacheTarget


@dataclass(eq=False)
class Chat(CacheSession):
    """A cache session with token ids, messages and a model."""

    name: str = "qwen-8b"
    identity: Fingerprint = IDENTITY
    ids: tuple[int, ...] = ()

    def say(self, *texts: str, tokens: int = 10) -> Chat:
        messages = self.note.get("messages", [])
        self.note = {"messages": [*messages, *({"role": "user", "content": text} for text in texts)]}
        self.grow(tokens, len(self.ids))
        first = zlib.crc32(texts[0].encode()) % 30_000
        self.ids += tuple(range(first, first + tokens))
        return self

    def capture(self) -> Capture:
        made = super().capture()
        layers = {**made.layers, "metadata": {"model_name": self.name}, "tokens": {"ids": torch.tensor([self.ids])}}
        return replace(made, layers=layers, fingerprint=lambda: self.identity)


class ChatTarget(CacheTarget):
    """Wakes a `Chat`."""

    def adopt(self, woken: Woken) -> Chat:
        session = super().adopt(woken)
        ids = woken.layers["tokens"]["ids"][0].tolist()
        return Chat(session.cache, session.note, name=woken.layers["metadata"]["model_name"], ids=tuple(ids))


def plain(text: str = "hello", name: str = "m") -> PlainSession:
    """A plain state with one message."""
    return PlainSession(
        {"metadata": {"model_name": name}, "text_context": {"conversation": [{"role": "user", "content": text}]}}
    )
