"""Answers to what went wrong: one place turns every refusal and fault into a problem document (RFC 9457), or
into a page where a person asked for one.

Views never catch. A `Problem` says its own status and code; what Flask refuses by itself (no such path,
another method, a body too large) gets the code of its status; anything else is a fault of ours, logged once
with its traceback and told as `internal_error` without a word of it.
"""

import logging
from typing import Any

import orjson
from flask import Flask, Response, g, request
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing.exceptions import RequestRedirect

from app.database import db
from app.errors import MissingScope, Unauthenticated
from app.protocol import errors as protocol
from app.protocol.errors import Problem
from app.web.console.error_pages import error_page
from app.web.console.headers import is_page
from app.web.request_id import shown_path

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

#: What the client's own fault is called where no code is closer.
_BY_STATUS: dict[int, type[Problem]] = {
    401: protocol.AuthenticationFailed,
    403: protocol.AccessDenied,
    404: protocol.NotFound,
    405: protocol.MethodNotAllowed,
    413: protocol.TooLarge,
    415: protocol.UnsupportedMediaType,
    429: protocol.RateLimited,
    503: protocol.Overloaded,
}


def register(app: Flask) -> None:
    """Let the app answer every error with a problem document."""
    app.register_error_handler(Problem, answer_problem)
    app.register_error_handler(HTTPException, _answer_http)
    for unavailable in (OperationalError, InterfaceError, TimeoutError):
        app.register_error_handler(unavailable, _answer_database)
    app.register_error_handler(ConnectionResetError, _answer_gone)
    app.register_error_handler(Exception, _answer_fault)


def answer_problem(problem: Problem) -> Response:
    """The problem document or page, with the headers that belong to it."""
    response = _answer(problem, problem.status)
    retry_after_s = getattr(problem, "retry_after_s", None)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, int(retry_after_s)))
    if isinstance(problem, protocol.MethodNotAllowed) and problem.allow:
        response.headers["Allow"] = ", ".join(problem.allow)
    if isinstance(problem, Unauthenticated):
        given = request.headers.get("Authorization", "").partition(" ")[0].lower() == "bearer"
        response.headers["WWW-Authenticate"] = 'Bearer realm="tidings"' + (
            ', error="invalid_token"' if given else ""
        )
    if isinstance(problem, MissingScope):
        scope = problem.extras["scope"]
        response.headers["WWW-Authenticate"] = (
            f'Bearer realm="tidings", error="insufficient_scope", scope="{scope}"'
        )
    return response


def _answer_http(error: HTTPException) -> Response | HTTPException:
    if isinstance(error, RequestRedirect) or error.response is not None:
        return error
    status = error.code or 500
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(error.valid_methods or ())
        detail = f"{request.method} is not possible here, but {', '.join(allowed)}."
        return answer_problem(protocol.MethodNotAllowed(detail, allow=allowed))
    if status >= 500 and status not in _BY_STATUS:
        return answer_problem(protocol.InternalError())
    problem = _BY_STATUS.get(status, protocol.InvalidRequest)(_plain_detail(status))
    response = _answer(problem, status)
    for name, value in error.get_headers(request.environ):
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _plain_detail(status: int) -> str:
    """Werkzeug's own descriptions speak of browsers and spelling."""
    if status == 404:
        return f"There is nothing at {request.path[:200]}."
    if status == 400 and is_page(request.path):
        return "The form was too old, or was not one of ours. Open the page again and repeat what you did."
    return ""


def _answer_database(error: Exception) -> Response:
    """A database that is busy or away is not our caller's fault, and passes."""
    db.session.rollback()
    _log.error("database.unavailable", exc_info=error)
    return answer_problem(protocol.Overloaded("The database does not answer; try again.", retry_after_s=5))


def _answer_gone(_error: ConnectionResetError) -> Response:
    """A caller who went away, or took too long, before the request was whole: no fault of ours to log."""
    return answer_problem(protocol.InvalidRequest("The request did not come whole."))


def _answer_fault(error: Exception) -> Response:
    """A fault of ours: the log has all of it, the caller nothing but its request id."""
    _log.error("request.failed", exc_info=error, extra={"method": request.method, "path": shown_path()})
    return answer_problem(protocol.InternalError("The fault was logged with this request's id."))


def _answer(problem: Problem, status: int) -> Response:
    if is_page(request.path):
        return error_page(problem, status)
    return _document(problem.to_wire(g.get("request_id")) | {"status": status}, status)


def _document(members: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(members), status, mimetype=MEDIA_TYPE, headers={"Cache-Control": "no-store"})
