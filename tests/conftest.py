"""What tests stand on: an app on each engine, with a database and a Redis that nobody else uses."""

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade
from rq.timeouts import TimerDeathPenalty

from app import clock, create_app, queue
from app.access.audit import act_as_instance
from app.config import Config
from app.database import db
from app.federation import sending
from app.jobs import aside, worker
from app.outbox import deliver
from tests import engines, shortcuts

#: Kinds of tests by their marks, longest first; most tests have none.
_KINDS = ("drill", "e2e", "browser", "")

ENGINES = ("sqlite", "postgresql")

#: What makes an app: settings by name, those of the fixture `settings_for` where none are given.
MakeApp = Callable[..., Flask]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=ENGINES, help="run tests that need a database on this one alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest first: they wait while others work. With --engine, leave out those of the other one."""
    items.sort(key=lambda item: _KINDS.index(next((k for k in _KINDS if item.get_closest_marker(k)), "")))
    chosen = config.getoption("--engine")
    if chosen is None:
        return
    others = [
        item for item in items if isinstance(item, pytest.Function) and _engine_of(item) not in (None, chosen)
    ]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def _engine_of(item: pytest.Function) -> str | None:
    return item.callspec.params.get("engine") if hasattr(item, "callspec") else None


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name of the database engine. Each test that uses it, directly or by another fixture, runs on both."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _one_run_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drains called by a test go on until nothing is left: on a busy machine their second is soon over."""
    monkeypatch.setattr(deliver, "RUN_S", 60.0)
    monkeypatch.setattr(sending, "YIELD_S", 60.0)


@pytest.fixture(autouse=True)
def _the_instance_acts() -> None:
    """A command that a test calls acts for whoever typed it, and its process would end with it."""
    act_as_instance()


@pytest.fixture(scope="session", autouse=True)
def _shortcuts() -> Iterator[None]:
    """What is the same for all tests is made once."""
    with pytest.MonkeyPatch.context() as patch:
        shortcuts.take(patch)
        yield


@pytest.fixture(scope="session")
def postgresql() -> Iterator[engines.PostgreSQL]:
    """This test process's PostgreSQL."""
    with engines.postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def valkey() -> Iterator[engines.Valkey]:
    """This test process's Valkey."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    with engines.valkey(int(name.removeprefix("gw"))) as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the whole schema and no rows."""
    folder = tmp_path_factory.mktemp("sqlite-template")
    with _closing(create_app(_config(folder))) as app, app.app_context():
        upgrade()
    return folder / "tidings.db"


@pytest.fixture(scope="session")
def postgresql_template(
    postgresql: engines.PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Name of a PostgreSQL database with the whole schema and no rows."""
    name = postgresql.create()
    config = _config(tmp_path_factory.mktemp("postgresql-template"), DATABASE_URL=postgresql.url(name))
    with _closing(create_app(config)) as app, app.app_context():
        upgrade()
    yield name
    postgresql.drop(name)


@pytest.fixture(scope="session")
def used_databases(
    postgresql: engines.PostgreSQL, postgresql_template: str
) -> Iterator[engines.UsedDatabases]:
    """PostgreSQL databases with the whole schema, for one test after the other."""
    databases = engines.UsedDatabases(postgresql, postgresql_template)
    yield databases
    databases.drop()


@pytest.fixture
def make_database(engine: str, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """make_database(folder): DATABASE_URL of a new database with the whole schema and no rows."""
    made: list[str] = []

    def make(folder: Path) -> str:
        if engine == "sqlite":
            shutil.copy(request.getfixturevalue("sqlite_template"), folder / "tidings.db")
            return f"sqlite:///{folder / 'tidings.db'}"
        made.append(request.getfixturevalue("used_databases").take())
        return str(request.getfixturevalue("postgresql").url(made[-1]))

    yield make
    for name in made:
        request.getfixturevalue("used_databases").give_back(name)


@pytest.fixture
def make_app(
    make_database: Callable[[Path], str], valkey: engines.Valkey, tmp_path: Path
) -> Iterator[MakeApp]:
    """make_app(BASE_URL=..., ...): an app on this engine with its own data folder, database and Redis."""
    with contextlib.ExitStack() as apps:
        made: list[Flask] = []

        def make(**environ: str) -> Flask:
            folder = tmp_path / f"data-{len(made)}"
            folder.mkdir()
            environ = {"DATABASE_URL": make_database(folder), "REDIS_URL": valkey.fresh_url(), **environ}
            app = create_app(_config(folder, **environ))
            app.testing = True
            made.append(apps.enter_context(_closing(app)))
            return app

        yield make
    clock.set_offset_ms(0)


@pytest.fixture
def app(make_app: MakeApp) -> Iterator[Flask]:
    """An app on this engine, with its context pushed."""
    made = make_app()
    with made.app_context():
        yield made


@pytest.fixture
def work() -> Iterator[Callable[[Flask], bool]]:
    """work(app): do all jobs that wait, as a worker does them; whether there were any."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    asked = threading.Event()

    def run(app: Flask) -> bool:
        made = worker.make(app, app.extensions["tidings"], (*worker.ORDINARY, *worker.FAILING), asked)
        # Its usual way is SIGALRM, which pytest-timeout needs for itself.
        made.death_penalty_class = TimerDeathPenalty
        is_done = bool(made.work(burst=True, logging_level="WARNING"))
        assert aside.finish(30)
        return is_done

    yield run
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client of `app`."""
    return app.test_client()


def _config(folder: Path, **environ: Any) -> Config:
    defaults = {
        "DATA_DIR": str(folder),
        "SECRET_KEY": "a secret key for tests alone",
        "INSTANCE_NAME": "Test",
    }
    return Config.from_env(defaults | environ)


@contextlib.contextmanager
def _closing(app: Flask) -> Iterator[Flask]:
    """The app, whose connections are closed at the end."""
    try:
        yield app
    finally:
        with app.app_context():
            db.session.remove()
            db.engine.dispose()
            queue.redis_client().close()
