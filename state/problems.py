"""Errors as RFC 9457 problems and back, so that a failure keeps its class across HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import MissingBlobs, TorporError, error_classes

MEDIA_TYPE = "application/problem+json"
PAGE_ROUTES = "/api/backup/"
TYPE_PREFIX = "urn:torpor:error:"


def to_problem(error: TorporError) -> dict[str, Any]:
    """Describe an error as a problem object (RFC 9457)."""
    problem: dict[str, Any] = {
        "type": TYPE_PREFIX + error.code,
        "title": error.title,
        "status": error.http_status,
        "detail": _sound(error.detail),
        "code": error.code,
        "hint": _sound(error.hint),
        "retryable": error.retryable,
    }
    if error.kept is not None:
        problem["kept"] = error.kept
    if isinstance(error, MissingBlobs):
        problem["digests"] = list(error.digests)
    return problem


def problem_at(path: str, error: TorporError) -> dict[str, Any]:
    """Describe an error as the answer of a route: the backup routes of pages say `success` in every answer."""
    return to_problem(error) | ({"success": False} if path.startswith(PAGE_ROUTES) else {})


def _sound(text: str) -> str:
    """Write lone surrogates out, which a file name or a file's content may hold and UTF-8 cannot."""
    return text.encode(errors="backslashreplace").decode()


def from_problem(problem: Mapping[str, Any]) -> TorporError:
    """Rebuild the error that a problem object describes; an unknown code becomes the root class."""
    cls = error_classes().get(str(problem.get("code")), TorporError)
    detail, hint = str(problem.get("detail") or problem.get("title") or "unknown error"), problem.get("hint")
    if cls is MissingBlobs:
        return MissingBlobs(detail, hint=hint, digests=tuple(problem.get("digests", ())))
    made = cls(detail, hint=hint)
    made.kept = kept if isinstance(kept := problem.get("kept"), str) else None
    return made
