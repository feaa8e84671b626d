"""What tests stand on: an app on each engine, with a database and a Redis that nobody else uses."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_migrate import upgrade

from app import clock, create_app, queue
from app.config import Config
from app.database import db
from tests import engines

ENGINES = ("sqlite", "postgresql")

#: What makes an app: settings by name, those of the fixture `settings_for` where none are given.
MakeApp = Callable[..., Flask]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=ENGINES, help="run tests that need a database on this one alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that uses `engine`, directly or by another fixture, runs once on each."""
    if "engine" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--engine")
        metafunc.parametrize("engine", [chosen] if chosen else list(ENGINES), indirect=True, scope="function")


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """Name of the database engine: sqlite or postgresql."""
    return str(request.param)


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


@pytest.fixture
def make_database(engine: str, request: pytest.FixtureRequest) -> Iterator[Callable[[Path], str]]:
    """make_database(folder): DATABASE_URL of a new database with the whole schema and no rows."""
    made: list[str] = []

    def make(folder: Path) -> str:
        if engine == "sqlite":
            shutil.copy(request.getfixturevalue("sqlite_template"), folder / "tidings.db")
            return f"sqlite:///{folder / 'tidings.db'}"
        server = request.getfixturevalue("postgresql")
        made.append(server.create(request.getfixturevalue("postgresql_template")))
        return str(server.url(made[-1]))

    yield make
    for name in made:
        request.getfixturevalue("postgresql").drop(name)


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
