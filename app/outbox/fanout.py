"""Fan-out: which connections get an event.

The publisher filters: what no active grant covers never becomes a delivery. An event that several
subscriptions of one connection cover is sent once.
"""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from app.database import db, table_of
from app.federation.subscriptions import grants_for
from app.models import Delivery, Event
from app.protocol.event_types import Matcher
from app.protocol.states import DeliveryState

#: Events of one statement; SQLite takes 32,766 parameters.
_PAGE = 1_000

_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)

_DELIVER = sa.insert(_DELIVERY).from_select(
    [
        "workspace_id",
        "event_id",
        "connection_id",
        "event_type",
        "state",
        "attempts",
        "refusals",
        "next_attempt_at",
        "trigger",
        "created_at",
    ],
    sa.select(
        _EVENT.c.workspace_id,
        _EVENT.c.id,
        sa.bindparam("to_connection", type_=sa.BigInteger),
        _EVENT.c.event_type,
        sa.literal(DeliveryState.PENDING, _DELIVERY.c.state.type),
        sa.literal(0, sa.Integer),
        sa.literal(0, sa.Integer),
        _EVENT.c.created_at,
        sa.literal("auto", sa.String),
        _EVENT.c.created_at,
    )
    .where(
        _EVENT.c.message_id.in_(sa.bindparam("message_ids", expanding=True)),
        # Ours, not one that came in. Said so that no planner starts with all that are ours: a plain IS NULL
        # has an index, and SQLite prefers it to that of the ids.
        sa.func.coalesce(_EVENT.c.connection_id, 0) == 0,
    )
    .order_by(_EVENT.c.id),
    include_defaults=False,
)


def subscribers(workspace_id: int, event_types: Iterable[str]) -> dict[str, list[int]]:
    """For each event type the ids of the connections that get it, ascending."""
    matcher = Matcher((pattern, connection_id) for connection_id, pattern in grants_for(workspace_id))
    return {event_type: sorted(set(matcher.find(event_type))) for event_type in set(event_types)}


def store_deliveries(message_ids: Mapping[int, Sequence[str]]) -> None:
    """Store a delivery of each event of ours {connection id: messageIds}, one statement a connection."""
    connection = db.session.connection()
    for connection_id, ids in message_ids.items():
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            connection.execute(_DELIVER, {"to_connection": connection_id, "message_ids": page})
