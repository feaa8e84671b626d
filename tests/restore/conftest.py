"""Two instances that exchange events, and whose databases can be put back to what they were."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from app import clock
from app.clock import FrozenClock
from app.database import db, transaction
from app.federation import subscriptions
from app.inbox import replays
from app.models import Connection, Delivery, Direction, Event, Subscription
from app.outbox import deliver, heartbeats, replay
from app.outbox.publish import NewEvent, publish_events
from app.protocol.states import DeliveryState
from tests.engines import PostgreSQL
from tests.federation.conftest import Pair, Side, connected, make_side, no_wait, pair  # noqa: F401


@dataclass
class Copies:
    """Copies of databases while the instance runs, and putting one back while it is stopped."""

    folder: Path
    server: PostgreSQL | None
    made: list[str] = field(default_factory=list)

    def take(self, side: Side) -> str:
        """A copy of the side's database as it is now; its name."""
        with side.app.app_context():
            db.session.remove()
            url = db.engine.url
            db.engine.dispose()
        if self.server is None:
            name = str(self.folder / f"copy-{len(self.made)}.db")
            with closing(sqlite3.connect(str(url.database))) as source:
                source.execute("VACUUM INTO ?", (name,))
        else:
            name = self.server.create(url.database)
        self.made.append(name)
        return name

    def put_back(self, side: Side, copy: str) -> None:
        """Make the side's database what it was when the copy was taken."""
        with side.app.app_context():
            db.session.remove()
            database = str(db.engine.url.database)
            db.engine.dispose()
        if self.server is None:
            for suffix in ("-wal", "-shm"):
                Path(database + suffix).unlink(missing_ok=True)
            shutil.copy(copy, database)
        else:
            self.server.replace(database, copy)


@pytest.fixture
def copies(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Copies]:
    """copies.take(side), copies.put_back(side, copy)."""
    server = request.getfixturevalue("postgresql") if engine == "postgresql" else None
    made = Copies(tmp_path, server)
    yield made
    if server is not None:
        for name in made.made:
            server.drop(name)


@dataclass
class Exchange:
    """alpha is subscribed to beta's events; both work until nothing is left to do, with time to pass."""

    pair: Pair
    time: FrozenClock

    @property
    def publisher(self) -> Side:
        return self.pair.beta

    @property
    def subscriber(self) -> Side:
        return self.pair.alpha

    def publish(self, number: int) -> list[str]:
        """messageIds of new events of the publisher, not delivered yet."""
        side = self.publisher
        events = [NewEvent("task.created", {"n": n}) for n in range(number)]
        made = side.do(publish_events, side.workspace_id, events)
        return [event.message_id for event in made]

    def deliver(self) -> None:
        """Send what is due at the publisher, once."""
        self.publisher.do(deliver.drain, self.publisher.connection().id)

    def settle(self) -> None:
        """Let a quarter of an hour pass, and do all that is due at each of its moments."""
        for seconds in (1, 11, 31, 31, 301, 31, 31, 301, 31, 31):
            self.time.advance(seconds * 1_000)
            for side in (self.pair.alpha, self.pair.beta):
                side.do(_sweep)
            self.pair.settle()
            self.deliver()
            self.pair.settle()

    def sent(self) -> dict[str, DeliveryState]:
        """At the publisher: what became of each event, by messageId."""
        with self.publisher.app.app_context():
            rows = db.session.execute(
                sa.select(Event.message_id, Delivery.state).join(Delivery, Delivery.event_id == Event.id)
            ).all()
            db.session.rollback()
        return {row.message_id: row.state for row in rows}

    def stored(self) -> list[str]:
        """At the subscriber: the messageIds of all rows, twice what is there twice."""
        rows = self.subscriber.rows(Event, Event.direction == Direction.INCOMING)
        return [row.message_id for row in rows]


def _sweep() -> None:
    with transaction():
        # What failed meanwhile goes at once; the back-off is not what is tested here.
        db.session.execute(sa.update(Connection).values(retry_at=0))
        db.session.execute(sa.update(Delivery).values(next_attempt_at=0))
    replays.sweep()
    heartbeats.beat_due()


@pytest.fixture
def exchange(
    pair: Pair,  # noqa: F811 - that is how a fixture is used
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Exchange]:
    """Two connected instances; the clock of both stands still until it is moved."""
    monkeypatch.setattr(replay, "PACE_MS", 0)
    with clock.frozen_at(clock.now_ms()) as frozen:
        pair.connect()
        subscription = pair.subscribe("task.*")
        [asked] = pair.beta.rows(Subscription)
        pair.beta.do(subscriptions.approve, pair.beta.workspace_id, asked.public_id)
        pair.settle()
        assert subscription.event_type == "task.*"
        yield Exchange(pair, frozen)
