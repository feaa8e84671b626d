"""Streams: the one way of reading where the counting over a connection stands."""

import sqlalchemy as sa

from app.database import db
from app.models import Direction, Stream


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
