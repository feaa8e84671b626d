"""Retention of what came in: the text goes by age, a trace stays, so that a repeat is still a duplicate."""

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of, transaction
from app.inbox import traces
from app.models import Connection, Direction, Event, EventTrace

#: How long a trace stays after its event went, ms. A peer retries for 7 days; only a replay that somebody
#: here asks for reaches further back, and no further than the peer keeps events.
TRACE_MS = 400 * 86_400_000

_EVENT = table_of(Event)
_CONNECTION = table_of(Connection)
_TRACE = table_of(EventTrace)


def purge_events(workspace_id: int, before_ms: int, most: int) -> int:
    """Delete some events that came into the workspace before `before_ms`, and leave their traces. How many.

    Commits. Their connections are locked: an event that is being received is looked for among the traces
    before it is looked for among the events, and must be found in one of both.
    """
    with transaction():
        connection = db.session.connection()
        rows = connection.execute(
            sa.select(_EVENT.c.id, _EVENT.c.connection_id)
            .where(
                _EVENT.c.workspace_id == workspace_id,
                _EVENT.c.direction == Direction.INCOMING,
                _EVENT.c.created_at < before_ms,
            )
            .order_by(_EVENT.c.created_at)
            .limit(most)
        ).all()
        if not rows:
            return 0
        over = sorted({row.connection_id for row in rows})
        connection.execute(
            sa.select(_CONNECTION.c.id)
            .where(_CONNECTION.c.id.in_(over))
            .order_by(_CONNECTION.c.id)
            .with_for_update()
        ).all()
        ids = [row.id for row in rows]
        traces.leave(ids, now_ms())
        connection.execute(sa.delete(_EVENT).where(_EVENT.c.id.in_(ids)))
    return len(rows)


def purge_traces(most: int) -> int:
    """Delete some traces that no peer can ask about any more. How many. Commits."""
    with transaction():
        old = (
            sa.select(_TRACE.c.connection_id, _TRACE.c.message_id)
            .where(_TRACE.c.gone_at < now_ms() - TRACE_MS)
            .limit(most)
        )
        deleted = db.session.connection().execute(
            sa.delete(_TRACE).where(sa.tuple_(_TRACE.c.connection_id, _TRACE.c.message_id).in_(old))
        )
    return deleted.rowcount
