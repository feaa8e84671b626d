"""Finish: deliveries that end otherwise than by an ack, and what the peer is told of their numbers.

ending        state       gap, if it had a number
EXPIRED       dead        expired      older than 7 days
TOO_LARGE     dead        refused      larger than the peer takes
REFUSED       dead        refused      the request was refused; it held this event alone
WITHDRAWN     withdrawn   withdrawn    no grant covers it any more
CLOSED        dead        -            the connection has ended
DISCARDED     withdrawn   withdrawn    an operator gave it up
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of
from app.models import Delivery
from app.outbox import gaps
from app.outbox.rollup import sum_up
from app.protocol.control import GapReason
from app.protocol.states import DeliveryState

#: Rows of one statement; SQLite takes 32,766 parameters.
_PAGE = 5_000

_DELIVERY = table_of(Delivery)


class Ending(NamedTuple):
    """How deliveries end: state, error code and words, and the reason of the gap (None: nobody is told)."""

    state: DeliveryState
    code: str
    detail: str
    gap: GapReason | None


EXPIRED = Ending(DeliveryState.DEAD, "expired", "not acknowledged within 7 days", GapReason.EXPIRED)
TOO_LARGE = Ending(DeliveryState.DEAD, "too_large", "larger than the peer takes", GapReason.REFUSED)
WITHDRAWN = Ending(DeliveryState.WITHDRAWN, "withdrawn", "no grant covers it any more", GapReason.WITHDRAWN)
CLOSED = Ending(DeliveryState.DEAD, "connection_closed", "the connection has ended", None)


def refused(code: str, detail: str) -> Ending:
    """A request with this event alone was refused."""
    return Ending(DeliveryState.DEAD, code, detail, GapReason.REFUSED)


def discarded(reason: str) -> Ending:
    """An operator gave it up."""
    return Ending(DeliveryState.WITHDRAWN, "discarded", reason, GapReason.WITHDRAWN)


def finish(connection_id: int, rows: Sequence[Any], ending: Ending) -> None:
    """End the deliveries of one connection: rows with id, event_id, stream_id and sequence.

    Called inside `transaction()`. Events are summed up, and the numbers told to the peer.
    """
    connection = db.session.connection()
    for start in range(0, len(rows), _PAGE):
        page = rows[start : start + _PAGE]
        connection.execute(
            sa.update(_DELIVERY)
            .where(_DELIVERY.c.id.in_([row.id for row in page]))
            .values(
                state=ending.state,
                error_code=ending.code,
                error_detail=ending.detail,
                ended_at=now_ms(),
            )
        )
        sum_up([row.event_id for row in page])
    if ending.gap is not None:
        numbers = [(row.stream_id, row.sequence) for row in rows if row.sequence is not None]
        gaps.tell(connection_id, numbers, ending.gap)
