"""Sick peers: what thousands of events that wait for a dead peer, and peers that hang, cost the healthy ones.

The sick peers are rows in the publisher's database, made as a connection would make them, whose addresses
lead to a port where nobody listens, and to a server that accepts every connection and never answers.
"""

import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import sqlalchemy as sa

from app import create_app
from app.config import Config
from app.database import db
from app.models import Workspace
from bench.work import EVENT_TYPE, Pair, publish_body
from tests.engines import free_port
from tests.exchange import RemotePeer, connect, subscribe

#: Peers that accept a connection and then hang.
HANGING = 20
DEAD_TYPE, HANGING_TYPE = "sick.dead", "sick.hanging"


class Costs(NamedTuple):
    """What a healthy peer's events took alone, and beside sick ones. Times in ms, rates in events/s."""

    alone: list[float]
    beside_dead: list[float]
    beside_hanging: list[float]
    rate_alone: float
    rate_beside: float
    #: Of a queue that waited for a healthy peer, once that is there again.
    rate_after_outage: float

    def growth(self, beside: list[float]) -> float:
        """By how much the median grew, as a part of what it was alone."""
        return statistics.median(beside) / statistics.median(self.alone) - 1


def measure(pair: Pair, lone: int, waiting: int, events: int) -> Costs:
    """Measure a pair that is up; the last measurement with it, since the sick connections stay.

    lone: events sent one by one; waiting: events that wait for the dead peer; events: of a batch run.
    """
    alone = pair.lone_events(lone)
    rate_alone = pair.batches(events, 100, 2).rate
    rate_after_outage = _after_outage(pair, events)
    with _hanging_server() as port:
        _add_peers(pair, port)
        size = min(waiting, 500)
        pair.publish(waiting // size, "/events/publish/batch", publish_body(DEAD_TYPE, size), 1)
        beside_dead = pair.lone_events(lone)
        # All twenty are asked for the first time in this moment, by workers that know nothing of them yet.
        pair.publish(1, "/events/publish/batch", publish_body(HANGING_TYPE, 10), 1)
        beside_hanging = pair.lone_events(lone, warm_up=0)
        rate_beside = pair.batches(events, 100, 2).rate
        # Only so that the instance ends without waiting for answers that never come.
        pair.drop_sick()
    return Costs(alone, beside_dead, beside_hanging, rate_alone, rate_beside, rate_after_outage)


def _after_outage(pair: Pair, events: int) -> float:
    """Events a second from the moment in which a queue of full batches may go again."""
    with pair.held_back():
        pair.publish(events // 100, "/events/publish/batch", publish_body(EVENT_TYPE, 100), 2)
        started = time.perf_counter()
    pair.wait_until_delivered()
    return events / (time.perf_counter() - started)


def _add_peers(pair: Pair, port: int) -> None:
    """The dead peer and the hanging ones, each with a connection and a subscription of its own."""
    app = create_app(Config.from_env(pair.alpha.environ))
    with app.app_context():
        workspace = db.session.scalars(sa.select(Workspace).order_by(Workspace.id).limit(1)).one()
        dead = connect(workspace, RemotePeer(base_url=f"http://127.0.0.1:{free_port()}"))
        subscribe(dead, DEAD_TYPE)
        for _ in range(HANGING):
            hanging = connect(workspace, RemotePeer(base_url=f"http://127.0.0.1:{port}"))
            subscribe(hanging, HANGING_TYPE)
        db.session.remove()
        db.engine.dispose()


@contextmanager
def _hanging_server() -> Iterator[int]:
    """Port of a server that takes connections and reads nothing, until the end."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=256) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in held:
                connection.close()
