"""The backup routes as a Flask blueprint.

app.register_blueprint(backup_blueprint(keeper, provider), url_prefix="/api/backup")
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ..state.errors import MissingExtra, TooLarge
from .backup_routes import Answer, BackupRoutes, defect, problem
from .same_origin import LOOPBACK, MAX_BODY_BYTES, Request

if TYPE_CHECKING:
    from .keeper import Keeper
    from .provider import Provider

_METHODS = ["GET", "POST"]
log = logging.getLogger("torpor.routes")


def backup_blueprint(
    keeper: Keeper | Callable[[], Keeper],
    provider: Provider,
    *,
    allowed_hosts: Collection[str] = LOOPBACK,
    name: str = "torpor",
) -> Any:
    """Make a blueprint; give it its `url_prefix` where it is registered. Raises: MissingExtra without Flask."""
    try:
        import flask
    except ModuleNotFoundError as error:
        raise MissingExtra("flask is not installed: pip install flask") from error
    routes, blueprint = BackupRoutes(keeper, provider, allowed_hosts), flask.Blueprint(name, __name__)

    @blueprint.route("/<path:path>", methods=_METHODS)
    def backup(path: str) -> Any:
        answer = _answer(routes, flask.request, path)
        response = flask.Response(answer.body, answer.status, content_type=answer.media_type)
        response.headers.update(answer.headers)
        return response

    return blueprint


def _answer(routes: BackupRoutes, asked: Any, path: str) -> Answer:
    request = Request(
        asked.method, path.strip("/"), asked.args.to_dict(), lambda name: str(asked.headers.get(name, ""))
    )
    refused = routes.refused(request)
    if refused is not None:
        return refused
    body = asked.stream.read(MAX_BODY_BYTES + 1)
    if len(body) > MAX_BODY_BYTES:
        return problem(TooLarge(f"a body of more than {MAX_BODY_BYTES} bytes"))
    try:
        return routes.answer(request, body)
    except Exception as error:  # of the provider
        log.exception("a backup route failed")
        return defect(error)
