"""Heartbeats: telling the peer of an idle stream how far it has come, so that a lost tail is found too (§6).

Every 5 minutes in which no event went; never repeated, since the next one says it. The stream's row says when
one is due, and is looked at once in that time, however many connections are busy.
"""

import logging

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of, transaction
from app.federation import controls, lifecycle, streams
from app.federation.streams import HEARTBEAT_MS
from app.models import Connection, ControlOut, ControlState, Delivery, Direction, Stream
from app.outbox import replay
from app.protocol.control import ControlType, Heartbeat
from app.protocol.states import ENDED, ConnectionStatus, DeliveryState

log = logging.getLogger(__name__)

_STREAM = table_of(Stream)
_DELIVERY = table_of(Delivery)


def beat_due(limit: int = 200) -> int:
    """Send the heartbeats that are due. How many. Commits each; safe to run twice."""
    due = (
        db.session.connection()
        .execute(
            sa.select(_STREAM.c.id, _STREAM.c.connection_id)
            .where(_STREAM.c.direction == Direction.OUTGOING, _STREAM.c.due_at <= now_ms())
            .order_by(_STREAM.c.due_at)
            .limit(limit)
        )
        .all()
    )
    db.session.rollback()
    return sum(_beat(stream_id, connection_id) for stream_id, connection_id in due)


def _beat(stream_id: int, connection_id: int) -> bool:
    """Say where the stream stands, if it is idle; and when to look again."""
    with transaction():
        connection = lifecycle.lock(connection_id)
        stream = db.session.get_one(Stream, stream_id, populate_existing=True)
        now = now_ms()
        if stream.due_at is None or stream.due_at > now:
            return False
        current = streams.newest(connection_id, Direction.OUTGOING)
        if connection.status in ENDED or current is None or current.id != stream_id:
            stream.due_at = None
            return False
        idle_since = connection.last_delivered_at or 0
        if idle_since + HEARTBEAT_MS > now:
            stream.due_at = idle_since + HEARTBEAT_MS
            return False
        stream.due_at = now + HEARTBEAT_MS
        if not _may_beat(connection):
            return False
        _forget_former(connection_id)
        controls.queue_control(
            connection,
            ControlType.HEARTBEAT,
            Heartbeat(stream.epoch, stream.head_sequence, replay.oldest_kept(connection_id, stream)),
        )
        return True


def _may_beat(connection: Connection) -> bool:
    """Whether it is active and idle: what has a number and waits to go again is no lost tail."""
    return (
        connection.status is ConnectionStatus.ACTIVE
        and not connection.key_review
        and controls.waiting(connection.id, ControlType.HEARTBEAT) is None
        and not _has_numbered(connection.id)
    )


def _has_numbered(connection_id: int) -> bool:
    waits = sa.exists().where(
        _DELIVERY.c.connection_id == connection_id,
        _DELIVERY.c.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)),
        _DELIVERY.c.sequence.is_not(None),
    )
    return bool(db.session.scalar(sa.select(waits)))


def _forget_former(connection_id: int) -> None:
    """Only the newest heartbeat tells anything, and there are 288 a day."""
    ended = (ControlState.ANSWERED, ControlState.REFUSED, ControlState.GIVEN_UP)
    db.session.execute(
        sa.delete(ControlOut).where(
            ControlOut.connection_id == connection_id,
            ControlOut.state.in_(ended),
            ControlOut.type == ControlType.HEARTBEAT.value,
        )
    )
