"""The routes of the health page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from .answers import json_answer
from .doctor import all_looks
from .examination import Examination, patient_of
from .parts import Parts

_Name = Annotated[str, Field(max_length=100)]


class Fix(BaseModel):
    """The findings to see to, by name; all of them without."""

    model_config = ConfigDict(extra="forbid", strict=True)
    names: Annotated[list[_Name], Field(max_length=100)] | None = None


def add_doctor(app: FastAPI, parts: Parts, version: str, clock: Callable[[], float]) -> None:
    """Add the routes."""
    examination = Examination(lambda: patient_of(parts, version, clock), all_looks())

    @app.get("/v1/doctor")
    def get_doctor() -> Response:
        """Tell what the newest examination found, as far as it is."""
        return json_answer(examination.describe())

    @app.post("/v1/doctor", status_code=202)
    def begin_doctor() -> Response:
        """Begin to look at everything; the answer is that of GET, which tells how far it is."""
        began = examination.begin()
        return json_answer(examination.describe() | {"began": began}, 202)

    @app.post("/v1/doctor/fix", status_code=202)
    def fix(wanted: Fix) -> Response:
        """Do what can be done without losing anything, and look at everything again."""
        examination.fix(None if wanted.names is None else set(wanted.names))
        return json_answer(examination.describe(), 202)
