"""Recovery of a whole instance: a worker that is killed in the middle, and a Redis that is wiped.

Each wait begins with a signal of what happened (the peer got a request, the process is gone, Redis is empty)
and ends with one of what is wanted; how long it took is what is tested.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import redis
import sqlalchemy as sa

from app import create_app, queue
from app.config import Config
from app.database import db
from app.models import Workspace
from tests.conftest import ENGINES
from tests.e2e.instance import Instance, connect, subscribe
from tests.exchange import RemotePeer
from tests.exchange import connect as connect_row
from tests.exchange import subscribe as subscribe_row

#: What is wanted, in seconds.
AFTER_A_WORKER, AFTER_REDIS = 5.0, 10.0


@pytest.fixture(params=ENGINES[:1])
def engine(request: pytest.FixtureRequest) -> str:
    """Who recovers does so by leases and sweeps, which are proved on both engines elsewhere."""
    return str(request.param)


class SlowPeer:
    """A server that takes requests and answers none; says when one came."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self.server.getsockname()[1])
        self.asked: list[float] = []
        self.came = threading.Semaphore(0)
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self.server.accept()[0]
                connection.recv(1)
                self.asked.append(time.monotonic())
                self._held.append(connection)
                self.came.release()

    def close(self) -> None:
        """Let go of all who wait. Safe to repeat."""
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for connection in self._held:
            connection.close()


@pytest.fixture
def slow_peer() -> Iterator[SlowPeer]:
    """A peer that hangs, until the end."""
    made = SlowPeer()
    yield made
    made.close()


def connect_to(instance: Instance, port: int) -> None:
    """A connection of the instance to a peer at that port, as if both had agreed."""
    app = create_app(Config.from_env(instance.environ))
    with app.app_context():
        workspace = db.session.scalars(sa.select(Workspace).order_by(Workspace.id).limit(1)).one()
        subscribe_row(connect_row(workspace, RemotePeer(base_url=f"http://127.0.0.1:{port}")), "slow.**")
        db.session.remove()
        db.engine.dispose()


def publish(instance: Instance, event_type: str) -> None:
    instance.post("/events/publish", {"eventType": event_type, "payload": {}})


@pytest.mark.timeout(120)
def test_what_a_killed_worker_had_in_hand_is_taken_up_within_five_seconds(
    instance: Instance, slow_peer: SlowPeer
) -> None:
    connect_to(instance, slow_peer.port)
    publish(instance, "slow.event")
    assert slow_peer.came.acquire(timeout=20)

    for part in ("worker 1", "worker 2"):
        os.kill(instance.pid(part), signal.SIGKILL)
    killed_at = time.monotonic()

    assert slow_peer.came.acquire(timeout=AFTER_A_WORKER)
    assert slow_peer.asked[-1] - killed_at < AFTER_A_WORKER


@pytest.mark.timeout(180)
def test_a_wiped_redis_is_forgotten_within_ten_seconds(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    here, _ = connect(beta, alpha)
    subscribe(beta, alpha, "burst.**", here)
    wires = redis.Redis.from_url(queue.redis_url(Config.from_env(alpha.environ)))

    for wipes in range(1, 3):
        wires.flushall()
        wiped_at = time.monotonic()
        publish(alpha, "burst.event")
        beta.wait_for(
            lambda one, wipes=wipes: len(one.all("/events/messages?direction=incoming")) >= wipes,
            "the event",
            within_s=AFTER_REDIS,
        )
        alpha.wait_for(lambda one: one.api("GET", "/readyz").status == 200, "readiness", AFTER_REDIS)

        assert time.monotonic() - wiped_at < AFTER_REDIS


@pytest.mark.timeout(120)
def test_a_stop_waits_for_the_batch_that_a_worker_has_in_hand(
    pair: tuple[Instance, Instance], slow_peer: SlowPeer
) -> None:
    """The peer answers after everybody was asked to end: its answer is recorded all the same."""
    alpha, _ = pair
    connect_to(alpha, slow_peer.port)
    publish(alpha, "slow.event")
    assert slow_peer.came.acquire(timeout=20)

    stopping = threading.Thread(target=alpha.stop)
    stopping.start()
    alpha.wait_for(lambda one: one.log_lines("supervisor.stopping"), "the wish to stop")
    # Whoever hangs up has answered: with nothing, which is a failure that is recorded.
    slow_peer.close()
    stopping.join(30)

    [failed] = alpha.log_lines("delivery.failed")
    assert failed["outcome"] == "retry"
    assert not stopping.is_alive()
