"""Epochs: the outgoing stream of a connection, and beginning anew."""

from typing import NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of
from app.models import Delivery, Direction, Stream
from app.protocol.states import DeliveryState

_STREAM = table_of(Stream)
_DELIVERY = table_of(Delivery)


class Counter(NamedTuple):
    """The current outgoing stream: row, epoch, last number given, since when (ms)."""

    stream_id: int
    epoch: str
    head: int
    created_at: int


_CURRENT = (
    sa.select(_STREAM.c.id, _STREAM.c.epoch, _STREAM.c.head_sequence, _STREAM.c.created_at)
    .where(
        _STREAM.c.connection_id == sa.bindparam("connection_id"), _STREAM.c.direction == Direction.OUTGOING
    )
    .order_by(_STREAM.c.id.desc())
    .limit(1)
)


_THIS = sa.update(_STREAM).where(_STREAM.c.id == sa.bindparam("stream"))
_ADVANCE = _THIS.values(head_sequence=sa.bindparam("to"))
_NOTE_CONTIGUOUS = _THIS.values(contiguous=sa.bindparam("to"))


def current_counter(connection_id: int) -> Counter:
    """The current stream, made if there is none. Called with the connection locked."""
    row = db.session.connection().execute(_CURRENT, {"connection_id": connection_id}).one_or_none()
    return _begin(connection_id) if row is None else Counter(*row)


def advance(counter: Counter, head: int) -> None:
    """Note the last number given."""
    db.session.connection().execute(_ADVANCE, {"stream": counter.stream_id, "to": head})


def note_contiguous(stream_id: int, contiguous: int) -> None:
    """Note the peer's own word for what it has."""
    db.session.connection().execute(_NOTE_CONTIGUOUS, {"stream": stream_id, "to": contiguous})


def new_epoch(connection_id: int) -> Counter:
    """Begin anew: what is unacknowledged is numbered again, in the order it had. Nothing is lost by it.

    Called inside `transaction()` with the connection locked.
    """
    db.session.connection().execute(
        sa.update(_DELIVERY)
        .where(
            _DELIVERY.c.connection_id == connection_id,
            _DELIVERY.c.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)),
            _DELIVERY.c.sequence.is_not(None),
        )
        .values(state=DeliveryState.PENDING, sequence=None, stream_id=None)
    )
    return _begin(connection_id)


def _begin(connection_id: int) -> Counter:
    epoch, now = str(uuid4()), now_ms()
    row = db.session.connection().execute(
        sa.insert(_STREAM)
        .values(
            connection_id=connection_id,
            direction=Direction.OUTGOING,
            epoch=epoch,
            head_sequence=0,
            contiguous=0,
            ranges="[]",
            created_at=now,
        )
        .returning(_STREAM.c.id)
    )
    return Counter(row.scalar_one(), epoch, 0, now)
