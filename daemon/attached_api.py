"""The channel to attached inference processes: they announce themselves, poll for work and answer it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ..state.access import Access
from ..state.errors import BadInput, ScopeDenied
from ..state.ids import BACKUP_PATTERN, SESSION_PATTERN, parse_session_id
from ..state.problems import from_problem
from .answers import private_answer
from .attached import LONGEST_POLL_S, MAX_WORK, About, Attachments

_WORK_PATTERN = "^[0-9a-f]{32}$"

AttachId = Annotated[str, Path(pattern=BACKUP_PATTERN)]
WorkId = Annotated[str, Path(pattern=_WORK_PATTERN)]
SessionName = Annotated[str, Field(pattern=SESSION_PATTERN)]


class Announcement(BaseModel):
    """What a process says of itself."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(min_length=1, max_length=80)
    pid: int = Field(ge=0, le=2**31)
    model: str | None = Field(None, max_length=200)
    sessions: list[SessionName] = Field(default_factory=list, max_length=1000)


class Outcome(BaseModel):
    """How work ended: with a result, or with a problem."""

    model_config = ConfigDict(extra="forbid", strict=True)
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None


def add_attached(app: FastAPI, attached: Attachments) -> None:
    """Add the routes."""

    @app.get("/v1/attached")
    def who() -> Response:
        """List the inference processes that are attached, the newest first."""
        return private_answer({"processes": attached.describe()})

    @app.put("/v1/attached/{attach_id}")
    async def announce(attach_id: AttachId, said: Announcement, request: Request) -> Response:
        """Attach a process under an id that it made, or say anew what it holds."""
        _check_process(request)
        sessions = tuple(parse_session_id(name) for name in said.sessions)
        attached.announce(attach_id, About(_line(said.name), said.pid, _line(said.model), sessions))
        return private_answer({"longest_poll_s": LONGEST_POLL_S})

    @app.get("/v1/attached/{attach_id}/work")
    async def work(
        attach_id: AttachId,
        request: Request,
        wait_s: float = Query(LONGEST_POLL_S, ge=0.0, le=LONGEST_POLL_S),
        busy: str = Query("", max_length=33 * MAX_WORK, description="Ids of work that it is at, with commas."),
    ) -> Response:
        """Return what the process is to do, waiting for the first."""
        _check_process(request)
        found = await attached.take(attach_id, busy.split(","), wait_s, lambda: _hung_up(request))
        return private_answer({"work": [asdict(each) for each in found]})

    @app.post("/v1/attached/{attach_id}/work/{work_id}", status_code=204)
    async def answer(attach_id: AttachId, work_id: WorkId, outcome: Outcome, request: Request) -> Response:
        """Take the result of work, or what it failed with."""
        _check_process(request)
        if (outcome.result is None) == (outcome.problem is None):
            raise BadInput("an outcome is either a result or a problem")
        told = outcome.result if outcome.result is not None else from_problem(outcome.problem or {})
        attached.answer(attach_id, work_id, told)
        return Response(status_code=204)

    @app.delete("/v1/attached/{attach_id}", status_code=204)
    async def leave(attach_id: AttachId, request: Request) -> Response:
        """Detach a process."""
        _check_process(request)
        attached.leave(attach_id)
        return Response(status_code=204)


def _check_process(request: Request) -> None:
    """Let no web page pose as an inference process, and nobody who may not both save and restore."""
    access = request.scope.get("torpor.access")
    if isinstance(access, Access) and (access.owner or {"save", "restore"} <= access.scopes) and access.origin is None:
        return
    raise ScopeDenied("an inference process needs a token of the scopes save and restore, which is no page's")


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _line(text: str | None) -> Any:
    return None if text is None else "".join(char if char.isprintable() else " " for char in text).strip() or "process"
