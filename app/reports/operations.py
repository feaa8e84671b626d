"""Operations as they are shown: what was asked for, by whom, and how far it is."""

import json

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db
from app.models import Operation, OperationState
from app.reports.details import OperationDetails
from app.reports.paging import ListKey, Page, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339


def list_operations(
    workspace_id: int, *, limit: int = 50, cursor: str | None = None
) -> Page[OperationDetails]:
    """The workspace's operations, newest first. Raises InvalidCursor, InvalidRequest for a bad limit."""
    key = ListKey("operations", workspace_id, {})
    after = read_cursor(key, cursor)
    query = sa.select(Operation).where(Operation.workspace_id == workspace_id)
    if after is not None:
        query = query.where(Operation.id < after[0])
    query = query.order_by(Operation.id.desc()).limit(check_limit(limit) + 1)
    rows, more = cut(db.session.scalars(query).all(), limit)
    data = [operation_details(row) for row in rows]
    return Page(data, write_cursor(key, [rows[-1].id]) if more else None, more)


def operation_details(row: Operation) -> OperationDetails:
    """One operation as it stands."""
    return OperationDetails(
        id=row.public_id,
        kind=row.kind.value,
        filter=json.loads(row.filter),
        reason=row.reason,
        maxItems=row.max_items,
        status=row.state.value,
        total=row.total,
        done=row.done,
        skipped=row.skipped,
        remainingMs=_remaining_ms(row),
        startedBy=row.started_by,
        createdAt=rfc3339(row.created_at),
        updatedAt=rfc3339(row.updated_at),
        finishedAt=rfc3339(row.finished_at),
    )


def _remaining_ms(row: Operation) -> int | None:
    seen = row.done + row.skipped
    if row.state is not OperationState.RUNNING or not seen:
        return None
    return (now_ms() - row.created_at) * max(0, row.total - seen) // seen
