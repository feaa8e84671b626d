"""Comparisons as they are shown: what was compared, what differed, and what became of it."""

import json
from typing import Any

import sqlalchemy as sa

from app.database import db
from app.models import Connection, Direction, Reconciliation, Stream
from app.reports.details import ReconciliationDetails
from app.reports.paging import ListKey, Page, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339


def list_reconciliations(
    workspace_id: int,
    connection_id: str,
    *,
    direction: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[ReconciliationDetails]:
    """The comparisons of one connection, newest first; `outgoing`: of what we send.

    connection_id: public id. Raises InvalidCursor, InvalidRequest for a limit outside 1-200.
    """
    key = ListKey("reconciliations", workspace_id, {"connectionId": connection_id, "direction": direction})
    after = read_cursor(key, cursor)
    query = _shown().where(Reconciliation.workspace_id == workspace_id, Connection.public_id == connection_id)
    if direction is not None:
        query = query.where(Reconciliation.direction == Direction(direction))
    if after is not None:
        query = query.where(Reconciliation.id < after[0])
    rows = db.session.execute(query.order_by(Reconciliation.id.desc()).limit(check_limit(limit) + 1)).all()
    page, more = cut(rows, limit)
    data = [_details(row) for row in page]
    return Page(data, write_cursor(key, [page[-1].Reconciliation.id]) if more else None, more)


def get_reconciliation(reconciliation_id: str) -> ReconciliationDetails:
    """One comparison by its reconciliationId, as it is in the database now."""
    db.session.rollback()
    return _details(db.session.execute(_shown().where(Reconciliation.public_id == reconciliation_id)).one())


def _shown() -> sa.Select[*tuple[Any, ...]]:
    return (
        sa.select(Reconciliation, Connection.public_id.label("connection"), Stream.epoch)
        .join(Connection, Connection.id == Reconciliation.connection_id)
        .join(Stream, Stream.id == Reconciliation.stream_id)
        .execution_options(populate_existing=True)
    )


def _details(row: sa.Row[Any]) -> ReconciliationDetails:
    run: Reconciliation = row.Reconciliation
    return ReconciliationDetails(
        id=run.public_id,
        connectionId=row.connection,
        direction=run.direction.value,
        streamEpoch=row.epoch,
        status=run.state.value,
        fromSequence=run.from_sequence,
        toSequence=run.to_sequence,
        compared=run.compared,
        found=run.found,
        repaired=run.repaired,
        differences=json.loads(run.differences),
        error=run.error_code,
        errorDetail=run.error_detail,
        askedBy=run.asked_by,
        createdAt=rfc3339(run.created_at),
        finishedAt=rfc3339(run.finished_at),
    )
