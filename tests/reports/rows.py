"""Rows of the event log, made directly: lists are tested on what is there, however it came."""

import uuid
from typing import Any

import orjson

from app.clock import now_ms
from app.database import db, transaction
from app.models import Connection, Delivery, Direction, Event, EventStatus
from app.protocol.states import DeliveryState


def add_event(workspace_id: int, connection: Connection | None = None, **columns: Any) -> Event:
    """An event: incoming over the connection, or, without one, outgoing."""
    with transaction():
        event = Event(
            **{
                "workspace_id": workspace_id,
                "direction": Direction.OUTGOING if connection is None else Direction.INCOMING,
                "connection_id": None if connection is None else connection.id,
                "message_id": str(uuid.uuid4()),
                "event_type": "task.created",
                "body": orjson.dumps({"payload": {"n": 1}}).decode(),
                "signature": "c2ln",
                "key_id": "k-1",
                "digest": "",
                "timestamp": now_ms(),
                "status": EventStatus.DELIVERED,
                "created_at": now_ms(),
            }
            | columns
        )
        db.session.add(event)
        db.session.flush()
    return event


def add_delivery(event: Event, connection: Connection, **columns: Any) -> Delivery:
    """A delivery of the event over the connection."""
    with transaction():
        delivery = Delivery(
            **{
                "workspace_id": event.workspace_id,
                "event_id": event.id,
                "connection_id": connection.id,
                "event_type": event.event_type,
                "state": DeliveryState.PENDING,
                "next_attempt_at": event.created_at,
                "created_at": event.created_at,
            }
            | columns
        )
        db.session.add(delivery)
        db.session.flush()
    return delivery
