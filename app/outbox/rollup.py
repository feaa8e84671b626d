"""Roll-up: the status of an outgoing event sums its deliveries up, in the transaction that changed one."""

from collections.abc import Sequence
from functools import lru_cache

import sqlalchemy as sa

from app.database import db, is_sqlite, table_of
from app.many import one_of
from app.models import Delivery, Event, EventStatus
from app.protocol.states import DeliveryState

#: Events of one statement; SQLite takes 32,766 parameters.
_PAGE = 5_000

_EVENT = table_of(Event)
_DELIVERY = table_of(Delivery)


def _any(*states: DeliveryState) -> sa.ColumnElement[bool]:
    return sa.exists().where(_DELIVERY.c.event_id == _EVENT.c.id, _DELIVERY.c.state.in_(states))


def _literal(status: EventStatus) -> sa.ColumnElement[EventStatus]:
    return sa.literal(status, _EVENT.c.status.type)


_STATUS = sa.case(
    (_any(DeliveryState.PENDING, DeliveryState.SENDING), _literal(EventStatus.PENDING)),
    (
        _any(DeliveryState.DELIVERED),
        sa.case(
            (_any(DeliveryState.DEAD), _literal(EventStatus.PARTIAL)),
            else_=_literal(EventStatus.DELIVERED),
        ),
    ),
    (_any(DeliveryState.DEAD), _literal(EventStatus.DEAD)),
    else_=_literal(EventStatus.UNSUBSCRIBED),
)


@lru_cache(maxsize=2)
def _sum_up(on_sqlite: bool) -> sa.Update:
    # An event whose other deliveries are open stays as it is: writing it again would write its text again.
    return (
        sa.update(_EVENT)
        .where(one_of(_EVENT.c.id, "ids", on_sqlite), _EVENT.c.status != _STATUS)
        .values(status=_STATUS)
    )


_LOCK = (
    sa.select(_EVENT.c.id)
    .where(one_of(_EVENT.c.id, "ids", on_sqlite=False))
    .order_by(_EVENT.c.id)
    .with_for_update()
)


def sum_up(event_ids: Sequence[int]) -> None:
    """Bring the events' status in line with their deliveries. Called inside `transaction()`.

    The rows are locked by a statement of its own first: two drains that finish one event at the same time
    must each see what the other one committed, and on PostgreSQL a statement sees what was committed
    before it began.
    """
    connection = db.session.connection()
    ids = sorted(set(event_ids))
    for start in range(0, len(ids), _PAGE):
        page = {"ids": ids[start : start + _PAGE]}
        if not is_sqlite():
            connection.execute(_LOCK, page).all()
        connection.execute(_sum_up(is_sqlite()), page)
