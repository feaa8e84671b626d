"""The connections to the database: how they are set up, and that dead ones are not used."""

import pytest
import sqlalchemy as sa
from flask import Flask

from app.database import db, transaction
from tests.conftest import MakeApp
from tests.engines import OwnPostgreSQL, PostgreSQL


@pytest.mark.parametrize("engine", ["postgresql"])
def test_the_first_transactions_after_a_restart_of_postgresql_go_through(
    app: Flask, postgresql: PostgreSQL
) -> None:
    with db.engine.connect() as first, db.engine.connect() as second:
        assert first.scalar(sa.text("SELECT 1")) == second.scalar(sa.text("SELECT 1"))
    assert db.engine.pool.checkedin() == 2  # type: ignore[attr-defined]

    _restart(postgresql)
    read = db.session.scalar(sa.text("SELECT count(*) FROM event"))
    db.session.remove()
    with transaction():
        written = db.session.scalar(sa.text("SELECT 1"))

    assert (read, written) == (0, 1)


@pytest.mark.parametrize("engine", ["sqlite"])
@pytest.mark.parametrize("asked, number", [("NORMAL", 1), ("full", 2)])
def test_sqlite_waits_for_the_disk_as_it_is_set_to(make_app: MakeApp, asked: str, number: int) -> None:
    app = make_app(SQLITE_SYNCHRONOUS=asked)

    with app.app_context():
        found = db.session.scalar(sa.text("PRAGMA synchronous"))

    assert found == number


def _restart(server: PostgreSQL) -> None:
    """Restart it; one that is not ours only closes all connections, which is the same to a client."""
    if isinstance(server, OwnPostgreSQL):
        server.stop()
        server.start()
    else:
        server.close_all()
