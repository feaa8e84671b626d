"""Pages for what went wrong: what it is, what to do, and the request's id; never a stack.

They look nothing up once something is broken on our side, so they come even if the database does not.
"""

from typing import NamedTuple

from flask import Response, g, request

from app.database import db
from app.protocol.errors import Problem
from app.web.console import gate, view
from app.web.console.headers import secure
from app.web.request_id import shown_path


class _Said(NamedTuple):
    title: str
    lead: str


_SAID: dict[int, _Said] = {
    400: _Said("This was not understood", "Nothing was changed."),
    403: _Said("Your role may not do this", "Nothing was changed."),
    404: _Said("There is nothing here", "It may have been removed, or belong to another workspace."),
    405: _Said("This page takes no such request", "Nothing was changed."),
    413: _Said("This was too much at once", "Nothing was changed."),
    429: _Said("Too many tries", "Nothing was changed."),
    500: _Said(
        "This page could not be made",
        "The fault is on our side, and was recorded. Events go on flowing: delivery needs no page.",
    ),
    503: _Said(
        "Something that this page needs does not answer",
        "Nothing was changed. Events that are stored stay stored, and go on when it answers again.",
    ),
}

_OTHER = _Said("This could not be done", "Nothing was changed.")


def error_page(problem: Problem, status: int | None = None) -> Response:
    """The problem as a page, with its status."""
    status = status or problem.status
    said = _SAID.get(status, _OTHER)
    context = {
        "title": said.title,
        "lead": said.lead,
        "status": status,
        "code": problem.code,
        "detail": problem.detail,
        "fields": [error.detail for error in problem.errors],
        "request_id": g.get("request_id", ""),
        "what": f"{request.method} {shown_path()}",
        "retry": request.full_path.rstrip("?") if request.method == "GET" else None,
    }
    if status >= 500 or not _knows_person():
        answer = view.render_bare("console/error_bare.html", status, **context)
    else:
        answer = view.render("console/error.html", status, **context)
    return secure(answer)


def _knows_person() -> bool:
    """Whether somebody is signed in, as far as that can be told now."""
    try:
        return gate.is_signed_in() and bool(gate.memberships())
    except Exception:  # the page about a fault must come, whatever is broken
        db.session.rollback()
        return False
