"""Publish: from what our own software says to signed events with their deliveries.

check      types, members, depth, size; the first bad field of each event is named
sign       JCS once, one signature for all that are published together, outside any transaction
store      events and deliveries in one transaction; the caller's, if there is one
wake       after the commit, best effort
"""

import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Engine

from app.clock import now_ms
from app.database import db, is_writing, table_of, transaction
from app.federation.identity import MAX_EVENT_BYTES, signer
from app.many import insert_many
from app.models import Direction, Event, EventStatus
from app.outbox import dispatch
from app.outbox.fanout import store_deliveries, subscribers
from app.outbox.together import Together
from app.protocol.errors import FieldError, InvalidRequest, TooLarge, invalid
from app.protocol.messages import event_body, event_size
from app.protocol.signing import EventSignature, Kind, Signer, body_input, digest
from app.protocol.tree import MIN_SIZE

#: Events of one call.
MAX_EVENTS = 1_000

#: A body of more bytes than this is signed by itself: with a proof the event might grow beyond what a message
#: may have, 65,536 bytes or 10,000 values.
_LARGEST_SHARED = 16_384


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
    timestamp: int
    body: bytes
    #: Where it stands in the call.
    pointer: str

    @property
    def may_share(self) -> bool:
        """Whether it may share its signature with others."""
        return len(self.body) <= _LARGEST_SHARED


class _Signed(NamedTuple):
    """Events of one workspace that were signed together, each with its signature."""

    workspace_id: int
    key_id: str
    events: list[tuple[_Draft, EventSignature]]


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
    deliveries start after the commit. Nothing is sent here. Calls of several threads that come at the same
    time are signed and committed together, unless they are inside a transaction of their own.

    Raises InvalidRequest whose `errors` name the bad field by JSON pointer (`/eventType`, `/payload`), and
    TooLarge over 65,536 bytes of JCS with the signature.
    """
    event = NewEvent(event_type, payload, subject, data_schema, traceparent)
    ours = signer()
    draft = _draft(ours, event, "", now_ms())
    if is_writing() or not draft.may_share:
        return _store_all([_sign(workspace_id, ours, [draft])])[0]
    return meeting_place().do(_Call(workspace_id, ours, draft))


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
    ours = signer()
    pointers = [f"{pointer_prefix}/{n}" for n in range(len(events))]
    drafts = _draft_all(ours, events, pointers, now_ms())
    return _store_all([_sign(workspace_id, ours, drafts)])


class _Call(NamedTuple):
    """A call that publishes one event."""

    workspace_id: int
    ours: Signer
    draft: _Draft


_meetings: weakref.WeakKeyDictionary[Engine, Together[_Call, Published]] = weakref.WeakKeyDictionary()


def meeting_place() -> Together[_Call, Published]:
    """Where the process's calls of one event meet, for the current app's database."""
    return _meetings.setdefault(db.engine, Together(_publish_calls, MAX_EVENTS))


def _publish_calls(calls: Sequence[_Call]) -> list[Published]:
    """Publish the events of several calls as one, those of each workspace under one signature."""
    groups: dict[tuple[int, str], list[_Call]] = defaultdict(list)
    for call in calls:
        groups[call.workspace_id, call.ours.key_id].append(call)
    signed = [
        _sign(workspace_id, group[0].ours, [call.draft for call in group])
        for (workspace_id, _), group in groups.items()
    ]
    published = {one.message_id: one for one in _store_all(signed)}
    return [published[call.draft.message_id] for call in calls]


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
    return _Draft(message_id, event.event_type, timestamp, body, pointer)


def _pointing_into(pointer: str, problem: InvalidRequest) -> InvalidRequest:
    """The same refusal, its pointers below `pointer`; what is wrong with the whole is the payload's."""
    errors = problem.errors or (FieldError("", "invalid", problem.detail),)
    moved = [error._replace(pointer=pointer + (error.pointer or "/payload")) for error in errors]
    return InvalidRequest(problem.detail, errors=moved)


def _check_size(size: int, pointer: str) -> None:
    if size > MAX_EVENT_BYTES:
        detail = f"the signed event has {size} bytes or more, at most {MAX_EVENT_BYTES} are sent"
        raise TooLarge(detail, errors=[FieldError(pointer, "size", detail)])


def _sign(workspace_id: int, ours: Signer, drafts: Sequence[_Draft]) -> _Signed:
    """One signature for all that are small, and one for each large one."""
    small = [draft.body for draft in drafts if draft.may_share]
    shared = dict(zip(small, ours.sign_together(small), strict=True)) if len(small) >= MIN_SIZE else {}
    return _Signed(
        workspace_id,
        ours.key_id,
        [(draft, shared.get(draft.body) or _sign_alone(ours, draft)) for draft in drafts],
    )


def _sign_alone(ours: Signer, draft: _Draft) -> EventSignature:
    signature = ours.sign_body(Kind.EVENT, draft.body)
    _check_size(event_size(draft.body, signature), draft.pointer)
    return EventSignature(signature)


_EVENT = table_of(Event)


def _store_all(groups: Iterable[_Signed]) -> list[Published]:
    """Store events with their deliveries, in the order given. Commits, or joins the caller's transaction."""
    published: list[Published] = []
    with transaction():
        rows: list[dict[str, Any]] = []
        to: list[tuple[int, dict[str, Any]]] = []
        for group in groups:
            receivers = subscribers(group.workspace_id, {draft.event_type for draft, _ in group.events})
            for draft, signed in group.events:
                connections = receivers[draft.event_type]
                row = _row(group, draft, signed, bool(connections))
                rows.append(row)
                to += [(connection_id, row) for connection_id in connections]
                published.append(
                    Published(draft.message_id, draft.event_type, draft.timestamp, len(connections))
                )
        ids = dict(insert_many(_EVENT, rows, returning=("message_id", "id")))
        store_deliveries((connection_id, ids[row["message_id"]], row) for connection_id, row in to)
        dispatch.wake({connection_id for connection_id, _ in to})
    return published


def _row(group: _Signed, draft: _Draft, signed: EventSignature, is_wanted: bool) -> dict[str, Any]:
    return {
        "workspace_id": group.workspace_id,
        "direction": Direction.OUTGOING,
        "message_id": draft.message_id,
        "event_type": draft.event_type,
        "body": draft.body.decode(),
        "signature": signed.signature,
        "proof": None if signed.proof is None else signed.proof.to_json(),
        "key_id": group.key_id,
        "digest": digest(body_input(Kind.EVENT, draft.body)),
        "timestamp": draft.timestamp,
        "status": EventStatus.PENDING if is_wanted else EventStatus.UNSUBSCRIBED,
        "created_at": draft.timestamp,
    }
