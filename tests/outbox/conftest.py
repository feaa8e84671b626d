"""A connection to a peer that stands at the wire."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app import clock
from app.database import db
from app.models import Delivery
from app.outbox import deliver
from app.outbox.publish import NewEvent, Published, publish_events
from tests.exchange import Scene, make_scene, subscribe


@pytest.fixture
def scene(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """An active connection whose peer is subscribed to `task.**`."""
    made = make_scene()
    subscribe(made.connection)
    monkeypatch.setattr(deliver, "client", lambda: made.peer)
    return made


@pytest.fixture
def publish(scene: Scene) -> Callable[..., list[Published]]:
    """publish(n, event_type): n events of the workspace."""

    def make(number: int = 1, event_type: str = "task.created", **payload: Any) -> list[Published]:
        events = [NewEvent(event_type, {"n": n, **payload}) for n in range(number)]
        return publish_events(scene.workspace.id, events)

    return make


@pytest.fixture
def rows(scene: Scene) -> Callable[[], list[Delivery]]:
    """rows(): all deliveries as they are in the database now, in order of their ids."""

    def read() -> list[Delivery]:
        db.session.rollback()
        db.session.expire_all()
        return list(db.session.scalars(sa.select(Delivery).order_by(Delivery.id)))

    return read


@pytest.fixture
def now() -> Iterator[clock.FrozenClock]:
    """A clock that stands still until a test moves it."""
    with clock.frozen_at(clock.now_ms()) as frozen:
        yield frozen
