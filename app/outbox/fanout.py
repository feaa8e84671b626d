"""Fan-out: which connections get an event.

The publisher filters: what no active grant covers never becomes a delivery. An event that several
subscriptions of one connection cover is sent once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from app.database import table_of
from app.federation.subscriptions import grants_for
from app.many import insert_many
from app.models import Delivery
from app.protocol.event_types import Matcher
from app.protocol.states import DeliveryState

_DELIVERY = table_of(Delivery)
_NEW = {"state": DeliveryState.PENDING, "attempts": 0, "refusals": 0, "trigger": "auto"}


def subscribers(workspace_id: int, event_types: Iterable[str]) -> dict[str, list[int]]:
    """For each event type the ids of the connections that get it, ascending."""
    matcher = Matcher((pattern, connection_id) for connection_id, pattern in grants_for(workspace_id))
    return {event_type: sorted(set(matcher.find(event_type))) for event_type in set(event_types)}


def store_deliveries(destinations: Iterable[tuple[int, int, Mapping[str, Any]]]) -> None:
    """Store a delivery for each (connection id, event id, row of the event), due at once.

    Those of one connection are sent in the order given here.
    """
    rows = [
        {
            "workspace_id": event["workspace_id"],
            "event_id": event_id,
            "connection_id": connection_id,
            "event_type": event["event_type"],
            "next_attempt_at": event["created_at"],
            "created_at": event["created_at"],
            **_NEW,
        }
        for connection_id, event_id, event in destinations
    ]
    if rows:
        insert_many(_DELIVERY, rows)
