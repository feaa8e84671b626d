"""What the publish form does: read what was typed, publish it once, and say where it is wrong."""

import json
import shlex
import uuid
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson

from app import metrics
from app.access import audit
from app.outbox.publish import publish_event
from app.protocol.canonical import loads
from app.protocol.errors import FieldError, InvalidRequest, Problem, invalid
from app.protocol.event_types import is_event_type
from app.reports.search import Search
from app.reports.times import rfc3339
from app.web.api import idempotency
from app.web.console.shell import curl

#: What the form begins with.
EXAMPLE_TYPE = "task.created"
EXAMPLE_PAYLOAD = {
    "task": {"id": "4711", "title": "Check the seal on bay 4"},
    "due": "2026-12-01",
    "urgent": False,
}

#: Where the fields of the API's call lie in the form.
POINTERS = {"eventType": "event_type"}


class Done(NamedTuple):
    """What became of the form."""

    message_id: str
    deliveries: int
    #: The form was sent before; this is what became of it then.
    is_repeat: bool


def new_key() -> str:
    """What makes two posts of one form known as one."""
    return str(uuid.uuid4())


def publish_once(workspace_id: int, key: str, event_type: str, payload: str, subject: str) -> Done:
    """Publish what the form says; the same form again changes nothing. Commits.

    Raises InvalidRequest whose errors point at `/eventType`, `/payload` and `/subject`, TooLarge,
    IdempotencyKeyReused if the form was changed after it was sent.
    """

    def act() -> bytes:
        published = publish_event(workspace_id, event_type, value, subject or None)
        audit.record(
            "event.publish",
            "event",
            published.message_id,
            after={"eventType": event_type, "deliveries": published.deliveries},
            workspace_id=workspace_id,
        )
        return orjson.dumps(
            {
                "messageId": published.message_id,
                "eventType": published.event_type,
                "timestamp": rfc3339(published.timestamp),
                "deliveries": published.deliveries,
            }
        )

    value = read_payload(payload)
    call = idempotency.fingerprint("console publish", orjson.dumps([event_type, payload, subject]))
    try:
        outcome = idempotency.once(workspace_id, f"console {key}", call, act, 202)
    except Problem as problem:
        raise _in_the_payload(problem) from None
    done = orjson.loads(outcome.body)
    if not outcome.replayed:
        metrics.EVENTS_PUBLISHED.inc()
    return Done(done["messageId"], done["deliveries"], outcome.replayed)


def read_payload(text: str) -> dict[str, Any]:
    """The JSON object that was typed. Raises InvalidRequest at /payload, with line and column."""
    if not text.strip():
        raise invalid("/payload", "type a JSON object, such as {}", "required")
    place = place_of_error(text)
    if place is not None:
        raise invalid("/payload", f"this is no JSON: {place.words}", "syntax")
    try:
        value = loads(text.encode("utf-8", "replace"))
    except InvalidRequest as problem:
        raise invalid("/payload", problem.detail, "syntax") from None
    if not isinstance(value, dict):
        raise invalid("/payload", "a payload is a JSON object: it begins with { and ends with }", "type")
    return value


class Place(NamedTuple):
    """Where JSON cannot be read."""

    line: int
    column: int
    words: str
    #: The line, and a mark below what is wrong.
    marked: str


def place_of_error(text: str) -> Place | None:
    """Where the text stops being JSON; None if it is JSON in form."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        lines = text.split("\n")
        line = lines[error.lineno - 1].rstrip("\r") if error.lineno <= len(lines) else ""
        begin = max(0, error.colno - 60)
        marked = f"{line[begin : begin + 100]}\n{' ' * (error.colno - 1 - begin)}^"
        words = f"{error.msg.lower()} in line {error.lineno}, column {error.colno}"
        return Place(error.lineno, error.colno, words, marked)
    except (RecursionError, ValueError):
        return None  # The strict reader says what is wrong.
    return None


def commands(event_type: str, payload: Any, subject: str = "") -> tuple[str, str]:
    """The same with `flask` and with curl. What is not ASCII is escaped, so a line is what it shows."""
    body = {"eventType": event_type, "payload": payload} | ({"subject": subject} if subject else {})
    text = json.dumps(payload)
    flask = f"flask event publish {shlex.quote(event_type)} --payload {shlex.quote(text)}"
    flask += f" --subject {shlex.quote(_ascii(subject))}" if subject else ""
    return flask, curl("/events/publish", json.dumps(body))


def subscribe_commands(connection: str, pattern: str) -> tuple[str, str]:
    """A subscription with `flask` and with curl."""
    body = json.dumps({"connectionId": connection, "eventType": pattern})
    flask = f"flask subscription create {shlex.quote(connection)} {shlex.quote(_ascii(pattern))}"
    return flask, curl("/events/subscribe", body)


def list_commands(search: Search) -> tuple[str, str]:
    """The list with `flask` and with curl, with those terms of the search that they know too."""
    given: list[tuple[str, str, str]] = []
    if search.direction is not None:
        given.append(("--direction", "direction", search.direction.value))
    if len(search.types) == 1 and is_event_type(search.types[0]):
        given.append(("--type", "eventType", search.types[0]))
    if len(search.statuses) == 1:
        given.append(("--status", "status", search.statuses[0].value))
    if search.after is not None:
        given.append(("--after", "createdAfter", rfc3339(search.after)))
    if search.before is not None:
        given.append(("--before", "createdBefore", rfc3339(search.before)))
    flask = " ".join(["flask event list", *(f"{option} {value}" for option, _, value in given)])
    query = urlencode([(name, value) for _, name, value in given], safe=":")
    return flask, curl(f"/events/messages?{query}" if query else "/events/messages")


def _ascii(text: str) -> str:
    return text if text.isascii() and text.isprintable() else json.dumps(text)[1:-1]


def _in_the_payload(problem: Problem) -> Problem:
    """The same refusal; what is wrong inside the payload names the member."""
    moved = [
        FieldError("/payload", error.code, f"{error.pointer}: {error.detail}")
        if error.pointer.startswith("/payload/")
        else error._replace(pointer=error.pointer or "/payload")
        for error in problem.errors
    ]
    problem.errors = tuple(moved)
    return problem
