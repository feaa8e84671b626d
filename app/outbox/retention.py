"""Retention of what went out: events with their deliveries and signatures, then attempts nobody speaks of.

An event goes as a whole when it is older than RETENTION_DAYS and each of its deliveries ended longer ago than
that; what is open is never deleted, however old. An attempt holds the receipts of its deliveries, so it stays
as long as one of those does. Each call is one small transaction.
"""

from typing import NamedTuple

import sqlalchemy as sa

from app.database import db, table_of, transaction
from app.models import Attempt, AttemptEntry, Delivery, Direction, Event, EventStatus
from app.protocol.states import DeliveryState

_EVENT = table_of(Event)
_DELIVERY = table_of(Delivery)
_ATTEMPT = table_of(Attempt)
_ENTRY = table_of(AttemptEntry)

_OPEN = (DeliveryState.PENDING, DeliveryState.SENDING)


class Place(NamedTuple):
    """How far a walk through a table in order of time has come."""

    created_at: int = 0
    id: int = 0


class Piece(NamedTuple):
    """What one transaction did: rows deleted, and where to go on; None at the end."""

    deleted: int
    next: Place | None


def purge_events(workspace_id: int, before_ms: int, after: Place, most: int) -> Piece:
    """Delete some of the workspace's own events that were published and ended before `before_ms`. Commits."""
    found = (
        db.session.connection()
        .execute(
            sa.select(_EVENT.c.id, _EVENT.c.created_at)
            .where(
                _EVENT.c.workspace_id == workspace_id,
                _EVENT.c.direction == Direction.OUTGOING,
                _EVENT.c.status != EventStatus.PENDING,
                _EVENT.c.created_at < before_ms,
                # Said twice: the first lets an index begin there, whatever it makes of the second.
                _EVENT.c.created_at >= after.created_at,
                sa.tuple_(_EVENT.c.created_at, _EVENT.c.id)
                > sa.tuple_(sa.literal(after.created_at), sa.literal(after.id)),
            )
            .order_by(_EVENT.c.created_at, _EVENT.c.id)
            .limit(most)
        )
        .all()
    )
    db.session.rollback()
    if not found:
        return Piece(0, None)
    with transaction():
        gone = _ended_before(before_ms, [row.id for row in found])
        if gone:
            deliveries = sa.select(_DELIVERY.c.id).where(_DELIVERY.c.event_id.in_(gone))
            connection = db.session.connection()
            connection.execute(sa.delete(_ENTRY).where(_ENTRY.c.delivery_id.in_(deliveries)))
            connection.execute(sa.delete(_DELIVERY).where(_DELIVERY.c.event_id.in_(gone)))
            connection.execute(sa.delete(_EVENT).where(_EVENT.c.id.in_(gone)))
    last = found[-1]
    return Piece(len(gone), Place(last.created_at, last.id) if len(found) == most else None)


def _ended_before(before_ms: int, event_ids: list[int]) -> list[int]:
    """Those of the events whose deliveries have all ended before then. The deliveries are locked.

    In the order in which whoever sends them again locks: deliveries first, then events.
    """
    rows = db.session.connection().execute(
        sa.select(
            _DELIVERY.c.event_id,
            _DELIVERY.c.state,
            sa.func.coalesce(_DELIVERY.c.delivered_at, _DELIVERY.c.ended_at, _DELIVERY.c.created_at).label(
                "at"
            ),
        )
        .where(_DELIVERY.c.event_id.in_(event_ids))
        .order_by(_DELIVERY.c.id)
        .with_for_update()
    )
    kept = {row.event_id for row in rows if row.state in _OPEN or row.at >= before_ms}
    return [event_id for event_id in event_ids if event_id not in kept]


def purge_attempts(before_ms: int, after: Place, most: int) -> Piece:
    """Delete some attempts that began before `before_ms` and that no delivery names any more. Commits."""
    rows = (
        db.session.connection()
        .execute(
            sa.select(_ATTEMPT.c.id, _ATTEMPT.c.started_at)
            .where(_ATTEMPT.c.id > after.id)
            .order_by(_ATTEMPT.c.id)
            .limit(most)
        )
        .all()
    )
    db.session.rollback()
    old = [row.id for row in rows if row.started_at < before_ms]
    if not old:
        # Numbers follow the times: those that come are newer still.
        return Piece(0, None)
    named = sa.or_(
        sa.exists().where(_DELIVERY.c.attempt_id == _ATTEMPT.c.id),
        sa.exists().where(_ENTRY.c.attempt_id == _ATTEMPT.c.id),
    )
    with transaction():
        deleted = db.session.connection().execute(
            sa.delete(_ATTEMPT).where(_ATTEMPT.c.id.in_(old), sa.not_(named))
        )
    return Piece(deleted.rowcount, Place(0, rows[-1].id) if len(rows) == most else None)
