"""The event log: what came in and what went out, newest first, or in order of commit for a consumer.

    ?order=desc                 (workspace, id) and its siblings for each filter, backwards from the cursor
    ?order=asc                  the same forwards; the last row's number is the place to go on from, also when
                                the page is empty, and no row with a smaller number is committed later
                                (`database.lock_workspace_inbox`)
    ?connectionId=              incoming events by (connection, id), outgoing ones by their deliveries'
                                (connection, id); the two are merged, and the cursor holds a place in each
    ?createdAfter= …Before=     the index on the time tells between which row numbers to look

Row numbers follow the time of creation but for transactions that ran beside each other, which is why a bound
taken from the time index leaves SKEW_MS of room on both sides; the exact time is compared all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from app.database import db
from app.models import Connection, Delivery, Direction, Event, EventStatus, event_named
from app.models.ids import IdKind, public_id
from app.protocol.errors import NotFound, invalid
from app.protocol.states import DeliveryState
from app.reports.connections import row_number, workspace_public_id
from app.reports.deliveries import deliveries_of_event
from app.reports.details import EventMessageDetails
from app.reports.paging import ListKey, Page, by_index, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339

#: How far the order of row numbers and that of creation times may differ, ms.
SKEW_MS = 120_000


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What to list; None does not restrict. Times are Unix milliseconds, both ends included."""

    direction: Direction | None = None
    event_type: str | None = None
    #: Public id.
    connection_id: str | None = None
    status: EventStatus | None = None
    created_after: int | None = None
    created_before: int | None = None


class _Listed(NamedTuple):
    """A row of the list, and where it stands in its half of it."""

    event: sa.Row[Any]
    place: int


def get_event_messages(
    workspace_id: int,
    *,
    direction: str | None = None,
    event_type: str | None = None,
    connection_id: str | None = None,
    status: str | None = None,
    created_after: int | None = None,
    created_before: int | None = None,
    order: str = "desc",
    limit: int = 50,
    cursor: str | None = None,
) -> Page[EventMessageDetails]:
    """The workspace's events, one page.

    direction: `incoming` or `outgoing`; None for both.
    connection_id: public id: events that came over the connection, and ours with a delivery to it.
    created_after, created_before: Unix milliseconds, included.
    order: `desc` is newest first. `asc`, which needs direction=incoming, is the way to consume: every page
        has a cursor, also an empty one; whoever goes on from it gets only what came since, in the order of
        commit, and misses nothing.

    Raises InvalidCursor for a cursor of another list or other filters, InvalidRequest for a limit outside
    1-200 or order=asc without direction=incoming, ValueError for an unknown direction, status or order.
    """
    if order not in ("asc", "desc"):
        raise ValueError(f"{order!r} is no order")
    if order == "asc" and direction != Direction.INCOMING:
        raise invalid("/order", "asc needs direction=incoming", "invalid")
    chosen = EventFilter(
        Direction(direction) if direction is not None else None,
        event_type,
        connection_id,
        EventStatus(status) if status is not None else None,
        created_after,
        created_before,
    )
    check_limit(limit)
    key = _list_key(workspace_id, chosen, order)
    if order == "asc":
        return _consume(workspace_id, chosen, limit, key, cursor)
    if connection_id is not None:
        return _over_connection(workspace_id, chosen, connection_id, limit, key, cursor)
    after = read_cursor(key, cursor)
    query = _ordered(workspace_id, chosen, after[0] if after else None)
    rows, more = cut(db.session.execute(query.limit(limit + 1)).all(), limit)
    return Page(_details(workspace_id, rows), write_cursor(key, [rows[-1].id]) if more else None, more)


def get_event_message(workspace_id: int, message_id: str) -> EventMessageDetails:
    """One event with its deliveries and their attempts. Raises NotFound.

    Should two peers have used the same messageId, the newest event is shown.
    """
    row = db.session.execute(
        _shown().where(event_named(workspace_id, message_id)).order_by(Event.id.desc()).limit(1)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such event in this workspace.")
    [details] = _details(workspace_id, [row])
    details["deliveries"] = deliveries_of_event(row.id) if row.direction is Direction.OUTGOING else []
    return details


def get_events_by_number(workspace_id: int, numbers: Sequence[int]) -> list[EventMessageDetails]:
    """The workspace's events with these row numbers, in the order given."""
    rows = db.session.execute(_shown().where(Event.workspace_id == workspace_id, Event.id.in_(numbers))).all()
    by_number = {row.id: row for row in rows}
    return _details(workspace_id, [by_number[number] for number in numbers if number in by_number])


def _consume(
    workspace_id: int, chosen: EventFilter, limit: int, key: ListKey, cursor: str | None
) -> Page[EventMessageDetails]:
    """A page in the order of commit. An empty one carries the place it was asked for."""
    [place] = read_cursor(key, cursor) or (0,)
    connection_id = None
    if chosen.connection_id is not None:
        connection_id = row_number(workspace_id, chosen.connection_id)
        if connection_id is None:
            return Page([], write_cursor(key, [place]), False)
    query = _ordered(workspace_id, chosen, place, connection_id, newest_first=False)
    rows, more = cut(db.session.execute(query.limit(limit + 1)).all(), limit)
    return Page(_details(workspace_id, rows), write_cursor(key, [rows[-1].id if rows else place]), more)


def _over_connection(
    workspace_id: int, chosen: EventFilter, connection: str, limit: int, key: ListKey, cursor: str | None
) -> Page[EventMessageDetails]:
    """Incoming and outgoing events of one connection, merged by time; two places, 0 for "not begun"."""
    incoming_place, outgoing_place = read_cursor(key, cursor, 2) or (0, 0)
    connection_id = row_number(workspace_id, connection)
    if connection_id is None:
        return Page([], None, False)
    found: list[_Listed] = []
    if chosen.direction is not Direction.OUTGOING:
        found += _came_over(workspace_id, chosen, connection_id, incoming_place, limit)
    if chosen.direction is not Direction.INCOMING:
        found += _went_over(workspace_id, chosen, connection_id, outgoing_place, limit)
    found.sort(key=lambda listed: (-listed.event.created_at, -listed.event.id))
    page, more = cut(found, limit)
    for listed in page:
        if listed.event.direction is Direction.INCOMING:
            incoming_place = listed.place
        else:
            outgoing_place = listed.place
    next_cursor = write_cursor(key, [incoming_place, outgoing_place]) if more else None
    return Page(_details(workspace_id, [listed.event for listed in page]), next_cursor, more)


def _came_over(
    workspace_id: int, chosen: EventFilter, connection_id: int, place: int, limit: int
) -> list[_Listed]:
    query = _ordered(workspace_id, chosen, place or None, connection_id)
    return [_Listed(row, row.id) for row in db.session.execute(query.limit(limit + 1))]


def _went_over(
    workspace_id: int, chosen: EventFilter, connection_id: int, place: int, limit: int
) -> list[_Listed]:
    query = (
        _events(workspace_id, chosen, Event.direction, by_workspace=False)
        .add_columns(Delivery.id.label("place"))
        .join(Delivery, Delivery.event_id == Event.id)
        .where(Event.direction == Direction.OUTGOING)
    )
    query = by_index(query, Delivery.connection_id, connection_id, Delivery.id, place or None)
    rows = db.session.execute(query.limit(limit + 1))
    return [_Listed(row, row.place) for row in rows]


def _list_key(workspace_id: int, chosen: EventFilter, order: str) -> ListKey:
    return ListKey(
        "events",
        workspace_id,
        {
            "direction": chosen.direction,
            "eventType": chosen.event_type,
            "connectionId": chosen.connection_id,
            "status": chosen.status,
            "createdAfter": chosen.created_after,
            "createdBefore": chosen.created_before,
            "order": order,
        },
    )


def _shown() -> sa.Select[*tuple[Any, ...]]:
    return (
        sa.select(
            Event.id,
            Event.direction,
            Event.message_id,
            Event.event_type,
            Event.body,
            Event.signature,
            Event.proof,
            Event.key_id,
            Event.status,
            Event.sequence,
            Event.created_at,
            Connection.public_id.label("connection"),
        )
        # The workspace is one and known: joined, it would tempt the planner to begin with it and sort.
        .outerjoin(Connection, Connection.id == Event.connection_id)
    )


def _ordered(
    workspace_id: int,
    chosen: EventFilter,
    after: int | None,
    connection_id: int | None = None,
    *,
    newest_first: bool = True,
) -> sa.Select[*tuple[Any, ...]]:
    """The events of the filter by their numbers, by the index with the most telling part of it."""
    parts = [
        (Event.connection_id, connection_id),
        (Event.event_type, chosen.event_type),
        (Event.status, chosen.status),
        (Event.direction, chosen.direction),
    ]
    lead = next(((column, value) for column, value in parts if value is not None), None)
    by_workspace = connection_id is None
    query = _events(workspace_id, chosen, lead[0] if lead else None, by_workspace=by_workspace)
    if lead is not None:
        return by_index(query, *lead, Event.id, after, newest_first=newest_first)
    if after is not None:
        query = query.where(Event.id < after if newest_first else Event.id > after)
    return query.order_by(Event.id.desc() if newest_first else Event.id)


def _events(
    workspace_id: int, chosen: EventFilter, but_for: Any, *, by_workspace: bool
) -> sa.Select[*tuple[Any, ...]]:
    """The events of the filter, but for the connection and one column, which the order takes care of.

    by_workspace: whether an index of the workspace may be used; else it is compared as a sum, as in
    `event_named`, since the rows of a connection are found by the connection alone.
    """
    workspace = Event.workspace_id if by_workspace else Event.workspace_id + 0
    query = _shown().where(workspace == workspace_id)
    for column, value in (
        (Event.direction, chosen.direction),
        (Event.event_type, chosen.event_type),
        (Event.status, chosen.status),
    ):
        if value is not None and column is not but_for:
            query = query.where(column == value)
    if chosen.created_after is not None:
        query = query.where(Event.created_at >= chosen.created_after)
    if chosen.created_before is not None:
        query = query.where(Event.created_at <= chosen.created_before)
    first, last = bounds(workspace_id, chosen.created_after, chosen.created_before)
    query = query if first is None else query.where(Event.id > first)
    return query if last is None else query.where(Event.id < last)


def bounds(workspace_id: int, after_ms: int | None, before_ms: int | None) -> tuple[int | None, int | None]:
    """Row numbers between which the events of a time are, both ends excluded; None is open."""
    first = None if after_ms is None else _last_before(workspace_id, after_ms - SKEW_MS)
    last = None if before_ms is None else _first_after(workspace_id, before_ms + SKEW_MS)
    return first, last


def _last_before(workspace_id: int, timestamp_ms: int) -> int | None:
    """The number of the last event created before the time."""
    return db.session.scalar(
        sa.select(Event.id)
        .where(Event.workspace_id == workspace_id, Event.created_at < timestamp_ms)
        .order_by(Event.created_at.desc())
        .limit(1)
    )


def _first_after(workspace_id: int, timestamp_ms: int) -> int | None:
    """The number of the first event created after the time."""
    return db.session.scalar(
        sa.select(Event.id)
        .where(Event.workspace_id == workspace_id, Event.created_at > timestamp_ms)
        .order_by(Event.created_at)
        .limit(1)
    )


class _Sum(NamedTuple):
    """What an outgoing event's deliveries come to."""

    delivered_at: int | None
    error: str | None


def _sums(event_ids: Sequence[int]) -> dict[int, _Sum]:
    if not event_ids:
        return {}
    failed = sa.case((Delivery.state != DeliveryState.DELIVERED, Delivery.error_code))
    rows = db.session.execute(
        sa.select(Delivery.event_id, sa.func.max(Delivery.delivered_at), sa.func.max(failed))
        .where(Delivery.event_id.in_(event_ids))
        .group_by(Delivery.event_id)
    )
    return {event_id: _Sum(delivered_at, error) for event_id, delivered_at, error in rows}


def _details(workspace_id: int, rows: Sequence[sa.Row[Any]]) -> list[EventMessageDetails]:
    if not rows:
        return []
    workspace = workspace_public_id(workspace_id)
    sums = _sums([row.id for row in rows if row.direction is Direction.OUTGOING])
    return [_one(workspace, row, sums.get(row.id)) for row in rows]


def _one(workspace: str, row: sa.Row[Any], deliveries: _Sum | None) -> EventMessageDetails:
    delivered_at = row.created_at if row.direction is Direction.INCOMING else None
    if deliveries and row.status in (EventStatus.DELIVERED, EventStatus.PARTIAL):
        delivered_at = deliveries.delivered_at
    details = EventMessageDetails(
        id=public_id(IdKind.EVENT, row.id),
        workspaceId=workspace,
        connectionId=row.connection,
        messageType="EVENT",
        direction=row.direction.value,
        messageId=row.message_id,
        correlationId=None,
        eventType=row.event_type,
        payload=orjson.loads(row.body)["payload"],
        status=row.status.value,
        sequence=row.sequence,
        error=deliveries.error if deliveries else None,
        createdAt=rfc3339(row.created_at),
        deliveredAt=rfc3339(delivered_at),
        signature=row.signature,
        keyId=row.key_id,
    )
    if row.proof is not None:
        details["proof"] = orjson.loads(row.proof)
    return details
