"""Connections as they are shown, and where their streams stand."""

from collections.abc import Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import selectinload
from sqlalchemy.orm.strategy_options import joinedload

from app.database import db
from app.federation import identity, peers, streams
from app.models import Connection, Delivery, Direction, Peer, PeerKey, Stream, StreamGap, Workspace
from app.protocol.errors import NotFound
from app.protocol.keys import KeyStatus, pairing_code
from app.protocol.ranges import Coverage, holes
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reports.details import (
    WAITING_CAP,
    ConnectionDetails,
    EpochDetails,
    MissingRange,
    StreamDetails,
)
from app.reports.paging import ListKey, Page, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339

#: Gaps shown of a stream at most, newest first in the database, ascending in the answer.
_GAPS_SHOWN = 1_000

#: Earlier epochs shown at most.
_EPOCHS_SHOWN = 20


def is_visible() -> sa.ColumnElement[bool]:
    """A stranger's request is shown to nobody before the document that it claims bore it out."""
    return Connection.checked_at.is_not(None)


def connection_row(workspace_id: int, public_id: str) -> Connection:
    """The connection with this id in the workspace. Raises NotFound."""
    connection: Connection | None = db.session.scalar(
        _with_peer(sa.select(Connection))
        .where(Connection.workspace_id == workspace_id, Connection.public_id == public_id, is_visible())
        .execution_options(populate_existing=True)
    )
    if connection is None:
        raise NotFound("There is no such connection in this workspace.")
    return connection


def row_number(workspace_id: int, public_id: str) -> int | None:
    """The connection's row number, for filters; None if this workspace has no such connection."""
    return db.session.scalar(
        sa.select(Connection.id).where(
            Connection.workspace_id == workspace_id, Connection.public_id == public_id, is_visible()
        )
    )


def workspace_public_id(workspace_id: int) -> str:
    """The workspace's public id; read once for the rows of a list."""
    return db.session.scalars(sa.select(Workspace.public_id).where(Workspace.id == workspace_id)).one()


def get_connection_details(workspace_id: int, public_id: str) -> ConnectionDetails:
    """One connection. Raises NotFound."""
    return connection_details(connection_row(workspace_id, public_id))


def list_connections(
    workspace_id: int, *, status: str | None = None, limit: int = 50, cursor: str | None = None
) -> Page[ConnectionDetails]:
    """Connections, newest first. Raises InvalidCursor."""
    key = ListKey("connections", workspace_id, {"status": status})
    after = read_cursor(key, cursor)
    query = _with_peer(sa.select(Connection)).where(Connection.workspace_id == workspace_id, is_visible())
    if status is not None:
        query = query.where(Connection.status == ConnectionStatus(status))
    if after is not None:
        query = query.where(Connection.id < after[0])
    query = query.order_by(Connection.id.desc()).limit(check_limit(limit) + 1)
    rows, more = cut(db.session.scalars(query).all(), limit)
    waiting = count_waiting([row.id for row in rows])
    workspace = workspace_public_id(workspace_id)
    details = [_details(row, workspace, waiting[row.id]) for row in rows]
    return Page(details, write_cursor(key, [rows[-1].id]) if more else None, more)


def connection_details(connection: Connection) -> ConnectionDetails:
    """How a connection is shown."""
    workspace = workspace_public_id(connection.workspace_id)
    return _details(connection, workspace, count_waiting([connection.id])[connection.id])


def streams_of(connection_id: int, direction: Direction) -> StreamDetails:
    """The counters of one direction; all zero before there is a stream.

    `missing` of the incoming side: holes, and numbers that the sender gave up or we did. Of the outgoing
    side: what we gave up, or the peer refused.
    """
    stream = streams.newest(connection_id, direction)
    if stream is None:
        return StreamDetails(
            streamEpoch=None, contiguous=0, headSequence=0, missing=[], earlier=[], wentBackAt=None
        )
    return StreamDetails(**_epoch(stream), earlier=_earlier(stream), wentBackAt=rfc3339(stream.went_back_at))


def _epoch(stream: Stream) -> EpochDetails:
    missing = _given_up(stream) if stream.direction is Direction.OUTGOING else _told_gaps(stream.id)
    if stream.direction is Direction.INCOMING:
        missing += _holes(stream)
    return EpochDetails(
        streamEpoch=stream.epoch,
        contiguous=stream.contiguous,
        headSequence=stream.head_sequence,
        missing=sorted(missing, key=lambda gap: gap["fromSequence"]),
    )


def _earlier(newest: Stream) -> list[EpochDetails]:
    """Earlier epochs of which something is missing, newest first."""
    if newest.direction is Direction.OUTGOING:
        # What was not acknowledged then was numbered anew.
        return []
    has_gap = sa.exists().where(StreamGap.stream_id == Stream.id)
    found = db.session.scalars(
        sa.select(Stream)
        .where(
            Stream.connection_id == newest.connection_id,
            Stream.direction == newest.direction,
            Stream.id < newest.id,
            sa.or_(Stream.contiguous < Stream.head_sequence, has_gap),
        )
        .order_by(Stream.id.desc())
        .limit(_EPOCHS_SHOWN)
        .execution_options(populate_existing=True)
    )
    return [_epoch(stream) for stream in found]


def _given_up(stream: Stream) -> list[MissingRange]:
    """What was numbered and did not arrive, nor will by itself, with the reason that the peer was told."""
    rows = db.session.execute(
        sa.select(Delivery.sequence, Delivery.state, Delivery.error_code)
        .where(
            Delivery.connection_id == stream.connection_id,
            Delivery.state.in_((DeliveryState.DEAD, DeliveryState.WITHDRAWN)),
            Delivery.sequence.is_not(None),
            Delivery.stream_id == stream.id,
        )
        .order_by(Delivery.sequence.desc())
        .limit(_GAPS_SHOWN)
    ).all()
    found: list[MissingRange] = []
    for row in reversed(rows):
        reason = "withdrawn" if row.state is DeliveryState.WITHDRAWN else "refused"
        reason = "expired" if row.error_code == "expired" else reason
        if found and found[-1]["toSequence"] + 1 == row.sequence and found[-1]["reason"] == reason:
            found[-1]["toSequence"] = row.sequence
        else:
            found.append(MissingRange(fromSequence=row.sequence, toSequence=row.sequence, reason=reason))
    return found


def _with_peer(query: sa.Select[Connection]) -> sa.Select[Connection]:
    return query.options(joinedload(Connection.peer).options(selectinload(Peer.keys)))


#: Correlated two levels deep, which SQLAlchemy cannot write: each count ends in the index, at the cap.
_COUNT_WAITING = sa.text(
    "SELECT c.id,"
    " (SELECT count(*) FROM (SELECT 1 FROM delivery AS d"
    " WHERE d.connection_id = c.id AND d.state = :pending LIMIT :cap) AS pending)"
    " + (SELECT count(*) FROM (SELECT 1 FROM delivery AS d"
    " WHERE d.connection_id = c.id AND d.state = :sending LIMIT :cap) AS sending)"
    " FROM connection AS c WHERE c.id IN :ids"
).bindparams(sa.bindparam("ids", expanding=True))


def count_waiting(connection_ids: Sequence[int], cap: int = WAITING_CAP) -> dict[int, int]:
    """Deliveries that wait, by connection; counted in the index alone, and no further than the cap."""
    values = {
        "pending": DeliveryState.PENDING.value,
        "sending": DeliveryState.SENDING.value,
        "cap": cap,
        "ids": connection_ids,
    }
    rows = db.session.execute(_COUNT_WAITING, values)
    return {connection_id: min(number, cap) for connection_id, number in rows}


def _details(connection: Connection, workspace: str, waiting: int) -> ConnectionDetails:
    peer = connection.peer
    fingerprint = _fingerprint(peer)
    return ConnectionDetails(
        id=connection.public_id,
        wireConnectionId=connection.wire_connection_id,
        workspaceId=workspace,
        direction=connection.direction.value,
        remoteInstanceId=peer.instance_id if peer else connection.claimed_instance_id,
        remoteName=peer.name if peer else None,
        remoteUrl=peer.base_url if peer else connection.claimed_base_url,
        remoteWorkspace=connection.remote_workspace_slug or connection.to_workspace,
        status=connection.status.value,
        suspendedBy=_suspended_by(connection),
        keyReview=connection.key_review,
        fingerprint=fingerprint,
        newFingerprint=_new_fingerprint(connection),
        pairingCode=pairing_code(identity.local_instance().fingerprint, fingerprint) if fingerprint else None,
        verifiedAt=rfc3339(connection.verified_at),
        note=connection.note,
        reason=connection.reason,
        version=connection.version,
        features=orjson.loads(connection.features),
        clockSkewMs=connection.clock_skew_ms,
        lastReceivedAt=rfc3339(connection.last_received_at),
        lastDeliveredAt=rfc3339(connection.last_delivered_at),
        waiting=waiting,
        createdAt=rfc3339(connection.created_at),
        updatedAt=rfc3339(connection.updated_at),
    )


def _suspended_by(connection: Connection) -> Any:
    if connection.suspended_by_me:
        return "both" if connection.suspended_by_peer else "me"
    return "peer" if connection.suspended_by_peer else None


def _fingerprint(peer: Peer | None) -> str | None:
    """Of the key that the peer signs with; of the last one that it had if none is active."""
    keys: list[PeerKey] = peer.keys if peer else []
    active = [key for key in keys if key.status == KeyStatus.ACTIVE] or keys
    return active[-1].fingerprint if active else None


def _new_fingerprint(connection: Connection) -> str | None:
    """Of the key that waits for a person's decision."""
    if not connection.key_review or connection.peer is None:
        return None
    undecided = peers.undecided_keys(connection.peer)
    return undecided[0].fingerprint if undecided else None


def _told_gaps(stream_id: int) -> list[MissingRange]:
    rows = db.session.execute(
        sa.select(StreamGap.from_sequence, StreamGap.to_sequence, StreamGap.reason)
        .where(StreamGap.stream_id == stream_id)
        .order_by(StreamGap.from_sequence.desc())
        .limit(_GAPS_SHOWN)
    )
    return [MissingRange(fromSequence=low, toSequence=high, reason=reason) for low, high, reason in rows]


def _holes(stream: Stream) -> list[MissingRange]:
    ranges = tuple((first, last) for first, last in orjson.loads(stream.ranges))
    found = holes(Coverage(stream.contiguous, ranges), stream.head_sequence)
    return [MissingRange(fromSequence=first, toSequence=last, reason="missing") for first, last in found]
