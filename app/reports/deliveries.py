"""Deliveries as they are shown: the list, an event's own with their attempts, and dead letters by cause."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.database import db
from app.federation.lifecycle import sending_clause
from app.models import Attempt as AttemptRow
from app.models import AttemptEntry, Connection, Delivery, Event
from app.models.ids import IdKind, public_id
from app.protocol.states import OPEN, DeliveryState
from app.reports.connections import row_number
from app.reports.details import Attempt, DeadGroup, DeliveryDetails, EventDelivery
from app.reports.paging import ListKey, Page, by_index, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339

#: Of an answer this much is shown, bytes.
MAX_RESPONSE_BYTES = 16_384

#: A pending delivery that waits for nothing but its turn or its next attempt has that time to show.
_OPEN = (DeliveryState.PENDING, DeliveryState.SENDING)


def list_deliveries(
    workspace_id: int,
    *,
    status: str | None = None,
    connection_id: str | None = None,
    event_type: str | None = None,
    error: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[DeliveryDetails]:
    """The workspace's deliveries, newest first.

    status: as shown: `held` are the pending ones of connections that do not send now, `pending` the rest.
    connection_id: public id; one that is not of this workspace matches nothing.
    error: the error code that the last attempt left.

    Raises InvalidCursor, InvalidRequest for a limit outside 1-200, ValueError for an unknown status.
    """
    filters = {"status": status, "connectionId": connection_id, "eventType": event_type, "error": error}
    key = ListKey("deliveries", workspace_id, filters)
    after = read_cursor(key, cursor)
    if status == "held" and not _may_hold(workspace_id):
        return Page([], None, False)
    connection = None if connection_id is None else row_number(workspace_id, connection_id)
    if connection is None and connection_id is not None:
        return Page([], None, False)
    # As a sum where the rows are found by their connection: it is in no index (`event_named`).
    workspace = Delivery.workspace_id if connection is None else Delivery.workspace_id + 0
    query = _shown().where(workspace == workspace_id)
    if error is not None:
        query = query.where(Delivery.error_code == error)
    if status in ("held", "pending"):
        query = query.where(sa.not_(sending_clause()) if status == "held" else sending_clause())
    query = _ordered(query, connection, _state_of(status), event_type, after[0] if after else None)
    rows, more = cut(db.session.execute(query.limit(check_limit(limit) + 1)).all(), limit)
    data = [_details(row) for row in rows]
    return Page(data, write_cursor(key, [rows[-1].id]) if more else None, more)


def deliveries_of_event(event_id: int) -> list[EventDelivery]:
    """An event's deliveries in the order in which they were made, each with its attempts."""
    rows = db.session.execute(_shown().where(Delivery.event_id == event_id).order_by(Delivery.id)).all()
    attempts = _attempts(rows)
    return [EventDelivery(**{**_details(row), "attempts": attempts[row.id]}) for row in rows]


def list_dead_groups(workspace_id: int, event_type: str | None = None) -> list[DeadGroup]:
    """Dead letters, perhaps of one type alone, counted by connection and error, the largest group first."""
    number = sa.func.count().label("number")
    chosen = [Delivery.workspace_id == workspace_id, Delivery.state == DeliveryState.DEAD]
    if event_type is not None:
        chosen.append(Delivery.event_type == event_type)
    rows = db.session.execute(
        sa.select(Connection.public_id, Delivery.error_code, number)
        .join(Connection, Connection.id == Delivery.connection_id)
        .where(*chosen)
        .group_by(Connection.public_id, Delivery.error_code)
        .order_by(number.desc(), Connection.public_id, Delivery.error_code)
    )
    return [DeadGroup(connectionId=connection, error=error, count=count) for connection, error, count in rows]


def _may_hold(workspace_id: int) -> bool:
    """Whether an open connection does not send now; else all pending rows would be searched for nothing."""
    held = sa.exists().where(
        Connection.workspace_id == workspace_id, Connection.status.in_(OPEN), sa.not_(sending_clause())
    )
    return bool(db.session.scalar(sa.select(held)))


def _state_of(status: str | None) -> DeliveryState | None:
    if status is None:
        return None
    return DeliveryState.PENDING if status in ("held", "pending") else DeliveryState(status)


def _ordered(
    query: sa.Select[*tuple[Any, ...]],
    connection_id: int | None,
    state: DeliveryState | None,
    event_type: str | None,
    after: int | None,
) -> sa.Select[*tuple[Any, ...]]:
    """The query for deliveries of the filter, newest first, by the index with the most telling part of it."""
    parts: list[tuple[Any, Any]] = [
        (Delivery.connection_id, connection_id),
        (Delivery.state, state),
        (Delivery.event_type, event_type),
    ]
    if state is DeliveryState.DELIVERED:
        # Nearly all are.
        parts.append(parts.pop(1))
    given = [(column, value) for column, value in parts if value is not None]
    for column, value in given[1:]:
        query = query.where(column == value)
    if given:
        return by_index(query, *given[0], Delivery.id, after)
    return (query if after is None else query.where(Delivery.id < after)).order_by(Delivery.id.desc())


def _shown() -> sa.Select[*tuple[Any, ...]]:
    return (
        sa.select(
            Delivery.id,
            Delivery.event_type,
            Delivery.state,
            Delivery.sequence,
            Delivery.error_code,
            Delivery.attempts,
            Delivery.attempt_id,
            Delivery.trigger,
            Delivery.next_attempt_at,
            Delivery.created_at,
            Delivery.delivered_at,
            Event.message_id,
            Connection.public_id.label("connection"),
            Connection.retry_at,
            sending_clause().label("sends"),
        )
        .join(Event, Event.id == Delivery.event_id)
        .join(Connection, Connection.id == Delivery.connection_id)
    )


def _details(row: sa.Row[Any]) -> DeliveryDetails:
    held = row.state is DeliveryState.PENDING and not row.sends
    due = row.state in _OPEN and not held
    return DeliveryDetails(
        id=public_id(IdKind.DELIVERY, row.id),
        messageId=row.message_id,
        connectionId=row.connection,
        eventType=row.event_type,
        status="held" if held else row.state.value,
        sequence=row.sequence,
        error=row.error_code,
        attempts=row.attempts,
        # A connection that fails waits as a whole, whatever the row itself says.
        nextAttemptAt=rfc3339(max(row.next_attempt_at, row.retry_at)) if due else None,
        createdAt=rfc3339(row.created_at),
        deliveredAt=rfc3339(row.delivered_at),
    )


def _attempts(deliveries: Sequence[sa.Row[Any]]) -> dict[int, list[Attempt]]:
    """By delivery: the attempts with an entry, and the latest, which has none if it ended the delivery."""
    found: dict[int, dict[int, Attempt]] = {row.id: {} for row in deliveries}
    entries = sa.select(AttemptEntry, AttemptRow).join(AttemptRow, AttemptRow.id == AttemptEntry.attempt_id)
    for entry, row in db.session.execute(entries.where(AttemptEntry.delivery_id.in_(found))):
        code, detail = entry.error_code, entry.error_detail
        found[entry.delivery_id][row.id] = _attempt(row, entry.number, entry.trigger, code, detail)
    named = {row.attempt_id for row in deliveries if row.attempt_id is not None}
    latest = {
        row.id: row for row in db.session.scalars(sa.select(AttemptRow).where(AttemptRow.id.in_(named)))
    }
    for delivery in deliveries:
        last = latest.get(delivery.attempt_id)
        if last is not None and last.id not in found[delivery.id]:
            # One that waits by the peer's wish, or is held, used no attempt: the next has this number.
            number = delivery.attempts + (delivery.state is DeliveryState.PENDING)
            found[delivery.id][last.id] = _attempt(last, number, delivery.trigger, None, None)
    return {
        delivery_id: sorted(attempts.values(), key=lambda attempt: attempt["number"])
        for delivery_id, attempts in found.items()
    }


def _attempt(
    row: AttemptRow, number: int, trigger: Any, error_code: str | None, error_detail: str | None
) -> Attempt:
    answer = row.response_body if row.response_body is not None else row.ack
    return Attempt(
        number=number,
        trigger=trigger,
        startedAt=rfc3339(row.started_at),
        durationMs=row.duration_ms,
        statusCode=row.status_code,
        errorCode=error_code or row.error_code,
        errorDetail=error_detail or row.error_detail,
        batchId=row.batch_id,
        responseBody=None if answer is None else _first(answer, MAX_RESPONSE_BYTES),
    )


def _first(text: str, size: int) -> str:
    """The text's first `size` bytes, no character cut in two."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")
