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
from app.database import db, transaction
from app.federation.identity import signer
from app.models import Direction, Event, EventStatus
from app.outbox import dispatch
from app.outbox.fanout import store_deliveries, subscribers
from app.protocol.canonical import canonical_message
from app.protocol.errors import FieldError, InvalidRequest, Problem, TooLarge
from app.protocol.event_types import check_event_type
from app.protocol.signing import Kind, Signer, body_input, digest

#: JCS of an event with its signature, bytes (api.md, protocol.md §2).
MAX_EVENT_BYTES = 65_536

#: Events of one call.
MAX_EVENTS = 1_000

#: What the signature adds to the body: `,"signature":"…"`.
SIGNATURE_MEMBER_BYTES = len(',"signature":""')

#: Longest optional members, in code points (§1.1).
_TEXT_LIMITS = (("subject", 1024), ("dataSchema", 1024), ("traceparent", 55))

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
        _check_size(len(draft.body) + SIGNATURE_MEMBER_BYTES + len(signature), pointer)
    with transaction():
        receivers = subscribers(workspace_id, {draft.event_type for draft in drafts})
        ids = _store(workspace_id, ours.key_id, timestamp, drafts, signatures, receivers)
        to: dict[int, list[int]] = {}
        for draft, event_id in zip(drafts, ids, strict=True):
            for connection_id in receivers[draft.event_type]:
                to.setdefault(connection_id, []).append(event_id)
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
            errors += problem.errors or [FieldError(f"{pointer}/payload", "invalid", problem.detail)]
    if errors:
        raise InvalidRequest(errors[0].detail, errors=errors)
    return drafts


def _draft(ours: Signer, event: NewEvent, pointer: str, timestamp: int) -> _Draft:
    check_event_type(event.event_type, f"{pointer}/eventType")
    if not isinstance(event.payload, dict):
        raise _bad(f"{pointer}/payload", "type", "the payload is a JSON object")
    message = {
        "messageId": str(uuid4()),
        "instanceId": ours.instance_id,
        "eventType": event.event_type,
        "payload": event.payload,
        "timestamp": timestamp,
        "keyId": ours.key_id,
    } | _optional_members(event, pointer)
    body = canonical_message(message, f"{pointer}/payload")
    _check_size(len(body), pointer)
    return _Draft(str(message["messageId"]), event.event_type, body)


def _optional_members(event: NewEvent, pointer: str) -> dict[str, str]:
    given = {"subject": event.subject, "dataSchema": event.data_schema, "traceparent": event.traceparent}
    found: dict[str, str] = {}
    for name, longest in _TEXT_LIMITS:
        value = given[name]
        if value is None:
            continue
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise _bad(f"{pointer}/{name}", "length", f"{name} is text of 1 to {longest} characters")
        found[name] = value
    return found


def _check_size(size: int, pointer: str) -> None:
    if size > MAX_EVENT_BYTES:
        detail = f"the signed event has {size} bytes or more, at most {MAX_EVENT_BYTES} are sent"
        raise TooLarge(detail, errors=[FieldError(pointer, "size", detail)])


def _bad(pointer: str, code: str, detail: str) -> Problem:
    return InvalidRequest(detail, errors=[FieldError(pointer, code, detail)])


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


_INSERT = sa.insert(Event.__table__).returning(Event.__table__.c.id, sort_by_parameter_order=True)


def _store(
    workspace_id: int,
    key_id: str,
    timestamp: int,
    drafts: Sequence[_Draft],
    signatures: Sequence[str],
    receivers: dict[str, list[int]],
) -> list[int]:
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
    return list(db.session.connection().execute(_INSERT, rows).scalars())
