"""A chat page in front of Qwen3-VL that never loses a conversation: `make example`, or `python server.py`.

By default two small models with random weights; `--model-8b PATH --model-4b PATH` takes real ones.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import orjson
import torch
import uvicorn
from answer import Answer
from chats import Chats
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import Base64Bytes, BaseModel, Field
from small_talk import SmallTalk
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torpor.adapters.demo_model import Loaded, load, other_model, small_model
from torpor.adapters.transformers import Media, TransformersSession
from torpor.client import LateKeeper
from torpor.client.asgi import backup_app
from torpor.state.errors import TorporError
from torpor.state.problems import to_problem

PAGE = Path(__file__).with_name("page")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
}
NAMES = {"8b": "Qwen3-VL 8B", "4b": "Qwen3-VL 4B"}
SMALL = (
    "Small models with random weights: they choose their words, and mean nothing by them. Real ones: --model-8b PATH."
)


class Image(BaseModel):
    """An image of a message."""

    media_type: Annotated[str, Field(pattern="^image/(png|jpeg|webp|gif)$")]
    data: Annotated[Base64Bytes, Field(max_length=16 << 20)]


class Said(BaseModel):
    """What a user says. `known` is how many messages the page shows, so that two tabs do not talk past each other."""

    text: Annotated[str, Field(max_length=100_000)]
    images: Annotated[list[Image], Field(max_length=8)] = []
    known: Annotated[int, Field(ge=0)]


class Choice(BaseModel):
    """The model to go on with."""

    model: str


class Page(StaticFiles):
    """The page's files, which load nothing from elsewhere."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return a file with the headers of the page."""
        response = super().file_response(*args, **options)
        response.headers.update(HEADERS)
        return response


class Server(uvicorn.Server):
    """A server that does not wait for answers when it is to end."""

    def __init__(self, app: FastAPI, chats: Chats, port: int) -> None:
        super().__init__(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
        self._chats = chats

    def handle_exit(self, sig: int, frame: Any) -> None:
        """End as a server does, its streams first."""
        self._chats.close()
        super().handle_exit(sig, frame)


def create_app(chats: Chats, keeper: LateKeeper, note: str = "") -> FastAPI:
    """Return the server: the chat, and beside it Torpor's routes for its page, which shows `note`."""
    app = FastAPI(title="Qwen3-VL, with Torpor")
    app.add_middleware(
        TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]
    )  # no page reaches it by another name

    @app.middleware("http")
    async def own_page(request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Let other web pages change nothing: a browser sends some of their requests without asking."""
        if request.method != "GET" and request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return Response(status_code=403)
        return await call_next(request)

    @app.exception_handler(TorporError)
    def problem(_: Any, error: TorporError) -> JSONResponse:
        return JSONResponse(to_problem(error), error.http_status, media_type="application/problem+json")

    @app.get("/models")
    def models() -> dict[str, Any]:
        known = [{"id": name, "name": NAMES[name]} for name in chats.names]
        return {"model": chats.model, "models": known, "note": note}

    @app.post("/models")
    def switch(choice: Choice) -> dict[str, Any]:
        chats.switch(choice.model, lambda session_id, chat: keeper().save(session_id, chat).wait())
        return models()

    @app.get("/chats/{session_id}")
    def look(session_id: str) -> dict[str, Any] | None:
        return chats.look(session_id)

    @app.get("/chats/{session_id}/images/{number}")
    def image(session_id: str, number: int) -> Response:
        found = chats.image(session_id, number)
        return Response(found.data, media_type=found.media_type, headers={"X-Content-Type-Options": "nosniff"})

    @app.post("/chats/{session_id}")
    def say(session_id: str, said: Said) -> StreamingResponse:
        images = [Media(image.data, image.media_type) for image in said.images]
        return stream(chats.say(session_id, said.text, images, said.known))

    @app.post("/chats/{session_id}/answer")
    def go_on(session_id: str) -> StreamingResponse:
        return stream(chats.go_on(session_id))

    @app.post("/chats/{session_id}/stop", status_code=204)
    def stop(session_id: str) -> None:
        chats.stop(session_id)

    def unread(session_id: str, chat: TransformersSession) -> None:
        with suppress(TorporError):  # without a daemon it stays awake here, and the page saves it when it is back
            keeper().save(session_id, chat, small=True)

    chats.on_unread = unread
    app.mount("/api/backup", backup_app(keeper, chats))
    app.mount("/", Page(directory=PAGE, html=True))
    return app


def stream(answer: Answer) -> StreamingResponse:
    """Return an answer while it is written: a line of JSON for each piece."""

    def lines() -> Iterator[bytes]:
        try:
            for piece in answer.read():
                yield orjson.dumps(piece) + b"\n"
        except ConnectionError:
            return  # the server ends; the page sees that the message is missing, and waits for the next server
        except TorporError as error:
            yield orjson.dumps({"problem": to_problem(error)}) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


def small(name: str) -> Loaded:
    """Build one of the small models; in float32, which a CPU is quick with."""
    return (small_model if name == "8b" else other_model)(dtype=torch.float32)


def small_talk(pace_s: float, chat: TransformersSession) -> dict[str, Any]:
    """Return how a small model generates: slowly enough to be read."""
    return {"do_sample": False, "logits_processor": [SmallTalk(chat, pace_s)]}


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    for name in NAMES:
        parser.add_argument(f"--model-{name}", metavar="PATH", help=f"a folder with the weights of {NAMES[name]}")
    parser.add_argument("--pace", type=float, default=0.015, help="seconds a letter of the small models takes")
    options = parser.parse_args()
    paths = {name: path for name in NAMES if (path := getattr(options, f"model_{name}"))}
    if paths:
        chats = Chats(lambda name: load(paths[name]), list(paths))
    else:
        chats = Chats(small, list(NAMES), functools.partial(small_talk, options.pace))
    with LateKeeper() as keeper, keeper.attach(chats, name="qwen3-vl-web"):  # the daemon may come later, and go
        print(f"Open http://127.0.0.1:{options.port}/", flush=True)
        app = create_app(chats, keeper, note="" if paths else SMALL)
        with suppress(KeyboardInterrupt):  # Ctrl-C, once all has ended
            Server(app, chats, options.port).run()


if __name__ == "__main__":
    main()
