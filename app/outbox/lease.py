"""The lease of a drain: one sender at a time for a connection, kept by the database whatever Redis does."""

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of
from app.models import Connection, Delivery
from app.protocol.states import DeliveryState

#: Longer than the deadline of a request (15 s) and the recording after it together, ms.
LEASE_MS = 30_000

_CONNECTION = table_of(Connection)
_DELIVERY = table_of(Delivery)

_THIS = sa.update(_CONNECTION).where(_CONNECTION.c.id == sa.bindparam("connection"))
_MINE = _CONNECTION.c.drain_owner == sa.bindparam("owner")
_ACQUIRE = _THIS.where(
    # Whoever sends events has this lease, so that over a made-up connection nobody does.
    _CONNECTION.c.is_seeded.is_(False),
    sa.or_(_CONNECTION.c.drain_owner.is_(None), _CONNECTION.c.drain_lease_until < sa.bindparam("now")),
).values(drain_owner=sa.bindparam("owner"), drain_lease_until=sa.bindparam("until"))
_RENEW = _THIS.where(_MINE).values(drain_lease_until=sa.bindparam("until"))
_RELEASE = _THIS.where(_MINE).values(drain_owner=None, drain_lease_until=0)
_RESET = (
    sa.update(_DELIVERY)
    .where(
        _DELIVERY.c.connection_id == sa.bindparam("connection"),
        _DELIVERY.c.state == DeliveryState.SENDING,
    )
    .values(state=DeliveryState.PENDING)
)


def acquire(connection_id: int, owner: str) -> bool:
    """Take the connection for sending; False if somebody has it. Called inside `transaction()`.

    What the one before left in sending goes back to pending: it died, and its answers are lost.
    """
    now = now_ms()
    taken = db.session.connection().execute(
        _ACQUIRE, {"connection": connection_id, "owner": owner, "until": now + LEASE_MS, "now": now}
    )
    if taken.rowcount != 1:
        return False
    reset_sending(connection_id)
    return True


def renew(connection_id: int, owner: str) -> bool:
    """Hold the lease on; False if it was lost. Also locks the connection's row until the commit."""
    held = db.session.connection().execute(
        _RENEW, {"connection": connection_id, "owner": owner, "until": now_ms() + LEASE_MS}
    )
    return held.rowcount == 1


def release(connection_id: int, owner: str) -> None:
    """Let the connection go, if it is still ours."""
    db.session.connection().execute(_RELEASE, {"connection": connection_id, "owner": owner})


def reset_sending(connection_id: int) -> None:
    """Make what nobody sends any more wait again."""
    db.session.connection().execute(_RESET, {"connection": connection_id})
