"""Rescue: find what nobody looks after, and have it looked at.

Runs every second or two, in any number of processes, and needs nothing that Redis keeps: leases of drains
that died, deliveries that became due, and wake-ups that were lost.
"""

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of, transaction
from app.federation.leases import is_dead
from app.federation.lifecycle import sending_clause
from app.models import Connection, Delivery
from app.outbox.lease import reset_sending
from app.protocol.states import DeliveryState
from app.queue import wake_drain

#: Connections that one sweep looks after at most.
MAX_CONNECTIONS = 500

_CONNECTION = table_of(Connection)
_DELIVERY = table_of(Delivery)


def sweep() -> int:
    """Free the leases of the dead and wake what is due. How many connections were woken. Commits."""
    free_leases()
    due = _due_connections(now_ms())
    for connection_id, failures in due:
        wake_drain(connection_id, failing=failures > 0)
    return len(due)


def free_leases() -> int:
    """Free leases that ran out, and those of processes of this host that died. How many. Commits."""
    now = now_ms()
    held = db.session.connection().execute(
        sa.select(_CONNECTION.c.id, _CONNECTION.c.drain_owner, _CONNECTION.c.drain_lease_until)
        .where(_CONNECTION.c.drain_owner.is_not(None))
        .limit(MAX_CONNECTIONS)
    )
    lost = [row for row in held if row.drain_lease_until < now or is_dead(row.drain_owner)]
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
    waits = sa.exists().where(
        _DELIVERY.c.connection_id == _CONNECTION.c.id,
        _DELIVERY.c.state == DeliveryState.PENDING,
        _DELIVERY.c.next_attempt_at <= now,
    )
    # Left behind by a drain whose lease was freed otherwise; the next drain makes them wait again.
    orphaned = sa.exists().where(
        _DELIVERY.c.connection_id == _CONNECTION.c.id, _DELIVERY.c.state == DeliveryState.SENDING
    )
    found = db.session.connection().execute(
        sa.select(_CONNECTION.c.id, _CONNECTION.c.failures)
        .where(
            sending_clause(),
            _CONNECTION.c.retry_at <= now,
            _CONNECTION.c.drain_owner.is_(None),
            sa.or_(waits, orphaned),
        )
        .order_by(_CONNECTION.c.retry_at)
        .limit(MAX_CONNECTIONS)
    )
    due = [(row.id, row.failures) for row in found]
    db.session.rollback()
    return due
