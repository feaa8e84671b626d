"""What attacks are tried on: an instance that answers HTTP, and peers of it that share no code with it.

The instance runs in the test's own process, so that a test can compare every row of its database before and
after: a refusal that stores something is no refusal. All of it runs on SQLite; what the engines do
differently is tested where the storage is.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from app import create_app, queue
from app.access.workspaces import ensure_default
from app.config import Config
from app.database import db
from app.federation import connections, controls, identity, outside, requests, sending, subscriptions
from app.models import Connection, ControlOut, Event, Workspace
from app.outbox.deliver import drain
from app.outbox.publish import NewEvent, publish_events
from tests import engines
from tests.conformance.foreign_peer import Answer, ForeignPeer, Link
from tests.conformance.wire import Key, Message
from tests.transport.conftest import make_client, serve

__all__ = ["make_client", "serve"]

Result = TypeVar("Result")
Row = TypeVar("Row")

#: Changes at most once a second with every request whose signatures verified.
SEEN = "connection.last_received_at"
#: A document is read for an unknown key of a known instance, at most once in 10 s.
LOOKED_UP = ("peer.key_lookup_at", "peer.document", "peer.document_read_at")

SECRET_KEY = "a secret key that no log may show"


@dataclass
class Victim:
    """The instance that is attacked."""

    app: Flask
    server: BaseWSGIServer

    @property
    def base_url(self) -> str:
        """Its baseUrl."""
        return str(self.app.extensions["tidings"].base_url)

    def do(self, call: Callable[..., Result], *args: Any, **named: Any) -> Result:
        """Call a service as a request or a job would."""
        with self.app.app_context():
            return call(*args, **named)

    def rows(self, model: type[Row], *conditions: Any) -> list[Row]:
        """Rows of a table, by id."""
        with self.app.app_context():
            found: Sequence[Row] = db.session.scalars(
                sa.select(model).where(*conditions).order_by(model.id)  # type: ignore[attr-defined]
            ).all()
            db.session.expunge_all()
            return list(found)

    def workspace_id(self, slug: str = "default") -> int:
        """Row number of a workspace."""
        return self.rows(Workspace, Workspace.slug == slug)[0].id

    def everything(self, but: Sequence[str] = ()) -> dict[str, list[dict[str, Any]]]:
        """Every row of every table. `but` names tables, or columns as `table.column`, to leave out."""
        with self.app.app_context(), db.engine.connect() as reader:
            return {
                table.name: [
                    {name: value for name, value in row.items() if f"{table.name}.{name}" not in but}
                    for row in reader.execute(sa.select(table).order_by(*table.primary_key)).mappings()
                ]
                for table in db.metadata.sorted_tables
                if table.name not in but
            }

    @contextmanager
    def unchanged(self, *but: str) -> Iterator[None]:
        """Fail if any row differs afterwards, except in what `but` names."""
        before = self.everything(but)
        yield
        after = self.everything(but)
        for table, rows in before.items():
            assert after[table] == rows, f"{table} changed"

    def settle(self) -> None:
        """Check requests and send control messages until nothing more happens."""
        with self.app.app_context():
            while self._work():
                pass

    def _work(self) -> bool:
        before = self._progress()
        for connection_id in list(
            db.session.scalars(sa.select(Connection.id).where(Connection.checked_at.is_(None)))
        ):
            requests.check_request(connection_id)
        for connection_id in list(
            db.session.scalars(
                sa.select(ControlOut.connection_id).where(ControlOut.state.in_(controls.OPEN)).distinct()
            )
        ):
            sending.send_controls(connection_id)
        return self._progress() != before

    @staticmethod
    def _progress() -> list[Any]:
        db.session.rollback()
        sent = sa.select(ControlOut.id, ControlOut.state, ControlOut.attempts).order_by(ControlOut.id)
        known = sa.select(Connection.id, Connection.status, Connection.checked_at).order_by(Connection.id)
        return [*db.session.execute(sent).all(), *db.session.execute(known).all()]

    def publish(self, payload: Message | None = None, event_type: str = "task.created") -> str:
        """Publish one event of the default workspace; its messageId."""
        event = NewEvent(event_type, payload or {})
        return self.do(publish_events, self.workspace_id(), [event])[0].message_id

    def drain(self, connection_id: int) -> None:
        """Send what is due over a connection."""
        self.do(drain, connection_id)

    def incoming(self) -> list[Event]:
        """The events that came in and were stored."""
        return self.rows(Event, Event.direction == "incoming")

    def connection(self, link: Link) -> Connection:
        """Our side of a peer's link."""
        return self.rows(
            Connection,
            Connection.wire_connection_id == link.connection_id,
            Connection.checked_at.is_not(None),
        )[-1]


@dataclass
class Bond:
    """An active connection that a peer asked for; each side is subscribed to the other's `task.**`."""

    victim: Victim
    peer: ForeignPeer
    link: Link
    connection_id: int

    @property
    def base_url(self) -> str:
        """Of the instance that is attacked."""
        return self.victim.base_url

    def reload(self) -> Connection:
        """The connection as it is in the database now."""
        return self.victim.rows(Connection, Connection.id == self.connection_id)[0]


def _private_keys(number: int = 10) -> Iterator[rsa.RSAPrivateKey]:
    """A few RSA keys, made when first wanted and then in turn: making one takes longer than most tests."""
    made = []
    for _ in range(number):
        made.append(rsa.generate_private_key(65537, 2048))
        yield made[-1]
    yield from itertools.cycle(made)


_PRIVATE_KEYS = _private_keys()


def some_key(**members: Any) -> Key:
    """A key that no other of this test has."""
    return Key(next(_PRIVATE_KEYS), **members)


def refusal(answer: Answer) -> tuple[int, str | None]:
    """Status and code of a problem."""
    return answer.status, answer.code


def bind(victim: Victim, peer: ForeignPeer, **request: Any) -> Bond:
    """Let the peer ask for a connection, accept it, and let each subscribe to the other's `task.**`."""
    peer.grants.append("task.**")
    link = peer.request_connection(victim.base_url, **request)
    victim.settle()
    connection = victim.connection(link)
    victim.do(connections.accept, connection.id)
    victim.settle()
    victim.do(subscriptions.subscribe_to_event_type, connection.workspace_id, connection.public_id, "task.**")
    victim.settle()
    _, answer = peer.subscribe(link, "task.**")
    assert (link.status, answer.status) == ("active", 200)
    return Bond(victim, peer, link, connection.id)


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_args: Any) -> None:
        """Say nothing: the instance has its own log."""


@contextmanager
def start_victim(folder: Path, database: Path, redis_url: str, **environ: str) -> Iterator[Victim]:
    """An instance on loopback with these settings besides."""
    copy(database, folder / "tidings.db")
    server = make_server("127.0.0.1", 0, _nobody, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    defaults = {
        "BASE_URL": f"http://127.0.0.1:{server.server_port}",
        "DATABASE_URL": f"sqlite:///{folder / 'tidings.db'}",
        "DATA_DIR": str(folder),
        "FEDERATION_ALLOWED_NETWORKS": "127.0.0.0/8",
        "FEDERATION_AUTO_GRANT": "**",
        "INSTANCE_NAME": "Victim",
        "REDIS_URL": redis_url,
        "SECRET_KEY": SECRET_KEY,
    }
    app = create_app(Config.from_env(defaults | environ))
    app.testing = True
    with app.app_context():
        identity.ensure_identity(app.extensions["tidings"])
        ensure_default()
    server.app = app
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Victim(app, server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        with app.app_context():
            outside.client().close()
            db.session.remove()
            db.engine.dispose()
            queue.redis_client().close()


def _nobody(_environ: Any, _start: Any) -> Any:
    raise AssertionError("asked before the instance was there")


@pytest.fixture(scope="module", autouse=True)
def _no_wait() -> Iterator[None]:
    """Calls answer at once with what is so; nobody works in the background here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controls, "WAIT_S", 0.0)
        yield


@pytest.fixture(scope="module")
def victim(
    sqlite_template: Path, valkey: engines.Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    """The instance that all tests of a module attack."""
    with start_victim(tmp_path_factory.mktemp("victim"), sqlite_template, valkey.fresh_url()) as started:
        yield started


MakeVictim = Callable[..., Victim]


@pytest.fixture
def make_victim(
    sqlite_template: Path, valkey: engines.Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeVictim]:
    """make_victim(RATE_LIMIT_...=...): an instance of the test's own."""
    with ExitStack() as stack:

        def make(**environ: str) -> Victim:
            folder = tmp_path_factory.mktemp("victim")
            started = start_victim(folder, sqlite_template, valkey.fresh_url(), **environ)
            return stack.enter_context(started)

        yield make


@pytest.fixture(scope="module")
def bond(victim: Victim) -> Iterator[Bond]:
    """A peer that is connected. For tests that leave its connection as it was."""
    with ForeignPeer(key=Key.rsa()) as peer:
        yield bind(victim, peer)


@pytest.fixture(scope="module")
def other_bond(victim: Victim) -> Iterator[Bond]:
    """Another connected peer."""
    with ForeignPeer(key=Key.rsa()) as peer:
        yield bind(victim, peer)


MakeBond = Callable[..., Bond]


@pytest.fixture
def make_bond(victim: Victim) -> Iterator[MakeBond]:
    """make_bond(): a new peer's connection, for the test to change."""
    with ExitStack() as stack:

        def make(**members: Any) -> Bond:
            return bind(victim, stack.enter_context(ForeignPeer(**{"key": some_key(), **members})))

        yield make


@pytest.fixture
def make_peer() -> Iterator[Callable[..., ForeignPeer]]:
    """make_peer(): an instance that nobody knows yet."""
    with ExitStack() as stack:
        yield lambda **members: stack.enter_context(ForeignPeer(**{"key": some_key(), **members}))


@pytest.fixture
def stranger(make_peer: Callable[..., ForeignPeer]) -> ForeignPeer:
    """An instance with an identity, but no connection."""
    return make_peer()
