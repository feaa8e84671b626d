"""Streams: the one way of reading where the counting over a connection stands."""

import uuid

import sqlalchemy as sa

from app import clock
from app.database import db
from app.models import Direction, Stream

#: After so long without an event the peer is told how far the stream has come, ms (§6).
HEARTBEAT_MS = 300_000


def newest(connection_id: int, direction: Direction) -> Stream | None:
    """The current stream of one direction, as it is in the database now; None before there is one.

    OUTGOING: before the connection was active. INCOMING: before the first event or heartbeat.
    """
    return db.session.scalar(
        sa.select(Stream)
        .where(Stream.connection_id == connection_id, Stream.direction == direction)
        .order_by(Stream.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )


def of_epoch(connection_id: int, direction: Direction, epoch: str) -> Stream | None:
    """The stream with this epoch, current or old."""
    return db.session.scalar(
        sa.select(Stream)
        .where(Stream.connection_id == connection_id, Stream.direction == direction, Stream.epoch == epoch)
        .execution_options(populate_existing=True)
    )


def begin(connection_id: int) -> Stream:
    """A new outgoing stream, which is the current one from now on, inside the caller's transaction.

    The one before owes no heartbeats any more.
    """
    now = clock.now_ms()
    db.session.execute(
        sa.update(Stream)
        .where(Stream.connection_id == connection_id, Stream.direction == Direction.OUTGOING)
        .values(due_at=None)
        .execution_options(synchronize_session=False)
    )
    stream = Stream(
        connection_id=connection_id,
        direction=Direction.OUTGOING,
        epoch=str(uuid.uuid4()),
        head_sequence=0,
        contiguous=0,
        ranges="[]",
        due_at=now + HEARTBEAT_MS,
        created_at=now,
    )
    db.session.add(stream)
    db.session.flush()
    return stream
