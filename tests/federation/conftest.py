"""Two instances in one process that speak HTTP with each other, each with its own database and Redis."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from app import clock
from app.access.workspaces import ensure_default
from app.config import settings
from app.database import db, transaction
from app.federation import asking, connections, controls, identity, requests, sending, subscriptions
from app.models import Connection, ControlOut, SigningKey, Subscription, Workspace
from app.protocol.keys import Algorithm, GeneratedKey, KeyStatus, generate, seal
from tests.conftest import MakeApp

Result = TypeVar("Result")
Row = TypeVar("Row")


@dataclass
class Side:
    """One instance: its app, and the server that answers for it."""

    app: Flask
    server: BaseWSGIServer

    @property
    def url(self) -> str:
        """Its baseUrl."""
        return str(self.app.extensions["tidings"].base_url)

    def do(self, call: Callable[..., Result], *args: Any, **named: Any) -> Result:
        """Call a service as a request or a job of this instance would."""
        with self.app.app_context():
            return call(*args, **named)

    def rows(self, model: type[Row], *conditions: Any) -> list[Row]:
        """Rows of a table, by id."""
        with self.app.app_context():
            statement = sa.select(model).where(*conditions).order_by(model.id)  # type: ignore[attr-defined]
            found: Sequence[Row] = db.session.scalars(statement).all()
            db.session.expunge_all()
            return list(found)

    def connection(self) -> Connection:
        """Its newest connection."""
        return self.rows(Connection)[-1]

    @property
    def workspace_id(self) -> int:
        """Its default workspace."""
        return self.rows(Workspace)[0].id

    def work(self) -> bool:
        """Do what is due: requests to check, control messages to send. Whether there was anything."""
        with self.app.app_context():
            unchecked = list(
                db.session.scalars(sa.select(Connection.id).where(Connection.checked_at.is_(None)))
            )
            due = list(
                db.session.scalars(
                    sa.select(ControlOut.connection_id).where(ControlOut.state.in_(controls.OPEN)).distinct()
                )
            )
            before = self.progress()
            for connection_id in unchecked:
                requests.check_request(connection_id)
            for connection_id in due:
                sending.send_controls(connection_id)
            return self.progress() != before

    def progress(self) -> list[Any]:
        """What changes whenever something was done."""
        db.session.rollback()
        controls_now = db.session.execute(
            sa.select(ControlOut.id, ControlOut.state, ControlOut.attempts).order_by(ControlOut.id)
        ).all()
        connections_now = db.session.execute(
            sa.select(Connection.id, Connection.status, Connection.checked_at).order_by(Connection.id)
        ).all()
        return [*controls_now, *connections_now]


@dataclass
class Pair:
    """Two instances."""

    alpha: Side
    beta: Side

    def settle(self) -> None:
        """Let both work until neither has anything left to do."""
        while any([self.alpha.work(), self.beta.work()]):
            pass

    def connect(self) -> None:
        """alpha asks, beta accepts."""
        alpha, beta = self.alpha, self.beta
        alpha.do(asking.initiate, alpha.workspace_id, beta.url)
        self.settle()
        beta.do(connections.accept, beta.connection().id)
        self.settle()

    def subscribe(self, pattern: str = "task.*") -> Subscription:
        """alpha subscribes to beta's events."""
        made = self.alpha.do(
            subscriptions.subscribe_to_event_type,
            self.alpha.workspace_id,
            self.alpha.connection().public_id,
            pattern,
        )
        self.settle()
        return made


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_args: Any) -> None:
        """Nothing: the tests' output is enough."""


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls answer at once with what is so; nobody works in the background here."""
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    monkeypatch.setattr(connections, "VERIFY_WAIT_S", 0.0)


MakeSide = Callable[..., Side]


@pytest.fixture
def make_side(make_app: MakeApp, no_wait: None) -> Iterator[MakeSide]:
    """make_side(FEDERATION_...=...): an instance that answers on loopback."""
    with ExitStack() as stack:
        sides: list[BaseWSGIServer] = []

        def make(**environ: str) -> Side:
            server = make_server("127.0.0.1", 0, _nobody, threaded=True, request_handler=_Quiet)
            server.daemon_threads = True
            app = make_app(
                BASE_URL=f"http://127.0.0.1:{server.server_port}",
                FEDERATION_ALLOWED_NETWORKS="127.0.0.0/8",
                **environ,
            )
            with app.app_context():
                _use_key(len(sides))
                identity.ensure_identity(app.extensions["tidings"])
                ensure_default()
            server.app = app
            sides.append(server)
            stack.enter_context(_serving(server))
            return Side(app, server)

        yield make


@pytest.fixture
def pair(make_side: MakeSide) -> Pair:
    """Two instances that do not know each other."""
    return Pair(make_side(INSTANCE_NAME="Alpha"), make_side(INSTANCE_NAME="Beta"))


@pytest.fixture
def connected(pair: Pair) -> Pair:
    """Two instances with an active connection that alpha asked for."""
    pair.connect()
    return pair


@lru_cache(maxsize=4)
def _key_pair(number: int) -> GeneratedKey:
    return generate(Algorithm.RSA)


def _use_key(number: int) -> None:
    """Give the instance a key that other tests use too: making one takes longer than most tests."""
    made = _key_pair(number)
    with transaction():
        db.session.add(
            SigningKey(
                key_id=made.key_id,
                algorithm=Algorithm.RSA,
                public_key_pem=made.public_key_pem,
                fingerprint=made.fingerprint,
                private_key_sealed=seal(made.private_key_pem, settings().secret_key),
                status=KeyStatus.ACTIVE,
                not_before=clock.now_ms(),
            )
        )


def _nobody(_environ: Any, _start: Any) -> Any:
    raise AssertionError("asked before the app was there")


@contextmanager
def _serving(server: BaseWSGIServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
