"""Withdraw: what waits for a peer that may not have it any more, or is gone.

Plugged into `app.federation.consequences`: called inside the transaction in which a grant or a connection
ended, so that both are one whole.
"""

from collections.abc import Iterable

import sqlalchemy as sa

from app.database import db, table_of
from app.federation.subscriptions import granted_patterns
from app.models import Delivery
from app.outbox import finish
from app.outbox.claim import is_granted
from app.protocol.states import DeliveryState

#: Deliveries that are ended by one statement.
_PAGE = 5_000

_DELIVERY = table_of(Delivery)


def withdraw(connection_id: int) -> int:
    """Withdraw the waiting deliveries that no active grant covers any more. How many.

    Numbered ones are told by a `gap`. What is in a request under way is left to its answer. Called inside
    `transaction()`; joins it.
    """
    patterns = frozenset(granted_patterns(connection_id))
    waiting = db.session.connection().execute(
        sa.select(_DELIVERY.c.event_type)
        .where(_DELIVERY.c.connection_id == connection_id, _DELIVERY.c.state == DeliveryState.PENDING)
        .distinct()
    )
    lost = [event_type for event_type in waiting.scalars() if not is_granted(event_type, patterns)]
    if not lost:
        return 0
    return _end(
        connection_id,
        finish.WITHDRAWN,
        _DELIVERY.c.state == DeliveryState.PENDING,
        _DELIVERY.c.event_type.in_(lost),
    )


def withdraw_lost(connection_id: int, event_types: Iterable[str]) -> int:
    """Withdraw what came back from a request undelivered, if its grant ended while it was away. How many.

    Called inside `transaction()`; joins it.
    """
    patterns = frozenset(granted_patterns(connection_id))
    if all(is_granted(event_type, patterns) for event_type in event_types):
        return 0
    return withdraw(connection_id)


def close_connection(connection_id: int) -> int:
    """Make the waiting deliveries of an ended connection dead letters (`connection_closed`). How many.

    Called inside `transaction()`; joins it.
    """
    return _end(
        connection_id,
        finish.CLOSED,
        _DELIVERY.c.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)),
    )


def _end(connection_id: int, ending: finish.Ending, *conditions: sa.ColumnElement[bool]) -> int:
    """End page by page, so that a million rows are never in memory at once."""
    ended = 0
    while True:
        rows = (
            db.session.connection()
            .execute(
                sa.select(_DELIVERY.c.id, _DELIVERY.c.event_id, _DELIVERY.c.stream_id, _DELIVERY.c.sequence)
                .where(_DELIVERY.c.connection_id == connection_id, *conditions)
                .order_by(_DELIVERY.c.sequence, _DELIVERY.c.id)
                .limit(_PAGE)
            )
            .all()
        )
        if not rows:
            return ended
        finish.finish(connection_id, rows, ending)
        ended += len(rows)
