"""Held: what this side holds under the numbers of a stream.

publisher    the deliveries that the peer acknowledged
subscriber   the events that came, also those whose text went by age, under every number that they had
"""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from app.database import db, table_of
from app.models import Delivery, Direction, Event, EventAlias, EventTrace, Stream
from app.protocol.comparison import Held
from app.protocol.states import DeliveryState

_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)
_ALIAS = table_of(EventAlias)
_TRACE = table_of(EventTrace)

_FIRST: sa.BindParameter[int] = sa.bindparam("first", type_=sa.BigInteger)
_LAST: sa.BindParameter[int] = sa.bindparam("last", type_=sa.BigInteger)
_STREAM: sa.BindParameter[int] = sa.bindparam("stream", type_=sa.BigInteger)

_SENT = (
    sa.select(_DELIVERY.c.sequence, _EVENT.c.message_id, _EVENT.c.digest)
    .join_from(_DELIVERY, _EVENT, _EVENT.c.id == _DELIVERY.c.event_id)
    .where(
        _DELIVERY.c.connection_id == sa.bindparam("connection", type_=sa.BigInteger),
        _DELIVERY.c.state == DeliveryState.DELIVERED,
        _DELIVERY.c.sequence.between(_FIRST, _LAST),
        _DELIVERY.c.stream_id == _STREAM,
    )
)
_STORED = sa.union_all(
    sa.select(_TRACE.c.sequence, _TRACE.c.message_id, _TRACE.c.digest).where(
        _TRACE.c.stream_id == _STREAM, _TRACE.c.sequence.between(_FIRST, _LAST)
    ),
    sa.select(_ALIAS.c.sequence, _EVENT.c.message_id, _EVENT.c.digest)
    .join_from(_ALIAS, _EVENT, _EVENT.c.id == _ALIAS.c.event_id)
    .where(_ALIAS.c.stream_id == _STREAM, _ALIAS.c.sequence.between(_FIRST, _LAST)),
    sa.select(_EVENT.c.sequence, _EVENT.c.message_id, _EVENT.c.digest).where(
        _EVENT.c.stream_id == _STREAM, _EVENT.c.sequence.between(_FIRST, _LAST)
    ),
)


def held(stream: Stream, ranges: Sequence[tuple[int, int]]) -> dict[int, Held]:
    """What is held in these ranges, both ends included, by number."""
    found: dict[int, Held] = {}
    for first, last in _joined(ranges):
        bounds = {"stream": stream.id, "first": first, "last": last}
        rows: Iterable[Any]
        if stream.direction is Direction.OUTGOING:
            rows = db.session.connection().execute(_SENT, {**bounds, "connection": stream.connection_id})
        else:
            rows = db.session.connection().execute(_STORED, bounds)
        found |= {row.sequence: Held(*row) for row in rows}
    return found


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours as one, so that few questions are asked of the database."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first == found[-1][1] + 1:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found
