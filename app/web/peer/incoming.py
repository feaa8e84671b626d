"""Incoming: events and late acks, as peers post them.

Each view is the order of protocol.md §9: admitted at the door (transport signature, JSON), read, looked up,
verified, and only then handed on.
"""

from functools import partial

import sqlalchemy as sa
from flask import Blueprint, Response, request

from app.database import db, transaction
from app.federation.identity import MAX_BATCH_EVENTS, MAX_EVENT_BYTES
from app.federation.lifecycle import lock
from app.federation.receiving import heard_from
from app.inbox.receive import handle_incoming_event, receive_batch, verify_entries
from app.models import Connection
from app.outbox.acknowledge import process_event_ack
from app.protocol.errors import AccessDenied, ConnectionClosed, TooLarge, invalid
from app.protocol.members import read_uuid
from app.protocol.messages import (
    EventAck,
    parse_any_ack,
    parse_event,
    parse_event_batch,
    verify_ack_batch,
    verify_event,
    verify_event_ack,
)
from app.protocol.states import ENDED, OPEN
from app.web.json import Answer
from app.web.peer import door
from app.web.peer.door import Sender

bp = Blueprint("peer_incoming", __name__, url_prefix="/api/v1/federation/incoming")


@bp.post("/event")
def event() -> Response:
    """One event outside the stream; its ack once it is committed."""
    admitted = door.admit()
    message = parse_event(admitted.value)
    named = _named_connection()
    if message.wire_size > MAX_EVENT_BYTES:
        raise TooLarge(f"an event has at most {MAX_EVENT_BYTES} bytes here")
    door.check_sender(admitted.sender, message.instance_id)
    connection = (
        door.sender_connection(admitted.sender, named) if named else _only_connection(admitted.sender)
    )
    verified = door.verify_message(message, connection, verify_event)
    door.charge(admitted.sender)
    ack = handle_incoming_event(connection, verified)
    return Answer(ack.to_wire())


@bp.post("/events")
def events() -> Response:
    """A batch of the stream; one signed ack for all of it."""
    admitted = door.admit()
    sender = admitted.sender
    batch = parse_event_batch(admitted.value, max_events=MAX_BATCH_EVENTS)
    door.check_sender(sender, sender.instance_id)
    connection = door.sender_connection(sender, batch.connection_id)
    # A connection that was found by the sender's keys has a peer.
    find_key = partial(door.message_key, connection.peer_id or 0, sender.instance_id)
    checked = verify_entries(batch, sender.instance_id, find_key)
    door.charge(sender, len(checked))
    return Answer(receive_batch(connection, batch, checked))


@bp.post("/event/ack")
def event_ack() -> Response:
    """An ack that comes later than its answer could."""
    admitted = door.admit()
    message = parse_any_ack(admitted.value)
    door.check_sender(admitted.sender, message.instance_id)
    connection = door.sender_connection(admitted.sender, message.connection_id)
    verified = (
        door.verify_message(message, connection, verify_event_ack)
        if isinstance(message, EventAck)
        else door.verify_message(message, connection, verify_ack_batch)
    )
    door.charge(admitted.sender)
    with transaction():
        locked = lock(connection.id)
        process_event_ack(locked, verified)
        heard_from(locked)
    return Response(status=204)


def _named_connection() -> str | None:
    """`?connectionId=` of the query, checked; None if there is none."""
    values = request.args.getlist("connectionId")
    if not values:
        return None
    if len(values) > 1:
        raise invalid("/connectionId", "is there more than once")
    return read_uuid({"connectionId": values[0]}, "connectionId", "")


def _only_connection(sender: Sender) -> Connection:
    """The only open connection of the sender (§7); or its latest ended one, where a repeat is a duplicate."""
    found = db.session.scalars(
        sa.select(Connection)
        .where(
            Connection.peer_id.in_(sender.peer_ids),
            Connection.checked_at.is_not(None),
            Connection.status.in_(OPEN | ENDED),
        )
        .order_by(Connection.id.desc())
    ).all()
    usable = [connection for connection in found if connection.status in OPEN]
    if len(usable) > 1:
        raise invalid("/connectionId", "is needed: there are several open connections", "required")
    if usable:
        return usable[0]
    closed = next((connection for connection in found if connection.activated_at is not None), None)
    if closed is None:
        raise ConnectionClosed() if found else AccessDenied()
    return closed
