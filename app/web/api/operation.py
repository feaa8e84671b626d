"""A call of the API as data: what it takes, who may make it, what it answers, and the view that does it.

One declaration does three things: it registers the route, it wraps the view in the order of checks (token →
scope → query → media type → size → strict JSON → types), and it is a line of the OpenAPI document. So the
document cannot say anything else than what happens.

    @api.post("/events/subscribe", scope=…, body=Subscribe, answers={201: SubscriptionDetails})
    def subscribe(bearer: Bearer, body: Subscribe) -> SubscriptionDetails: ...
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request
from pydantic import BaseModel, TypeAdapter

from app.access import audit
from app.config import settings
from app.protocol.errors import NotFound, Problem
from app.protocol.members import is_uuid
from app.reports.paging import Page
from app.web.auth import Scope, authenticate, require
from app.web.json import Answer
from app.web.params import MAX_BODY_BYTES, has_body, read_json, read_query, refuse_query, validate

View = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call. `answers` maps each good status to the type of its body (None: no JSON of ours)."""

    method: str
    #: As Flask writes it, with the blueprint's prefix.
    rule: str
    name: str
    summary: str
    description: str
    tag: str
    answers: Mapping[int, Any]
    #: Any one of them is enough; empty for public calls.
    scopes: tuple[Scope, ...] = ()
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    #: A body whose members are all optional may be left out.
    body_required: bool = True
    #: Other media types that the body may have, with the JSON schema of each.
    other_bodies: Mapping[str, Any] = field(default_factory=dict)
    #: Request headers beside the usual ones: name and meaning.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Refusals beside those that every call knows.
    problems: tuple[type[Problem], ...] = ()


class Api:
    """A blueprint whose routes are operations."""

    def __init__(self, name: str, prefix: str) -> None:
        self.blueprint = Blueprint(name, __name__, url_prefix=prefix)
        self.operations: list[Operation] = []
        self._prefix = prefix

    def get(self, rule: str, **declared: Any) -> Callable[[View], View]:
        """Declare a GET."""
        return self._declare("GET", rule, declared)

    def post(self, rule: str, **declared: Any) -> Callable[[View], View]:
        """Declare a POST."""
        return self._declare("POST", rule, declared)

    def _declare(self, method: str, rule: str, declared: dict[str, Any]) -> Callable[[View], View]:
        scope = declared.pop("scope", ())
        raw = declared.pop("reads_body", False)

        def register(view: View) -> View:
            summary, _, description = (view.__doc__ or "").partition("\n\n")
            operation = Operation(
                method=method,
                rule=self._prefix + rule,
                name=view.__name__,
                summary=" ".join(summary.split()),
                description=" ".join(description.split()),
                scopes=scope if isinstance(scope, tuple) else (scope,),
                **declared,
            )
            self.operations.append(operation)
            self.blueprint.add_url_rule(rule, view.__name__, _wrapped(operation, view, raw), methods=[method])
            return view

        return register


def _wrapped(operation: Operation, view: View, reads_body: bool) -> View:
    """The view behind its checks. reads_body: it takes its body apart itself (publish)."""
    adapter: TypeAdapter[Any] | None = TypeAdapter(operation.body) if operation.body else None
    status = min(operation.answers)

    @functools.wraps(view)
    def call(**arguments: Any) -> Response:
        bearer = authenticate(request.headers.get("Authorization"))
        require(bearer, operation.scopes)
        audit.act_as(audit.Actor("token", bearer.public_id, bearer.prefix, request.remote_addr))
        arguments = {name: _checked_id(text) for name, text in arguments.items()}
        if operation.query is not None:
            arguments["query"] = read_query(request, operation.query)
        else:
            refuse_query(request)
        if adapter is not None and not reads_body:
            arguments["body"] = _read_body(adapter, operation.body_required)
        return _answer(view(bearer, **arguments), status)

    return call


def _checked_id(text: str) -> str:
    """An id of the path, in lower case. What is no UUID names nothing, and is not looked for."""
    if not is_uuid(text.lower()):
        raise NotFound("There is nothing with this id: ids are UUIDs.")
    return text.lower()


def _read_body(adapter: TypeAdapter[Any], required: bool) -> Any:
    if not required and not has_body(request):
        return validate(adapter, {})
    return validate(adapter, read_json(request, MAX_BODY_BYTES))


def _answer(result: Any, status: int) -> Response:
    if isinstance(result, Response):
        return result
    if isinstance(result, Page):
        return _list_answer(result)
    return Answer(result, status)


def _list_answer(page: Page[Any]) -> Response:
    """A page as JSON, with the link to the next one."""
    answer = Answer({"data": page.data, "nextCursor": page.next_cursor, "hasMore": page.has_more})
    if page.next_cursor is not None:
        answer.headers["Link"] = f'<{_next_url(page.next_cursor)}>; rel="next"'
    return answer


def _next_url(cursor: str) -> str:
    query = [(name, value) for name, value in request.args.items() if name != "cursor"]
    return f"{settings().base_url}{request.path}?{urlencode([*query, ('cursor', cursor)])}"


def whole(rows: Iterable[Any]) -> Page[Any]:
    """A list that is always given whole."""
    return Page(list(rows), None, False)
