"""Waiting rows: what a delivery costs beside a thousand and a million others that wait for another peer."""

import statistics
from typing import NamedTuple

import sqlalchemy as sa

from app import create_app
from app.config import Config
from app.database import db
from app.models import Workspace
from bench import rows
from bench.work import Pair
from tests.exchange import RemotePeer, connect


class Costs(NamedTuple):
    """CPU of the publisher for an event in batches, and the median of lone events, both in ms."""

    cpu: float
    lone: float


def measure(pair: Pair, few: int, many: int, events: int, lone: int) -> tuple[Costs, Costs]:
    """The costs beside few waiting rows, and beside many."""
    place = _paused(pair)
    rows.outgoing(pair.database, place, rows.WAITING, few, days=1, attempts=False)
    rows.settle(pair.database)
    before = _costs(pair, events, lone)
    rows.outgoing(pair.database, place, rows.WAITING, many - few, days=1, first=few + 1, attempts=False)
    rows.settle(pair.database)
    return before, _costs(pair, events, lone)


def _costs(pair: Pair, events: int, lone: int) -> Costs:
    pair.batches(max(100, events // 10), 100, 2)
    cpu = pair.batches(events, 100, 2).publisher_cpu_ms
    return Costs(cpu, statistics.median(pair.lone_events(lone)))


def _paused(pair: Pair) -> rows.Place:
    """A connection of the publisher on which nothing is sent."""
    app = create_app(Config.from_env(pair.alpha.environ))
    with app.app_context():
        workspace = db.session.scalars(sa.select(Workspace).order_by(Workspace.id).limit(1)).one()
        made = connect(workspace, RemotePeer(), paused_outgoing=True)
        place = rows.Place(workspace.id, made.id)
        db.session.remove()
        db.engine.dispose()
    return place
