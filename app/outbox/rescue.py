"""Rescue: find what nobody looks after, and have it looked at.

Runs every second or two, in any number of processes, and needs nothing that Redis keeps: leases of drains
that died, deliveries that became due, wake-ups that were lost, and what grew too old behind a connection that
sends nothing.

A clock that was ahead and is mended leaves times that nobody could have meant: leases that last for a day,
waits longer than the longest. They count as over.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.backoff import LONGEST_WAIT_MS, MAX_RETRY_AGE_MS
from app.clock import now_ms
from app.database import db, table_of, transaction
from app.federation.leases import is_dead
from app.federation.lifecycle import lock, sending_clause
from app.models import Connection, Delivery, Event
from app.outbox import finish
from app.outbox.lease import LEASE_MS, reset_sending
from app.protocol.states import OPEN, DeliveryState
from app.queue import wake_drain

#: Connections that one sweep looks after at most.
MAX_CONNECTIONS = 500
#: Connections whose oldest deliveries one sweep ends at most, and how many of each.
MAX_EXPIRING = 20
EXPIRE_PAGE = 1_000

_CONNECTION = table_of(Connection)
_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)


def sweep() -> int:
    """Free the leases of the dead and wake what is due. How many connections were woken. Commits."""
    free_leases()
    expire_old()
    due = _due_connections(now_ms())
    for connection_id, failures in due:
        wake_drain(connection_id, failing=failures > 0, again=True)
    return len(due)


def free_leases() -> int:
    """Free leases that ran out, and those of processes of this host that died. How many. Commits."""
    now = now_ms()
    held = db.session.connection().execute(
        sa.select(_CONNECTION.c.id, _CONNECTION.c.drain_owner, _CONNECTION.c.drain_lease_until)
        .where(_CONNECTION.c.drain_owner.is_not(None))
        .limit(MAX_CONNECTIONS)
    )
    lost = [
        row
        for row in held
        if not now <= row.drain_lease_until <= now + 2 * LEASE_MS or is_dead(row.drain_owner)
    ]
    db.session.rollback()
    return sum(_free(row.id, row.drain_owner, row.drain_lease_until) for row in lost)


def _free(connection_id: int, owner: str, lease_until: int) -> bool:
    """Free this very lease: whoever renewed it or took it meanwhile keeps it."""
    with transaction():
        freed = db.session.connection().execute(
            sa.update(_CONNECTION)
            .where(
                _CONNECTION.c.id == connection_id,
                _CONNECTION.c.drain_owner == owner,
                _CONNECTION.c.drain_lease_until == lease_until,
            )
            .values(drain_owner=None, drain_lease_until=0)
        )
        if freed.rowcount != 1:
            return False
        reset_sending(connection_id)
        return True


def _due_connections(now: int) -> list[tuple[int, int]]:
    """(id, failures) of connections that may send and have something due, but no drain.

    A look into the index for each connection, whatever number of deliveries waits.
    """
    waits = _first(DeliveryState.PENDING, _DELIVERY.c.next_attempt_at <= now)
    # Left behind by a drain whose lease was freed otherwise; the next drain makes them wait again.
    orphaned = _first(DeliveryState.SENDING)
    found = db.session.connection().execute(
        sa.select(_CONNECTION.c.id, _CONNECTION.c.failures)
        .where(
            sending_clause(),
            _CONNECTION.c.is_seeded.is_(False),
            sa.not_(_waits(now)),
            _CONNECTION.c.drain_owner.is_(None),
            sa.or_(waits.is_not(None), orphaned.is_not(None)),
        )
        .order_by(_CONNECTION.c.retry_at)
        .limit(MAX_CONNECTIONS)
    )
    due = [(row.id, row.failures) for row in found]
    db.session.rollback()
    return due


def _first(state: DeliveryState, *conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    """The first delivery of the connection in this state. In order, for the reason that `claim._DUE` has."""
    return (
        sa.select(_DELIVERY.c.id)
        .where(_DELIVERY.c.connection_id == _CONNECTION.c.id, _DELIVERY.c.state == state, *conditions)
        .order_by(_DELIVERY.c.sequence, _DELIVERY.c.id)
        .limit(1)
        .correlate(_CONNECTION)
        .scalar_subquery()
    )


def _waits(now: int) -> sa.ColumnElement[bool]:
    """Whether a connection waits after failures, or because the peer asked for it."""
    return _CONNECTION.c.retry_at.between(now + 1, now + LONGEST_WAIT_MS)


def expire_old() -> int:
    """Give up what is older than 7 days and waits where no drain comes by. How many. Commits.

    A drain does so with what it takes up; behind a suspension, a hold, a pause or a wait it takes nothing up.
    """
    oldest = now_ms() - MAX_RETRY_AGE_MS
    found = db.session.connection().execute(
        sa.select(_CONNECTION.c.id)
        .where(
            _CONNECTION.c.status.in_(OPEN),
            _CONNECTION.c.is_seeded.is_(False),
            sa.or_(sa.not_(sending_clause()), _waits(now_ms())),
            sa.or_(_first_is_older(oldest, numbered=True), _first_is_older(oldest, numbered=False)),
        )
        .limit(MAX_EXPIRING)
    )
    stale = list(found.scalars())
    db.session.rollback()
    return sum(_expire(connection_id, oldest) for connection_id in stale)


def _is_numbered(numbered: bool) -> sa.ColumnElement[bool]:
    return _DELIVERY.c.sequence.is_not(None) if numbered else _DELIVERY.c.sequence.is_(None)


def _first_is_older(oldest: int, *, numbered: bool) -> sa.ColumnElement[bool]:
    """Whether the event of the first waiting delivery is older: one look into the index and one row."""
    first = (
        sa.select(_DELIVERY.c.event_id)
        .where(
            _DELIVERY.c.connection_id == _CONNECTION.c.id,
            _DELIVERY.c.state == DeliveryState.PENDING,
            _is_numbered(numbered),
        )
        .order_by(_DELIVERY.c.sequence, _DELIVERY.c.id)
        .limit(1)
        .correlate(_CONNECTION)
        .scalar_subquery()
    )
    return sa.exists().where(_EVENT.c.id == first, _EVENT.c.timestamp < oldest)


def _expire(connection_id: int, oldest: int) -> int:
    with transaction():
        lock(connection_id)
        rows = [row for numbered in (True, False) for row in _oldest(connection_id, oldest, numbered)]
        finish.finish(connection_id, rows, finish.EXPIRED)
    return len(rows)


def _oldest(connection_id: int, oldest: int, numbered: bool) -> Sequence[Any]:
    """Of the first waiting deliveries those that are older, but for what a person wants to be sent again."""
    first = (
        sa.select(_DELIVERY.c.id, _DELIVERY.c.event_id, _DELIVERY.c.stream_id, _DELIVERY.c.sequence)
        .where(
            _DELIVERY.c.connection_id == connection_id,
            _DELIVERY.c.state == DeliveryState.PENDING,
            _DELIVERY.c.trigger == "auto",
            _is_numbered(numbered),
        )
        .order_by(_DELIVERY.c.sequence, _DELIVERY.c.id)
        .limit(EXPIRE_PAGE)
        .subquery()
    )
    older = sa.select(first).join(_EVENT, _EVENT.c.id == first.c.event_id).where(_EVENT.c.timestamp < oldest)
    return db.session.connection().execute(older).all()
