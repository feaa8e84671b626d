"""CloudEvents 1.0 (structured JSON and JSON batch) as events of ours.

    type → eventType   data → payload   subject, dataschema, traceparent → the same
    source + id        stand for an Idempotency-Key where one event is published
    time               checked, not kept: an event's time is when it was signed

Attributes that have no place in an event would be lost without a word, so they are refused.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import TypeAdapter

from app.errors import InvalidRequest
from app.outbox.publish import MAX_EVENTS, NewEvent
from app.protocol.errors import FieldError, TooLarge, invalid
from app.web.api.schemas import CloudEvent
from app.web.params import validate

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

_EVENT = TypeAdapter(CloudEvent)
_EVENTS = TypeAdapter(list[CloudEvent])

#: Our names of members, and the attribute that each came from.
_ATTRIBUTES = {"eventType": "type", "payload": "data", "dataSchema": "dataschema"}


def read_event(value: Any) -> tuple[NewEvent, str]:
    """The event, and the idempotency key that it implies. Raises InvalidRequest."""
    event = validate(_EVENT, value)
    implied = hashlib.sha256(f"{event.source}\n{event.id}".encode()).hexdigest()
    return _new(event), f"cloudevent-{implied}"


def read_batch(value: Any) -> list[NewEvent]:
    """The events of a batch. Raises InvalidRequest."""
    if isinstance(value, list) and not 1 <= len(value) <= MAX_EVENTS:
        raise invalid("", f"a batch has 1 to {MAX_EVENTS} events", "size")
    return [_new(event) for event in validate(_EVENTS, value)]


@contextmanager
def attributes_named(depth: int) -> Iterator[None]:
    """Let refusals within point at CloudEvents attributes: `/eventType` becomes `/type`.

    depth: how many steps of a pointer come before the member (1 in a batch).
    """
    try:
        yield
    except (InvalidRequest, TooLarge) as problem:
        errors = [
            FieldError(_renamed(error.pointer, depth), error.code, error.detail) for error in problem.errors
        ]
        raise type(problem)(problem.detail, errors=errors) from None


def _new(event: CloudEvent) -> NewEvent:
    return NewEvent(event.type, event.data, event.subject, event.dataschema, event.traceparent)


def _renamed(pointer: str, depth: int) -> str:
    steps: Sequence[str] = pointer.split("/")
    return "/".join(_ATTRIBUTES.get(step, step) if n == depth + 1 else step for n, step in enumerate(steps))
