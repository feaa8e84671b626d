"""Two real instances in this process: alpha is subscribed to what beta publishes."""

from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from app.database import db, transaction
from app.models import Direction, Reconciliation
from app.outbox import deliver
from app.outbox.publish import NewEvent, publish_events
from app.reconciliation import run
from tests.federation.conftest import MakeSide, Pair, Side, make_side, no_wait

__all__ = ["make_side", "no_wait"]


@dataclass
class Stream:
    """The events that beta publishes on their way to alpha."""

    pair: Pair

    @property
    def subscriber(self) -> Side:
        """Who gets them."""
        return self.pair.alpha

    @property
    def publisher(self) -> Side:
        """Who sends them."""
        return self.pair.beta

    def publish(self, number: int) -> list[str]:
        """Publish so many events and let them arrive; their messageIds."""
        beta = self.publisher
        events = [NewEvent("task.created", {"n": n}) for n in range(number)]
        published = beta.do(publish_events, beta.workspace_id, events)
        self.drain()
        return [event.message_id for event in published]

    def drain(self) -> None:
        """Send what is due, also what follows from it."""
        connection_id = self.publisher.connection().id
        while self.publisher.do(deliver.drain, connection_id):
            pass

    def compare(self, direction: Direction, **bounds: int) -> Reconciliation:
        """Compare, asked by the publisher (OUTGOING) or the subscriber (INCOMING); what came of it."""
        side = self.publisher if direction is Direction.OUTGOING else self.subscriber
        side.do(run.start, side.connection().id, direction, asked_by="test", **bounds)
        self.pair.settle()
        return side.rows(Reconciliation)[-1]

    def change(self, side: Side, statement: Any) -> None:
        """Change a side's database behind its back."""
        with side.app.app_context(), transaction():
            if side.app.extensions["tidings"].database_url.startswith("sqlite"):
                db.session.execute(sa.text("PRAGMA defer_foreign_keys=ON"))
            db.session.execute(statement)


@pytest.fixture
def stream(make_side: MakeSide) -> Stream:
    """A stream from beta to alpha, of which nothing has been sent yet."""
    pair = Pair(make_side(), make_side(FEDERATION_AUTO_GRANT="task.**"))
    pair.connect()
    pair.subscribe("task.**")
    return Stream(pair)
