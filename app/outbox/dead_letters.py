"""Dead letters: which deliveries are meant, what sending them again would take, and doing it to a few.

A set of deliveries is chosen by a filter. How a whole set is worked off, however large, is told in
`app.outbox.operations`; here is what happens to one page of it, in one transaction:

    send_again   pending, due now, under the number it had if that is of the current epoch; dead letters of
                 an ended connection go over an open one to the same instance
    give_up      withdrawn, with the reason; the peer is told of the numbers that it waits for
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from app.access import audit
from app.clock import now_ms
from app.database import db, table_of, transaction
from app.federation.lifecycle import lock, sending_clause
from app.models import Attempt, Connection, Delivery, Direction, Event, Peer, event_named
from app.models.ids import IdKind, row_number
from app.outbox import dispatch, finish
from app.outbox.epochs import current_counter
from app.outbox.rollup import sum_up
from app.protocol.errors import NotFound, invalid
from app.protocol.states import OPEN, DeliveryState

#: Deliveries that may be named one by one.
MAX_IDS = 1_000

#: Requests of a connection from which its rate is taken, the newest.
_RECENT_REQUESTS = 20

_DELIVERY = table_of(Delivery)
_CONNECTION = table_of(Connection)
_ATTEMPT = table_of(Attempt)


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries: status as the API shows it (dead, pending or held), and what narrows it down.

    `open` is pending and held together.
    """

    status: str = "dead"
    #: Public id; one that is not of the workspace matches nothing.
    connection_id: str | None = None
    event_type: str | None = None
    #: The error code that the last attempt left.
    error: str | None = None
    #: Public ids of deliveries, at most MAX_IDS; what is none matches nothing.
    ids: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """With the names of the API, without what does not narrow it down."""
        names = {"connection_id": "connectionId", "event_type": "eventType"}
        return {names.get(name, name): value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "DeliveryFilter":
        """The filter that `to_json` wrote."""
        ids = value.get("ids")
        return cls(
            value["status"],
            value.get("connectionId"),
            value.get("eventType"),
            value.get("error"),
            None if ids is None else tuple(ids),
        )


@dataclass(frozen=True, slots=True)
class PreviewGroup:
    """The matching deliveries of one connection with one error code. Times in ms."""

    connection_id: str
    error: str | None
    count: int
    oldest_at: int
    newest_at: int


@dataclass(frozen=True, slots=True)
class Preview:
    """What a filter matches now; the largest group first."""

    count: int
    groups: list[PreviewGroup] = field(default_factory=list)
    #: When the oldest of them was made, ms; None if there is none.
    oldest_at: int | None = None
    #: HTTP requests that carry them.
    requests: int = 0
    #: How long that takes at the rate of each connection's last requests, ms; None if none was answered yet.
    estimate_ms: int | None = None


def preview(workspace_id: int, chosen: DeliveryFilter, max_items: int | None = None) -> Preview:
    """Count what the filter matches, of which at most the oldest `max_items`, and change nothing.

    Raises InvalidRequest at /filter/status unless it is dead, pending or held.
    """
    matching = (
        sa.select(_DELIVERY.c.id, _DELIVERY.c.connection_id, _DELIVERY.c.error_code, _DELIVERY.c.created_at)
        .where(*conditions(workspace_id, chosen))
        .order_by(_DELIVERY.c.id)
        .limit(max_items)
        .subquery()
    )
    if max_items is None:
        matching = sa.select(_DELIVERY).where(*conditions(workspace_id, chosen)).subquery()
    rows = (
        db.session.connection()
        .execute(
            sa.select(
                matching.c.connection_id,
                _CONNECTION.c.public_id,
                matching.c.error_code,
                sa.func.count().label("number"),
                sa.func.min(matching.c.created_at).label("oldest"),
                sa.func.max(matching.c.created_at).label("newest"),
            )
            .join_from(matching, _CONNECTION, _CONNECTION.c.id == matching.c.connection_id)
            .group_by(matching.c.connection_id, _CONNECTION.c.public_id, matching.c.error_code)
        )
        .all()
    )
    groups = [PreviewGroup(row.public_id, row.error_code, row.number, row.oldest, row.newest) for row in rows]
    groups.sort(key=lambda group: (-group.count, group.connection_id, group.error or ""))
    counts: dict[int, int] = {}
    for row in rows:
        counts[row.connection_id] = counts.get(row.connection_id, 0) + row.number
    efforts = [_effort(connection_id, number) for connection_id, number in counts.items()]
    return Preview(
        count=sum(counts.values()),
        groups=groups,
        oldest_at=min((group.oldest_at for group in groups), default=None),
        requests=sum(requests for requests, _ in efforts),
        # Connections are drained beside each other.
        estimate_ms=max((took for _, took in efforts if took is not None), default=None),
    )


def _effort(connection_id: int, number: int) -> tuple[int, int | None]:
    """Requests that carry `number` deliveries, and how long they took at the pace of the last ones, ms."""
    connection = db.session.connection()
    batch = connection.execute(
        sa.select(Peer.max_batch_events)
        .join(Connection, Connection.peer_id == Peer.id)
        .where(Connection.id == connection_id)
    ).scalar_one_or_none()
    recent = (
        sa.select(_ATTEMPT.c.size, _ATTEMPT.c.duration_ms)
        .where(_ATTEMPT.c.connection_id == connection_id, _ATTEMPT.c.ack.is_not(None))
        .order_by(_ATTEMPT.c.id.desc())
        .limit(_RECENT_REQUESTS)
        .subquery()
    )
    sent, took = connection.execute(
        sa.select(sa.func.sum(recent.c.size), sa.func.sum(recent.c.duration_ms))
    ).one()
    requests = -(-number // (batch or 1))
    return requests, None if not sent else max(1, number * int(took) // int(sent))


def conditions(
    workspace_id: int, chosen: DeliveryFilter, frozen_at: int | None = None
) -> list[sa.ColumnElement[bool]]:
    """The filter as SQL; of dead letters only those that were dead at `frozen_at` (ms).

    Raises InvalidRequest at /filter/status unless it is dead, pending or held.
    """
    found = [_DELIVERY.c.workspace_id == workspace_id, *_has_status(chosen.status)]
    if frozen_at is not None and chosen.status == "dead":
        found.append(sa.func.coalesce(_DELIVERY.c.ended_at, 0) <= frozen_at)
    if chosen.connection_id is not None:
        wanted = sa.select(_CONNECTION.c.id).where(
            _CONNECTION.c.public_id == chosen.connection_id, _CONNECTION.c.workspace_id == workspace_id
        )
        found.append(_DELIVERY.c.connection_id.in_(wanted))
    if chosen.event_type is not None:
        found.append(_DELIVERY.c.event_type == chosen.event_type)
    if chosen.error is not None:
        found.append(_DELIVERY.c.error_code == chosen.error)
    if chosen.ids is not None:
        numbers = [row_number(IdKind.DELIVERY, id_) for id_ in chosen.ids[:MAX_IDS]]
        found.append(_DELIVERY.c.id.in_([number for number in numbers if number is not None]))
    return found


def _has_status(status: str) -> list[sa.ColumnElement[bool]]:
    sending = sa.select(_CONNECTION.c.id).where(sending_clause())
    match status:
        case "dead":
            return [_DELIVERY.c.state == DeliveryState.DEAD]
        case "pending":
            return [_DELIVERY.c.state == DeliveryState.PENDING, _DELIVERY.c.connection_id.in_(sending)]
        case "held":
            return [_DELIVERY.c.state == DeliveryState.PENDING, _DELIVERY.c.connection_id.not_in(sending)]
        case "open":
            return [_DELIVERY.c.state == DeliveryState.PENDING]
    raise invalid("/filter/status", "only dead, pending and held deliveries can be chosen")


def read_page(
    matching: Sequence[sa.ColumnElement[bool]], after_id: int, until_id: int, most: int
) -> Sequence[Any]:
    """The next rows of a set in order of their ids, beyond `after_id` and up to `until_id`."""
    return (
        db.session.connection()
        .execute(
            sa.select(
                _DELIVERY.c.id,
                _DELIVERY.c.event_id,
                _DELIVERY.c.connection_id,
                _DELIVERY.c.state,
                _DELIVERY.c.stream_id,
                _DELIVERY.c.sequence,
                _DELIVERY.c.error_code,
            )
            .where(_DELIVERY.c.id > after_id, _DELIVERY.c.id <= until_id, *matching)
            .order_by(_DELIVERY.c.id)
            .limit(most)
        )
        .all()
    )


def retry_event(workspace_id: int, message_id: str, connection_public_id: str | None = None) -> int:
    """Send an event again where it was given up or still waits. How many deliveries were taken.

    With a connection, over that one alone. Commits. Raises NotFound for an unknown outgoing event, or a
    connection that the event has no delivery to.
    """
    event_id = db.session.scalar(
        sa.select(Event.id).where(
            event_named(workspace_id, message_id),
            Event.direction == Direction.OUTGOING,
        )
    )
    if event_id is None:
        raise NotFound("There is no such outgoing event.")
    meant = [
        _DELIVERY.c.event_id == event_id,
        _DELIVERY.c.workspace_id == workspace_id,
        _DELIVERY.c.state.in_((DeliveryState.DEAD, DeliveryState.PENDING)),
    ]
    if connection_public_id is not None:
        connection_id = db.session.scalar(
            sa.select(Delivery.connection_id)
            .join(Connection, Connection.id == Delivery.connection_id)
            .where(Delivery.event_id == event_id, Connection.public_id == connection_public_id)
        )
        if connection_id is None:
            raise NotFound("The event has no delivery over this connection.")
        meant.append(_DELIVERY.c.connection_id == connection_id)
    with transaction():
        # One row for each connection that the event goes to.
        newest = db.session.scalar(sa.select(sa.func.max(_DELIVERY.c.id))) or 0
        taken = len(send_again(read_page(meant, 0, newest, MAX_IDS)))
        if taken:
            after = {"deliveries": taken, "connection": connection_public_id}
            audit.record("event.retry", "event", message_id, after=after, workspace_id=workspace_id)
    return taken


def send_again(rows: Sequence[Any]) -> set[int]:
    """Make the deliveries due now; the ids of those that were taken.

    A wait after failures ends. Each gets one more try whatever its age. Those of an ended connection stay if
    no other one to the same instance is open, or if it has the event already. Called inside
    `transaction()`; locks the connections in ascending order.
    """
    taken: set[int] = set()
    for connection_id, own in _by_connection(rows):
        connection = lock(connection_id)
        if connection.status in OPEN:
            ids = _make_due(own, connection.id, moved=False)
            target = connection
        else:
            other = _open_connection_to_same(connection)
            if other is None:
                continue
            ids = _make_due(own, other.id, moved=True)
            target = other
        if ids:
            target.retry_at = 0
            dispatch.wake([target.id])
        taken |= ids
    db.session.flush()
    sum_up([row.event_id for row in rows if row.id in taken])
    return taken


def give_up(rows: Sequence[Any], reason: str) -> set[int]:
    """Withdraw the deliveries with a reason; the ids of those that were taken, which are all.

    Called inside `transaction()`; locks the connections in ascending order.
    """
    ending = finish.discarded(reason)
    for connection_id, own in _by_connection(rows):
        lock(connection_id)
        waiting = [row for row in own if row.state is DeliveryState.PENDING]
        # Of a dead one the peer knows already: it refused it, or was told by a gap.
        dead = [row for row in own if row.state is not DeliveryState.PENDING]
        finish.finish(connection_id, waiting, ending)
        finish.finish(connection_id, dead, ending._replace(gap=None))
    return {row.id for row in rows}


def _by_connection(rows: Iterable[Any]) -> list[tuple[int, list[Any]]]:
    """Ascending, which is the order in which everybody locks connections."""
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row.connection_id, []).append(row)
    return sorted(found.items())


def _make_due(rows: Sequence[Any], connection_id: int, *, moved: bool) -> set[int]:
    """Let them wait for the next drain of the connection; the ids that were taken.

    A number of the current epoch is kept, since the peer may still fill it; any other is given anew.
    """
    counter = current_counter(connection_id)
    keeps = sa.false() if moved else _DELIVERY.c.stream_id == counter.stream_id
    other = _DELIVERY.alias()
    is_there = sa.exists().where(
        other.c.event_id == _DELIVERY.c.event_id,
        other.c.connection_id == connection_id,
        other.c.id != _DELIVERY.c.id,
    )
    taken = db.session.connection().execute(
        sa.update(_DELIVERY)
        .where(
            _DELIVERY.c.id.in_([row.id for row in rows]),
            _DELIVERY.c.state.in_((DeliveryState.DEAD, DeliveryState.PENDING)),
            sa.not_(is_there),
        )
        .values(
            connection_id=connection_id,
            state=DeliveryState.PENDING,
            sequence=sa.case((keeps, _DELIVERY.c.sequence)),
            stream_id=sa.case((keeps, _DELIVERY.c.stream_id)),
            next_attempt_at=now_ms(),
            refusals=0,
            trigger="manual",
            ended_at=None,
        )
        .returning(_DELIVERY.c.id)
    )
    return set(taken.scalars())


def _open_connection_to_same(ended: Connection) -> Connection | None:
    """The newest open connection of the workspace to the instance of an ended one, locked."""
    instance_id = sa.select(Peer.instance_id).where(Peer.id == ended.peer_id).scalar_subquery()
    found = db.session.scalar(
        sa.select(Connection.id)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Connection.workspace_id == ended.workspace_id,
            Connection.status.in_(OPEN),
            Peer.instance_id == instance_id,
        )
        .order_by(Connection.id.desc())
        .limit(1)
    )
    return None if found is None else lock(found)
