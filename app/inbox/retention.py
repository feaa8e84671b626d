"""Retention of what came in: the text goes by age, a trace stays, so that a repeat is still a duplicate."""

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of, transaction
from app.inbox import traces
from app.models import (
    Connection,
    Direction,
    Event,
    EventAlias,
    EventTrace,
    Reconciliation,
    Stream,
    StreamGap,
)

#: How long a trace stays after its event went, ms. A peer retries for 7 days; only a replay that somebody
#: here asks for reaches further back, and no further than the peer keeps events.
TRACE_MS = 400 * 86_400_000

#: Epochs of a connection that are kept, the newest, though nothing came in them: more than lists show.
EPOCHS_KEPT = 100

#: Gaps of an epoch that are kept, those of the highest numbers: more than lists show.
GAPS_KEPT = 10_000

_EVENT = table_of(Event)
_CONNECTION = table_of(Connection)
_TRACE = table_of(EventTrace)
_STREAM = table_of(Stream)
_GAP = table_of(StreamGap)

#: What names an incoming epoch; as long as anything does, it is needed.
_NAMED_BY = [table_of(model).c.stream_id for model in (Event, EventAlias, EventTrace, Reconciliation)]


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


def purge_gaps(most: int) -> int:
    """Delete some gaps as old as traces, and of an epoch with more than GAPS_KEPT. How many. Commits."""
    old = _ids(sa.select(_GAP.c.id).where(_GAP.c.created_at < now_ms() - TRACE_MS).limit(most))
    crowded = _ids(
        sa.select(_GAP.c.stream_id).group_by(_GAP.c.stream_id).having(sa.func.count() > GAPS_KEPT).limit(1)
    )
    for stream_id in crowded:
        of_stream = sa.select(_GAP.c.id).where(_GAP.c.stream_id == stream_id)
        newest = of_stream.order_by(_GAP.c.from_sequence.desc()).limit(GAPS_KEPT)
        old += _ids(of_stream.where(_GAP.c.id.not_in(newest)).order_by(_GAP.c.from_sequence).limit(most))
    db.session.rollback()
    if old:
        with transaction():
            db.session.execute(sa.delete(_GAP).where(_GAP.c.id.in_(old)))
    return len(old)


def purge_epochs(after: int, most: int) -> tuple[int, int | None]:
    """Delete some epochs that a peer spoke of, in which nothing came that is still known. Commits.

    after: row number to go on from. How many, and the next such number; None at the end.
    """
    rows = db.session.execute(
        sa.select(_STREAM.c.id, _STREAM.c.connection_id)
        .where(_STREAM.c.direction == Direction.INCOMING, _STREAM.c.id > after)
        .order_by(_STREAM.c.id)
        .limit(most)
    ).all()
    kept_from = {connection_id: _kept_from(connection_id) for connection_id in {row[1] for row in rows}}
    db.session.rollback()
    crowded = sorted({row.connection_id for row in rows if row.id < kept_from[row.connection_id]})
    if crowded:
        with transaction():
            # Whoever counts in an epoch holds the lock on its connection.
            over = sa.select(_CONNECTION.c.id).where(_CONNECTION.c.id.in_(crowded))
            db.session.execute(over.order_by(_CONNECTION.c.id).with_for_update()).all()
            old = [row.id for row in rows if row.id < kept_from[row.connection_id]]
            unnamed = [~sa.exists().where(column == _STREAM.c.id) for column in _NAMED_BY]
            gone = _ids(sa.select(_STREAM.c.id).where(_STREAM.c.id.in_(old), *unnamed))
            db.session.execute(sa.delete(_GAP).where(_GAP.c.stream_id.in_(gone)))
            db.session.execute(sa.delete(_STREAM).where(_STREAM.c.id.in_(gone)))
    else:
        gone = []
    return len(gone), rows[-1].id if len(rows) == most else None


def _kept_from(connection_id: int) -> int:
    """The oldest of the newest EPOCHS_KEPT incoming epochs of a connection; 0 if it has no more."""
    newest = sa.select(_STREAM.c.id).where(
        _STREAM.c.connection_id == connection_id, _STREAM.c.direction == Direction.INCOMING
    )
    found = db.session.scalar(newest.order_by(_STREAM.c.id.desc()).offset(EPOCHS_KEPT - 1).limit(1))
    return int(found or 0)


def _ids(query: sa.Select[tuple[int]]) -> list[int]:
    return list(db.session.scalars(query))
