"""A connection over which a peer sends us events."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask

from app.database import db
from app.federation.peers import message_key
from app.inbox import receive
from app.models import Direction, Event, Stream
from app.protocol.messages import parse_event_batch
from tests.exchange import Scene, make_scene, subscribe

EPOCH = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def scene(app: Flask) -> Scene:
    """An active connection; we are subscribed to the peer's `task.**`."""
    made = make_scene()
    subscribe(made.connection, direction=Direction.INCOMING)
    return made


#: take({sequence: event, ...}, epoch=...): the ack batch that the peer gets.
Take = Callable[..., dict[str, Any]]


@pytest.fixture
def take(scene: Scene) -> Take:
    """Receive a batch of {sequence: event}."""

    def receive_now(events: dict[int, Any], epoch: str = EPOCH, replay_id: str | None = None) -> Any:
        return receive_batch_of(scene, events, epoch, replay_id)

    return receive_now


def receive_batch_of(
    scene: Scene, events: dict[int, Any], epoch: str = EPOCH, replay_id: str | None = None
) -> Any:
    """Receive a batch of {sequence: event}; the ack batch that the peer gets."""
    entries = [{"sequence": number, "event": event} for number, event in events.items()]
    if replay_id:
        entries = [{**entry, "replayId": replay_id} for entry in entries]
    envelope = {
        "batchId": str(uuid.uuid4()),
        "connectionId": scene.connection.wire_connection_id,
        "streamEpoch": epoch,
        "events": entries,
    }
    batch = parse_event_batch(envelope, max_events=100)
    peer_id = scene.connection.peer_id
    checked = receive.verify_entries(
        batch, scene.peer.instance_id, lambda key_id: message_key([peer_id], key_id)
    )
    return orjson.loads(receive.receive_batch(scene.connection, batch, checked))


@pytest.fixture
def stored(scene: Scene) -> Callable[[], list[Event]]:
    """stored(): the incoming events in the database now, in order of their ids."""

    def read() -> list[Event]:
        db.session.rollback()
        db.session.expire_all()
        return list(db.session.scalars(sa.select(Event).order_by(Event.id)))

    return read


def stream(epoch: str = EPOCH) -> Stream:
    """The stream as it is in the database now."""
    db.session.rollback()
    db.session.expire_all()
    return db.session.scalars(sa.select(Stream).where(Stream.epoch == epoch)).one()


def outcomes(ack: dict[str, Any]) -> Sequence[str]:
    """Status of each entry, or its error code."""
    return [entry["error"]["code"] if "error" in entry else entry["status"] for entry in ack["acks"]]
