"""Replays as they are shown: what we asked peers to send again, and what we send peers again."""

import orjson
import sqlalchemy as sa

from app.database import db
from app.federation import streams
from app.models import Connection, Direction, Replay, ReplayState
from app.protocol.errors import NotFound
from app.reports.details import ReplayDetails
from app.reports.paging import ListKey, Page, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339


def list_replays(
    workspace_id: int,
    *,
    connection_id: str | None = None,
    direction: str | None = None,
    status: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[ReplayDetails]:
    """Replays of a workspace, newest first; those of direction `incoming` we asked for.

    connection_id: public id. Raises InvalidCursor.
    """
    key = ListKey(
        "replays", workspace_id, {"connectionId": connection_id, "direction": direction, "status": status}
    )
    after = read_cursor(key, cursor)
    query = _shown().where(Replay.workspace_id == workspace_id)
    if connection_id is not None:
        query = query.where(Connection.public_id == connection_id)
    if direction is not None:
        query = query.where(Replay.direction == Direction(direction))
    if status is not None:
        query = query.where(Replay.state == ReplayState(status))
    if after is not None:
        query = query.where(Replay.id < after[0])
    rows = db.session.execute(query.order_by(Replay.id.desc()).limit(check_limit(limit) + 1)).all()
    page, more = cut(rows, limit)
    details = [_details(row.Replay, row.connection) for row in page]
    return Page(details, write_cursor(key, [page[-1].Replay.id]) if more else None, more)


def get_replay(workspace_id: int, replay_id: str) -> ReplayDetails:
    """One replay by its replayId. Raises NotFound."""
    row = db.session.execute(
        _shown().where(Replay.workspace_id == workspace_id, Replay.replay_id == replay_id).limit(1)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such replay in this workspace.")
    return _details(row.Replay, row.connection)


def _shown() -> sa.Select[Replay, str]:
    return (
        sa.select(Replay, Connection.public_id.label("connection"))
        .join(Connection, Connection.id == Replay.connection_id)
        .execution_options(populate_existing=True)
    )


def _details(replay: Replay, connection: str) -> ReplayDetails:
    types: list[str] | None = None if replay.event_types is None else orjson.loads(replay.event_types)
    return ReplayDetails(
        replayId=replay.replay_id,
        connectionId=connection,
        direction=replay.direction.value,
        status=replay.state.value,
        streamEpoch=replay.stream_epoch,
        fromSequence=replay.from_sequence,
        toSequence=replay.to_sequence,
        since=rfc3339(replay.since),
        until=rfc3339(replay.until),
        eventTypes=types,
        requestedBy=replay.requested_by,
        count=replay.count,
        stored=replay.stored,
        refused=replay.refused,
        progress=_progress(replay),
        error=replay.error_code,
        errorDetail=replay.error_detail,
        createdAt=rfc3339(replay.created_at),
        updatedAt=rfc3339(replay.updated_at),
        finishedAt=rfc3339(replay.finished_at),
    )


def _progress(replay: Replay) -> float | None:
    """The part that is done, 0 to 1; None where nobody knows how much there is."""
    if replay.state is ReplayState.COMPLETE:
        return 1.0
    if replay.direction is Direction.OUTGOING:
        first, last, done = replay.first_sequence or 1, replay.last_sequence or 0, replay.done_to
    elif replay.since is None and replay.until is None and replay.event_types is None:
        stream = streams.newest(replay.connection_id, Direction.INCOMING)
        first = replay.from_sequence or 1
        last = replay.to_sequence or (stream.head_sequence if stream else 0)
        done = first - 1 + replay.count
    else:
        return None
    size = last - first + 1
    return None if size <= 0 else min(1.0, max(0.0, (done - first + 1) / size))
