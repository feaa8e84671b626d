"""Receipts: what the peers' signed acks say about one of our events."""

from typing import Any, TypedDict

import orjson
import sqlalchemy as sa

from app.database import db
from app.models import Attempt, Connection, Delivery, Direction, Event, event_named


class Receipt(TypedDict):
    """One entry of a verified ack. `digest` (base64 SHA-256) says which content it is for."""

    connectionId: str
    ackId: str
    instanceId: str
    keyId: str
    status: str
    digest: str
    timestamp: int


def digest_of(workspace_id: int, message_id: str) -> str | None:
    """Base64 SHA-256 of the event's signing input."""
    return db.session.scalar(
        sa.select(Event.digest)
        .where(event_named(workspace_id, message_id))
        .order_by(Event.id.desc())
        .limit(1)
    )


def receipts_of(workspace_id: int, message_id: str) -> list[Receipt]:
    """The receipts of one of our events, one for each delivery whose latest attempt was acknowledged."""
    rows = db.session.execute(
        sa.select(Connection.public_id, Attempt.ack)
        .join(Delivery, Delivery.connection_id == Connection.id)
        .join(Attempt, Attempt.id == Delivery.attempt_id)
        .join(Event, Event.id == Delivery.event_id)
        .where(event_named(workspace_id, message_id))
        .where(Event.direction == Direction.OUTGOING, Attempt.ack.is_not(None))
        .order_by(Delivery.id)
    ).all()
    return [
        receipt
        for connection, ack in rows
        for receipt in _entries(connection, orjson.loads(ack or "{}"), message_id)
    ]


def _entries(connection: str, ack: dict[str, Any], message_id: str) -> list[Receipt]:
    """The entries for this event: of an ack batch its own entry, of a single ack the ack itself."""
    return [
        Receipt(
            connectionId=connection,
            ackId=ack["messageId"],
            instanceId=ack["instanceId"],
            keyId=ack["keyId"],
            status=entry["status"],
            digest=entry["digest"],
            timestamp=ack["timestamp"],
        )
        for entry in ack.get("acks", [ack])
        if entry["correlationId"] == message_id
    ]
