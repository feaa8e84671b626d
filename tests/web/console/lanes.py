"""Lanes: connections of a workspace to named peers, and what is on its way over them."""

import uuid
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.clock import now_ms
from app.config import settings
from app.database import db, transaction
from app.federation.identity import ensure_identity
from app.models import Connection, Delivery, Event, Peer, Workspace
from app.models.ids import IdKind, public_id
from app.outbox.publish import NewEvent, publish_events
from app.protocol.states import DeliveryState
from tests.exchange import RemotePeer, connect, subscribe


@dataclass
class Lane:
    """An active connection whose peer is subscribed to everything."""

    workspace: Workspace
    connection: Connection
    name: str

    def publish(self, number: int = 1, event_type: str = "task.created", **payload: Any) -> list[str]:
        """Message ids of that many events, which wait."""
        events = [NewEvent(event_type, {"n": n, **payload}) for n in range(number)]
        return [published.message_id for published in publish_events(self.workspace.id, events)]

    def kill(
        self, number: int = 1, error: str = "payload_invalid", detail: str = "no", **more: Any
    ) -> list[str]:
        """Message ids of that many events whose deliveries over this connection were given up."""
        messages = self.publish(number, **more)
        now = now_ms()
        self.change(
            messages,
            state=DeliveryState.DEAD,
            error_code=error,
            error_detail=detail,
            attempts=1,
            ended_at=now,
        )
        return messages

    def change(self, messages: list[str], **columns: Any) -> None:
        """Give the deliveries of these events over this connection other values."""
        rows = [row.id for row in self.rows(messages)]
        with transaction():
            db.session.execute(sa.update(Delivery).where(Delivery.id.in_(rows)).values(**columns))

    def set(self, **columns: Any) -> None:
        """Give the connection other values."""
        with transaction():
            db.session.execute(
                sa.update(Connection).where(Connection.id == self.connection.id).values(**columns)
            )

    def rows(self, messages: list[str] | None = None) -> list[Delivery]:
        """The deliveries over this connection as they are now, in order of their ids."""
        db.session.rollback()
        db.session.expire_all()
        query = sa.select(Delivery).where(Delivery.connection_id == self.connection.id).order_by(Delivery.id)
        found = list(db.session.scalars(query))
        if messages is None:
            return found
        wanted = sa.select(Event.id).where(Event.message_id.in_(messages))
        numbers = set(db.session.scalars(wanted))
        return [row for row in found if row.event_id in numbers]

    def ids(self) -> list[str]:
        """Public ids of the deliveries over this connection."""
        return [public_id(IdKind.DELIVERY, row.id) for row in self.rows()]

    def states(self) -> list[str]:
        """The states of the deliveries over this connection."""
        return [row.state.value for row in self.rows()]


def make_lane(workspace: Workspace, name: str = "Birch Freight", pattern: str = "**", **columns: Any) -> Lane:
    """A new peer of that name, connected to the workspace and subscribed to what fits the pattern."""
    ensure_identity(settings())
    peer = RemotePeer(base_url=f"http://{uuid.uuid4().hex[:8]}.example")
    connection = connect(workspace, peer, **columns)
    with transaction():
        db.session.execute(sa.update(Peer).where(Peer.id == connection.peer_id).values(name=name))
    subscribe(connection, pattern)
    return Lane(workspace, connection, name)


def another_workspace() -> Workspace:
    """A workspace of other people."""
    with transaction():
        workspace = Workspace(
            public_id=str(uuid.uuid4()), slug=f"w-{uuid.uuid4().hex[:8]}", name="Others", created_at=now_ms()
        )
        db.session.add(workspace)
    return workspace
