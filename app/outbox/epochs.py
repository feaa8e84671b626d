"""Epochs: the outgoing stream of a connection, and beginning anew."""

from typing import NamedTuple

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, read, table_of
from app.federation import streams
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


_THIS = sa.update(_STREAM).where(_STREAM.c.id == sa.bindparam("stream"))
_ADVANCE = _THIS.values(head_sequence=sa.bindparam("to"))
_TO: sa.BindParameter[int] = sa.bindparam("to", type_=sa.BigInteger)
_NOTE_CONTIGUOUS = _THIS.values(
    contiguous=_TO,
    went_back_at=sa.case(
        (_STREAM.c.contiguous > _TO, sa.bindparam("now", type_=sa.BigInteger)), else_=_STREAM.c.went_back_at
    ),
)


#: Read for every batch, so as plain values: making an object of the row takes ten times as long.
_CURRENT = (
    sa.select(_STREAM.c.id, _STREAM.c.epoch, _STREAM.c.head_sequence, _STREAM.c.created_at)
    .where(_STREAM.c.connection_id == sa.bindparam("connection"), _STREAM.c.direction == Direction.OUTGOING)
    .order_by(_STREAM.c.id.desc())
    .limit(1)
)


def current_counter(connection_id: int) -> Counter:
    """The current stream, made if there is none. Called with the connection locked."""
    found = read(_CURRENT, {"connection": connection_id}).one_or_none()
    return Counter(*found) if found is not None else _counter(streams.begin(connection_id))


def advance(counter: Counter, head: int) -> None:
    """Note the last number given."""
    db.session.connection().execute(_ADVANCE, {"stream": counter.stream_id, "to": head})


def note_contiguous(stream_id: int, contiguous: int) -> None:
    """Note the peer's own word for what it has.

    If it had more before, it came back from a backup: that is noted too, and the peer asks by itself (§3).
    """
    db.session.connection().execute(
        _NOTE_CONTIGUOUS, {"stream": stream_id, "to": contiguous, "now": now_ms()}
    )


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
    return _counter(streams.begin(connection_id))


def _counter(stream: Stream) -> Counter:
    return Counter(stream.id, stream.epoch, stream.head_sequence, stream.created_at)
