"""The database: one session, one way to write, and the same rules on SQLite and PostgreSQL.

Every write happens inside `transaction()`. On SQLite that is BEGIN IMMEDIATE, because a transaction that
starts by reading and writes later is refused when somebody else wrote in between; readers use plain BEGIN
and see one snapshot. PostgreSQL runs READ COMMITTED; whoever decides by what was read locks the row first.
"""

import os
import select
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import Pool

#: Names for all constraints, so that a migration can drop them on both engines.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

#: How long a writer waits for another one on SQLite, in seconds.
BUSY_TIMEOUT_S = 15

#: What every SQLite connection is told. A write-ahead log of 16 MB instead of 4 is moved into the database a
#: quarter as often: a page that many transactions change is then written once for all of them.
_PRAGMAS = (
    "journal_mode=WAL",
    "foreign_keys=ON",
    "temp_store=MEMORY",
    "wal_autocheckpoint=4000",
)

#: Execution option that marks a connection's next transaction as a writing one.
_WRITE = "tidings_write"


class Model(DeclarativeBase):
    """Base of all tables."""

    metadata = sa.MetaData(naming_convention=NAMING)


db = SQLAlchemy(model_class=Model, session_options={"expire_on_commit": False})


def table_of(model: type[Model]) -> sa.Table:
    """The model's table, for Core statements on hot paths."""
    return cast(sa.Table, model.__table__)


def state_column(states: type[StrEnum]) -> sa.Enum:
    """Column type of a closed set: the values as short text, the same on both engines."""
    return sa.Enum(
        states,
        native_enum=False,
        create_constraint=False,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


#: Row numbers: 64 bits on PostgreSQL, and SQLite's own rowid, which must be called INTEGER.
RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class _Connection(sqlite3.Connection):
    """A connection that does not wait for the disk with each commit, but at each checkpoint."""

    synchronous = "NORMAL"


class _Synchronous(_Connection):
    """A connection that waits for the disk with each commit."""

    synchronous = "FULL"


def engine_options(url: str, synchronous: str = _Connection.synchronous) -> dict[str, Any]:
    """Options of the SQLAlchemy engine for a database URL; synchronous: NORMAL or FULL, for SQLite."""
    # A statement that fails is logged with its text alone: its parameters have payloads and keys in them.
    common = {"hide_parameters": True}
    if url.startswith("sqlite"):
        kind = _Synchronous if synchronous == _Synchronous.synchronous else _Connection
        arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False, "factory": kind}
        return common | {"connect_args": arguments}
    # No ping before each use, which would be a round trip: `_leave_dead_ones` looks at the socket instead.
    return common | {"pool_pre_ping": False, "pool_size": 20, "max_overflow": 40, "pool_recycle": 1800}


@contextmanager
def transaction() -> Iterator[None]:
    """A write transaction: committed at the end, rolled back if the block raises.

    Inside another one it joins that one, so that the outermost caller decides what is one whole.
    What the session read before is let go first: a writing transaction must see the newest rows.
    """
    session = db.session()
    if session.info.get(_WRITE):
        yield
        return
    if session.in_transaction():
        session.rollback()
    session.info[_WRITE] = True
    try:
        session.connection(execution_options={_WRITE: True})
        yield
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.info.pop(_WRITE, None)


def read(statement: sa.Select[Any], parameters: Mapping[str, Any]) -> sa.CursorResult[*tuple[Any, ...]]:
    """Plain rows of a statement, in the session's transaction and after all that the session has in hand.

    For hot paths: `db.session.execute` takes longer around a small statement than the statement itself.
    """
    session = db.session()
    session.flush()
    return session.connection().execute(statement, parameters)


def is_writing() -> bool:
    """Whether the caller is inside a `transaction()`."""
    return bool(db.session().info.get(_WRITE))


def missing_file() -> str | None:
    """Path of the SQLite database if it is a file that is not there; connecting would make it."""
    path = db.engine.url.database
    return path if is_sqlite() and path and path != ":memory:" and not os.path.exists(path) else None


def is_sqlite() -> bool:
    """Whether the current app runs on SQLite."""
    return db.engine.dialect.name == "sqlite"


def lock_workspace_inbox(workspace_id: int) -> None:
    """Let one transaction at a time give row numbers to a workspace's incoming events.

    PostgreSQL gives out ids before the commit, so a reader that goes on from the last id would miss rows
    that are committed late. SQLite has one writer anyway. Held until the transaction ends.
    """
    if not is_sqlite():
        db.session.execute(
            sa.select(sa.func.pg_advisory_xact_lock(sa.cast(_INBOX_LOCK, sa.Integer), workspace_id))
        )


#: First half of the advisory lock's key: "inbox" as a number nobody else uses.
_INBOX_LOCK = 0x1B0C


@event.listens_for(Engine, "connect")
def _configure_sqlite(dbapi_connection: Any, _record: Any) -> None:
    if not isinstance(dbapi_connection, sqlite3.Connection):
        return
    dbapi_connection.isolation_level = None  # SQLAlchemy's "begin" below says BEGIN, not the driver
    cursor = dbapi_connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
    synchronous = getattr(dbapi_connection, "synchronous", _Connection.synchronous)
    cursor.execute(f"PRAGMA synchronous={synchronous}")
    cursor.close()


@event.listens_for(Engine, "begin")
def _begin_sqlite(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        writing = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@event.listens_for(Pool, "checkout")
def _leave_dead_ones(dbapi_connection: Any, _record: Any, _proxy: Any) -> None:
    """Let go a connection that PostgreSQL has closed while it lay in the pool, and all that are as old.

    A connection that nobody uses has nothing to read. If it has, that is the server's farewell or the end of
    the stream, as after a restart; whatever else it is, a ping reads it.
    """
    if isinstance(dbapi_connection, psycopg.Connection) and _has_something_to_read(dbapi_connection):
        try:
            dbapi_connection.execute("SELECT 1")
            dbapi_connection.rollback()
        except psycopg.Error as error:
            raise InvalidatePoolError() from error


def _has_something_to_read(connection: psycopg.Connection[Any]) -> bool:
    try:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except psycopg.Error:
        return True
