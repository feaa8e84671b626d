"""Streams: where the counting over a connection stands, and beginning anew.

The newest row of a direction is the current stream. `newest` reads it for all but the drain, which reads
plain values for every batch (`outbox.epochs`), and lists, which read those of many connections at once.
"""

import uuid

import sqlalchemy as sa

from app import clock
from app.database import db
from app.models import Direction, Stream

#: After so long without an event the peer is told how far the stream has come, ms (§6).
HEARTBEAT_MS = 300_000

#: Read for every request of a peer, so put together once.
_OF_DIRECTION = (
    sa.select(Stream)
    .where(Stream.connection_id == sa.bindparam("connection"), Stream.direction == sa.bindparam("direction"))
    .execution_options(populate_existing=True)
)
_NEWEST = _OF_DIRECTION.order_by(Stream.id.desc()).limit(1)
_OF_EPOCH = _OF_DIRECTION.where(Stream.epoch == sa.bindparam("epoch"))


def newest(connection_id: int, direction: Direction) -> Stream | None:
    """The current stream of one direction, as it is in the database now; None before there is one.

    OUTGOING: before the connection was active. INCOMING: before the first event or heartbeat.
    """
    return db.session.scalar(_NEWEST, {"connection": connection_id, "direction": direction})


def of_epoch(connection_id: int, direction: Direction, epoch: str) -> Stream | None:
    """The stream with this epoch, current or old."""
    asked = {"connection": connection_id, "direction": direction, "epoch": epoch}
    return db.session.scalar(_OF_EPOCH, asked)


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
