"""Publish: from what our own software says to signed events with their deliveries.

check      types, members, depth, size; the first bad field of each event is named
sign       JCS once, one signature, outside any transaction
store      events and deliveries in one transaction; the caller's, if there is one
wake       after the commit, best effort
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, is_sqlite, table_of, transaction
from app.federation.identity import MAX_EVENT_BYTES, signer
from app.models import Direction, Event, EventStatus
from app.outbox import dispatch
from app.outbox.fanout import store_deliveries, subscribers
from app.protocol.errors import FieldError, InvalidRequest, TooLarge, invalid
from app.protocol.messages import event_body, event_size
from app.protocol.signing import Kind, Signer, body_input, digest

#: Events of one call.
MAX_EVENTS = 1_000

#: From this many events on, signing is shared by two threads: RSA lets the interpreter go.
_SHARED_FROM = 8


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to publish. `payload` is a JSON object; the rest of the members are text."""

    event_type: str
    payload: dict[str, Any]
    subject: str | None = None
    data_schema: str | None = None
    traceparent: str | None = None


class Published(NamedTuple):
    """What became of an event: its id, type, time (ms), and to how many connections it goes."""

    message_id: str
    event_type: str
    timestamp: int
    deliveries: int


class _Draft(NamedTuple):
    message_id: str
    event_type: str
    body: bytes


def publish_event(
    workspace_id: int,
    event_type: str,
    payload: dict[str, Any],
    subject: str | None = None,
    data_schema: str | None = None,
    traceparent: str | None = None,
) -> Published:
    """Sign one event and store it with a delivery for every connection that subscribed to its type.

    An event nobody subscribed to is kept all the same. Commits, or joins the caller's `transaction()`; the
    deliveries start after the commit. Nothing is sent here.

    Raises InvalidRequest whose `errors` name the bad field by JSON pointer (`/eventType`, `/payload`), and
    TooLarge over 65,536 bytes of JCS with the signature.
    """
    event = NewEvent(event_type, payload, subject, data_schema, traceparent)
    return _publish(workspace_id, [event], [""])[0]


def publish_events(
    workspace_id: int, events: Sequence[NewEvent], *, pointer_prefix: str = "/events"
) -> list[Published]:
    """Publish up to 1,000 events, all or none, in the order given.

    As `publish_event`; `errors` point into the list: `/events/1/eventType`. The bad fields of all events
    are named at once.
    """
    if not 1 <= len(events) <= MAX_EVENTS:
        detail = f"1 to {MAX_EVENTS} events, not {len(events)}"
        raise InvalidRequest(detail, errors=[FieldError(pointer_prefix, "size", detail)])
    return _publish(workspace_id, events, [f"{pointer_prefix}/{n}" for n in range(len(events))])


def _publish(workspace_id: int, events: Sequence[NewEvent], pointers: Sequence[str]) -> list[Published]:
    ours = signer()
    timestamp = now_ms()
    drafts = _draft_all(ours, events, pointers, timestamp)
    signatures = _sign_all(ours, [draft.body for draft in drafts])
    for draft, signature, pointer in zip(drafts, signatures, pointers, strict=True):
        _check_size(event_size(draft.body, signature), pointer)
    with transaction():
        receivers = subscribers(workspace_id, {draft.event_type for draft in drafts})
        _store(workspace_id, ours.key_id, timestamp, drafts, signatures, receivers)
        to: dict[int, list[str]] = {}
        for draft in drafts:
            for connection_id in receivers[draft.event_type]:
                to.setdefault(connection_id, []).append(draft.message_id)
        store_deliveries(to)
        dispatch.wake(to)
    return [
        Published(draft.message_id, draft.event_type, timestamp, len(receivers[draft.event_type]))
        for draft in drafts
    ]


def _draft_all(
    ours: Signer, events: Sequence[NewEvent], pointers: Sequence[str], timestamp: int
) -> list[_Draft]:
    drafts: list[_Draft] = []
    errors: list[FieldError] = []
    for event, pointer in zip(events, pointers, strict=True):
        try:
            drafts.append(_draft(ours, event, pointer, timestamp))
        except InvalidRequest as problem:
            errors += problem.errors
    if errors:
        raise InvalidRequest(errors[0].detail, errors=errors)
    return drafts


def _draft(ours: Signer, event: NewEvent, pointer: str, timestamp: int) -> _Draft:
    if not isinstance(event.payload, dict):
        raise invalid(f"{pointer}/payload", "is no object", "type")
    message_id = str(uuid4())
    try:
        body = event_body(
            message_id=message_id,
            instance_id=ours.instance_id,
            event_type=event.event_type,
            payload=event.payload,
            timestamp=timestamp,
            key_id=ours.key_id,
            subject=event.subject,
            data_schema=event.data_schema,
            traceparent=event.traceparent,
        )
    except InvalidRequest as problem:
        raise _pointing_into(pointer, problem) from None
    _check_size(len(body), pointer)
    return _Draft(message_id, event.event_type, body)


def _pointing_into(pointer: str, problem: InvalidRequest) -> InvalidRequest:
    """The same refusal, its pointers below `pointer`; what is wrong with the whole is the payload's."""
    errors = problem.errors or (FieldError("", "invalid", problem.detail),)
    moved = [error._replace(pointer=pointer + (error.pointer or "/payload")) for error in errors]
    return InvalidRequest(problem.detail, errors=moved)


def _check_size(size: int, pointer: str) -> None:
    if size > MAX_EVENT_BYTES:
        detail = f"the signed event has {size} bytes or more, at most {MAX_EVENT_BYTES} are sent"
        raise TooLarge(detail, errors=[FieldError(pointer, "size", detail)])


def _sign_all(ours: Signer, bodies: Sequence[bytes]) -> list[str]:
    def sign(body: bytes) -> str:
        return ours.sign_body(Kind.EVENT, body)

    if len(bodies) < _SHARED_FROM:
        return [sign(body) for body in bodies]
    middle = len(bodies) // 2
    rest = _helper(os.getpid()).submit(lambda: [sign(body) for body in bodies[middle:]])
    return [sign(body) for body in bodies[:middle]] + rest.result()


@lru_cache(maxsize=1)
def _helper(_pid: int) -> ThreadPoolExecutor:
    """One thread beside the caller's; a forked process makes its own."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="sign")


_EVENT = table_of(Event)
_INSERT = sa.insert(_EVENT)


def _store(
    workspace_id: int,
    key_id: str,
    timestamp: int,
    drafts: Sequence[_Draft],
    signatures: Sequence[str],
    receivers: dict[str, list[int]],
) -> None:
    rows = [
        {
            "workspace_id": workspace_id,
            "direction": Direction.OUTGOING,
            "message_id": draft.message_id,
            "event_type": draft.event_type,
            "body": draft.body.decode(),
            "signature": signature,
            "key_id": key_id,
            "digest": digest(body_input(Kind.EVENT, draft.body)),
            "timestamp": timestamp,
            "status": EventStatus.PENDING if receivers[draft.event_type] else EventStatus.UNSUBSCRIBED,
            "created_at": timestamp,
        }
        for draft, signature in zip(drafts, signatures, strict=True)
    ]
    # Each engine's cheap way to insert many: SQLite row by row in the driver, PostgreSQL as one statement,
    # which SQLAlchemy makes only where something is returned.
    statement = _INSERT if is_sqlite() else _INSERT.returning(_EVENT.c.id)
    db.session.connection().execute(statement, rows)
