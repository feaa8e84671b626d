"""Dispatch: after the commit, wake the drains of the connections that got something to send.

Best effort. The rows are the truth: if Redis is away, the sweep finds them when it looks next. A connection
whose drain runs is not woken, since a job costs more than most events: the drain looks once more after it
gave its lease back, and whoever still saw the lease had committed before that. On SQLite, where one writes at
a time, a look before the commit says the same, and costs no connection of its own.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.clock import now_ms
from app.database import db, is_sqlite, table_of
from app.federation.lifecycle import sending_clause
from app.many import one_of
from app.models import Connection, Delivery
from app.protocol.states import DeliveryState
from app.queue import wake_drain

log = logging.getLogger(__name__)

#: Where a session keeps the ids of connections to wake until its transaction ends.
_WAITING = "tidings_wake_drains"
#: Where it keeps which of them are idle, if it looked before the commit.
_SEEN = "tidings_idle_drains"

_CONNECTION = table_of(Connection)
_DELIVERY = table_of(Delivery)


@lru_cache(maxsize=2)
def _idle(on_sqlite: bool) -> sa.Select[tuple[int, int]]:
    return sa.select(_CONNECTION.c.id, _CONNECTION.c.failures).where(
        one_of(_CONNECTION.c.id, "ids", on_sqlite),
        sending_clause(),
        _CONNECTION.c.is_seeded.is_(False),
        _CONNECTION.c.retry_at <= sa.bindparam("now"),
        sa.or_(_CONNECTION.c.drain_owner.is_(None), _CONNECTION.c.drain_lease_until < sa.bindparam("now")),
    )


def wake(connection_ids: Iterable[int]) -> None:
    """Wake the drains of these connections when the current transaction commits.

    Called inside `transaction()`; joins the outermost one. A rollback forgets them.
    """
    db.session().info.setdefault(_WAITING, set()).update(connection_ids)


def hurry(connection_id: int) -> int:
    """Let what waits for its own back-off on this connection go at once. How many deliveries.

    Called inside `transaction()`; joins it.
    """
    now = now_ms()
    hurried = db.session.connection().execute(
        sa.update(_DELIVERY)
        .where(
            _DELIVERY.c.connection_id == connection_id,
            _DELIVERY.c.state == DeliveryState.PENDING,
            # Only what was sent before waits by itself, so a long queue of new ones is not touched.
            _DELIVERY.c.sequence.is_not(None),
            _DELIVERY.c.next_attempt_at > now,
        )
        .values(next_attempt_at=now)
    )
    wake([connection_id])
    return hurried.rowcount


@event.listens_for(db.session, "before_commit")
def _look_first(session: Session) -> None:
    ids = session.info.get(_WAITING)
    if ids and is_sqlite():
        # What makes it fit to send may be part of this transaction.
        session.flush()
        session.info[_SEEN] = _find_idle(session.connection(), ids)


@event.listens_for(db.session, "after_commit")
def _wake_now(session: Session) -> None:
    ids, idle = session.info.pop(_WAITING, None), session.info.pop(_SEEN, None)
    if not ids:
        return
    if idle is None:
        try:
            idle = find_idle(ids)
        except sa.exc.SQLAlchemyError:
            # What was accepted is committed; an error now would make the caller say it again.
            log.warning("dispatch.not_woken", exc_info=True)
            return
    for connection_id, failures in idle:
        wake_drain(connection_id, failing=failures > 0)


def find_idle(ids: Iterable[int]) -> Sequence[tuple[int, int]]:
    """Those that may send now and whose drain does not run: (id, failures)."""
    # By a connection of its own: the session is between two transactions here.
    with db.engine.connect() as connection:
        return _find_idle(connection, ids)


def _find_idle(connection: sa.Connection, ids: Iterable[int]) -> Sequence[tuple[int, int]]:
    rows = connection.execute(_idle(is_sqlite()), {"ids": sorted(ids), "now": now_ms()})
    return [(row.id, row.failures) for row in rows]


@event.listens_for(db.session, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop(_WAITING, None)
    session.info.pop(_SEEN, None)
