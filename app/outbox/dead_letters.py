"""Dead letters: sending again what was given up or waits, and giving up what nobody wants any more.

Set based, and in pages with a transaction each, so that a hundred thousand rows block nobody. Inside the
caller's `transaction()` all pages join it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of, transaction
from app.federation.lifecycle import lock, sending_clause
from app.models import Connection, Delivery, Direction, Event, Peer
from app.outbox import dispatch, finish
from app.outbox.epochs import current_counter
from app.outbox.rollup import sum_up
from app.protocol.errors import NotFound, invalid
from app.protocol.states import OPEN, DeliveryState

#: Deliveries of one page, and of one transaction.
_PAGE = 2_000

_DELIVERY = table_of(Delivery)
_CONNECTION = table_of(Connection)


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries: status as the API shows it (dead, pending or held), connection, event type."""

    status: str = "dead"
    #: Public id; one that is not of the workspace matches nothing.
    connection_id: str | None = None
    event_type: str | None = None


@dataclass(frozen=True, slots=True)
class RetryGroup:
    """How many deliveries of one connection with one error code."""

    connection_id: str
    error: str | None
    count: int


@dataclass(frozen=True, slots=True)
class RetryResult:
    """What was taken; in a dry run, what would be. The largest group first."""

    count: int
    groups: list[RetryGroup]


def retry_deliveries(
    workspace_id: int, chosen: DeliveryFilter, *, dry_run: bool = False, max_items: int | None = None
) -> RetryResult:
    """Send deliveries again, now: those of the filter, the oldest first, at most `max_items`.

    Dead letters of an ended connection go over an open one to the same instance; where there is none, or it
    has the event already, they stay. A wait after failures ends. Each gets one more try whatever its age.
    Commits, page by page.

    Raises InvalidRequest at /filter/status unless it is dead, pending or held.
    """
    return _each_page(_conditions(workspace_id, chosen), dry_run, max_items, _retry)


def discard_deliveries(
    workspace_id: int, chosen: DeliveryFilter, reason: str, *, dry_run: bool = False
) -> RetryResult:
    """Give deliveries up for good, with a reason; the peer is told of the numbers that it waits for.

    Commits, page by page. Raises InvalidRequest at /filter/status unless it is dead, pending or held.
    """

    def discard(rows: Sequence[Any]) -> Sequence[Any]:
        return _discard(rows, reason)

    return _each_page(_conditions(workspace_id, chosen), dry_run, None, discard)


def retry_event(workspace_id: int, message_id: str, connection_public_id: str | None = None) -> RetryResult:
    """Send an event again where it was given up or still waits.

    With a connection, over that one alone. Commits. Raises NotFound for an unknown outgoing event, or a
    connection that the event has no delivery to.
    """
    event_id = db.session.scalar(
        sa.select(Event.id).where(
            Event.message_id == message_id,
            Event.workspace_id == workspace_id,
            Event.direction == Direction.OUTGOING,
        )
    )
    if event_id is None:
        raise NotFound("There is no such outgoing event.")
    conditions = [
        _DELIVERY.c.event_id == event_id,
        _DELIVERY.c.workspace_id == workspace_id,
    ]
    if connection_public_id is not None:
        connection_id = db.session.scalar(
            sa.select(Delivery.connection_id)
            .join(Connection, Connection.id == Delivery.connection_id)
            .where(Delivery.event_id == event_id, Connection.public_id == connection_public_id)
        )
        if connection_id is None:
            raise NotFound("The event has no delivery over this connection.")
        conditions.append(_DELIVERY.c.connection_id == connection_id)
    waiting = _DELIVERY.c.state.in_((DeliveryState.DEAD, DeliveryState.PENDING))
    return _each_page([*conditions, waiting], False, None, _retry)


def _conditions(workspace_id: int, chosen: DeliveryFilter) -> list[sa.ColumnElement[bool]]:
    conditions = [_DELIVERY.c.workspace_id == workspace_id, *_has_status(chosen.status)]
    if chosen.connection_id is not None:
        wanted = sa.select(_CONNECTION.c.id).where(
            _CONNECTION.c.public_id == chosen.connection_id, _CONNECTION.c.workspace_id == workspace_id
        )
        conditions.append(_DELIVERY.c.connection_id.in_(wanted))
    if chosen.event_type is not None:
        conditions.append(_DELIVERY.c.event_type == chosen.event_type)
    return conditions


def _has_status(status: str) -> list[sa.ColumnElement[bool]]:
    sending = sa.select(_CONNECTION.c.id).where(sending_clause())
    match status:
        case "dead":
            return [_DELIVERY.c.state == DeliveryState.DEAD]
        case "pending":
            return [_DELIVERY.c.state == DeliveryState.PENDING, _DELIVERY.c.connection_id.in_(sending)]
        case "held":
            return [_DELIVERY.c.state == DeliveryState.PENDING, _DELIVERY.c.connection_id.not_in(sending)]
    raise invalid("/filter/status", "only dead, pending and held deliveries can be chosen")


def _each_page(
    conditions: Sequence[sa.ColumnElement[bool]],
    dry_run: bool,
    max_items: int | None,
    act: Callable[[Sequence[Any]], Sequence[Any]],
) -> RetryResult:
    """Act on all rows page by page in order of their ids, and count what was taken."""
    taken: Counter[tuple[int, str | None]] = Counter()
    last_id, left = 0, max_items
    while left is None or left > 0:
        if dry_run:
            rows = taken_rows = _read_page(conditions, last_id, left)
        else:
            with transaction():
                rows = _read_page(conditions, last_id, left)
                taken_rows = act(rows) if rows else []
        if not rows:
            break
        taken.update((row.connection_id, row.error_code) for row in taken_rows)
        last_id = rows[-1].id
        left = None if left is None else left - len(taken_rows)
    return _result(taken)


def _read_page(conditions: Sequence[sa.ColumnElement[bool]], last_id: int, most: int | None) -> Sequence[Any]:
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
            .where(_DELIVERY.c.id > last_id, *conditions)
            .order_by(_DELIVERY.c.id)
            .limit(_PAGE if most is None else min(most, _PAGE))
        )
        .all()
    )


def _result(taken: Counter[tuple[int, str | None]]) -> RetryResult:
    ids = {connection_id for connection_id, _ in taken}
    names = dict(
        db.session.execute(sa.select(Connection.id, Connection.public_id).where(Connection.id.in_(ids))).all()
    )
    groups = [
        RetryGroup(names[connection_id], error, count) for (connection_id, error), count in taken.items()
    ]
    groups.sort(key=lambda group: (-group.count, group.connection_id, group.error or ""))
    return RetryResult(taken.total(), groups)


def _by_connection(rows: Iterable[Any]) -> list[tuple[int, list[Any]]]:
    """Ascending, which is the order in which everybody locks connections."""
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(row.connection_id, []).append(row)
    return sorted(found.items())


def _retry(rows: Sequence[Any]) -> list[Any]:
    taken: list[Any] = []
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
        taken += [row for row in own if row.id in ids]
    db.session.flush()
    sum_up([row.event_id for row in taken])
    return taken


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


def _discard(rows: Sequence[Any], reason: str) -> list[Any]:
    ending = finish.discarded(reason)
    for connection_id, own in _by_connection(rows):
        lock(connection_id)
        waiting = [row for row in own if row.state is DeliveryState.PENDING]
        # Of a dead one the peer knows already: it refused it, or was told by a gap.
        dead = [row for row in own if row.state is not DeliveryState.PENDING]
        finish.finish(connection_id, waiting, ending)
        finish.finish(connection_id, dead, ending._replace(gap=None))
    return list(rows)
