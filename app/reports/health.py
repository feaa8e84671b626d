"""Is all well? The list of checks that `/readyz` and `flask doctor` share, and the gauges of `/metrics`.

Each check looks at one thing, says what it found in one line and what to do if that is wrong. None of them
raises, and none waits longer than the client below it does.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError

from app import queue
from app.config import ROOT, is_loopback, settings
from app.database import db, missing_file
from app.federation import identity
from app.federation.lifecycle import sending_clause
from app.metrics import Gauge
from app.models import Connection, Delivery
from app.protocol.errors import InvalidState, Problem
from app.protocol.states import OPEN, ConnectionStatus, DeliveryState
from app.reports.details import Check

#: Rows of one state that a gauge counts at most; counting millions on every scrape would be felt.
GAUGE_CAP = 100_000

#: Less room than this for the database is worth a word, bytes.
_MIN_FREE_BYTES = 1024**3

_MEND_DATABASE = "Mend the database first."


class _Seen(NamedTuple):
    """What a check found: whether it is right, in words, and what to do if not."""

    ok: bool
    detail: str
    fix: str = ""


def readiness() -> list[Check]:
    """What must be there for the instance to do its work."""
    return _run(("database", _database), ("redis", _redis), ("migrations", _migrations), ("worker", _worker))


def doctor() -> list[Check]:
    """Everything that can be looked at from here: readiness, and what people get wrong at first."""
    more = _run(
        ("identity", _identity),
        ("settings", _settings),
        ("data folder", _data_folder),
        ("disk", _disk),
        ("queues", _queues),
        ("holds", _holds),
        ("paused", _paused),
    )
    return readiness() + more


def _run(*checks: tuple[str, Callable[[], _Seen]]) -> list[Check]:
    found = []
    for name, check in checks:
        seen = check()
        found.append(Check(name=name, ok=seen.ok, detail=seen.detail, fix="" if seen.ok else seen.fix))
    return found


def _database() -> _Seen:
    if path := missing_file():
        return _Seen(False, f"there is no database here ({path})", "Run `flask init`, or correct DATA_DIR.")
    try:
        db.session.execute(sa.text("SELECT 1"))
    except SQLAlchemyError as error:
        db.session.rollback()
        return _Seen(
            False,
            f"does not answer: {_one_line(error)}",
            "Start the database server, or correct DATABASE_URL.",
        )
    return _Seen(True, f"{db.engine.dialect.name} answers")


def _redis() -> _Seen:
    if queue.is_reachable():
        return _Seen(True, "answers")
    given = settings().redis_url
    fix = "Start the server that REDIS_URL names." if given else "`flask up` starts one; or set REDIS_URL."
    return _Seen(False, "does not answer; deliveries go on when it is back", fix)


def _migrations() -> _Seen:
    if missing_file():
        return _Seen(False, "there is no database", _MEND_DATABASE)
    try:
        with db.engine.connect() as connection:
            current = set(MigrationContext.configure(connection).get_current_heads())
    except SQLAlchemyError:
        return _Seen(False, "cannot be read", _MEND_DATABASE)
    if current == _heads():
        return _Seen(True, f"at {', '.join(sorted(current))}")
    shown = ", ".join(sorted(current)) or "nothing"
    return _Seen(
        False,
        f"the database is at {shown}, the code at {', '.join(sorted(_heads()))}",
        "Run `flask init`, or start with `flask up`: both bring the database up to date.",
    )


@lru_cache(maxsize=1)
def _heads() -> frozenset[str]:
    return frozenset(ScriptDirectory(str(ROOT / "migrations")).get_heads())


def _worker() -> _Seen:
    try:
        workers = queue.live_workers()
    except queue.Unavailable:
        return _Seen(False, "cannot be seen without Redis", "Mend Redis first.")
    if workers:
        return _Seen(True, f"{len(workers)} at work")
    return _Seen(False, "none is at work, so nothing is delivered", "Start `flask up`, or `flask worker`.")


def _identity() -> _Seen:
    if missing_file():
        return _Seen(False, "there is no database", _MEND_DATABASE)
    try:
        identity.check_instance_id(settings())
    except InvalidState as error:
        return _Seen(False, error.detail, "Give INSTANCE_ID as the database has it, or leave it out.")
    except SQLAlchemyError:
        db.session.rollback()
    try:
        ours = identity.local_instance()
    except (Problem, SQLAlchemyError) as error:
        db.session.rollback()
        return _Seen(False, _one_line(error), "Run `flask init`." if _database().ok else _MEND_DATABASE)
    try:
        identity.signer()
    except (Problem, ValueError) as error:
        fix = "Restore the SECRET_KEY that the keys were made under: DATA_DIR/secret_key, or the variable."
        return _Seen(False, _one_line(error), fix)
    return _Seen(True, f"{ours.instance_id} signs with {ours.key_id}")


def _settings() -> _Seen:
    config = settings()
    if is_loopback(config.base_url):
        return _Seen(True, f"{config.base_url} is reachable from this machine alone")
    if config.base_url.startswith("http://"):
        return _Seen(
            False,
            f"{config.base_url} is not encrypted",
            "Put a server with TLS in front, and set BASE_URL to its https:// address.",
        )
    return _Seen(True, f"peers reach this instance at {config.base_url}")


def _data_folder() -> _Seen:
    folder = settings().data_dir
    if not folder.exists():
        return _Seen(False, f"{folder} is not there", "Run `flask init`, or correct DATA_DIR.")
    if os.access(folder, os.W_OK | os.X_OK):
        return _Seen(True, f"{folder} can be written")
    return _Seen(False, f"{folder} cannot be written", "Give this user the folder, or set DATA_DIR.")


def _disk() -> _Seen:
    try:
        free = shutil.disk_usage(settings().data_dir).free
    except OSError as error:
        return _Seen(False, _one_line(error), "Set DATA_DIR to a folder that exists.")
    shown = f"{free / 1024**3:.1f} GiB free"
    return _Seen(free >= _MIN_FREE_BYTES, shown, "Make room: events are kept for RETENTION_DAYS.")


def _queues() -> _Seen:
    try:
        failed = sum(queue.queue(name).failed_job_registry.count for name in queue.QUEUES)
    except queue.Unavailable:
        return _Seen(False, "cannot be seen without Redis", "Mend Redis first.")
    if failed:
        return _Seen(False, f"{failed} jobs failed lately", 'The log has the cause ("job.failed").')
    return _Seen(True, "no job failed lately")


def _holds() -> _Seen:
    if missing_file():
        return _Seen(False, "there is no database", _MEND_DATABASE)
    try:
        held = db.session.scalars(
            sa.select(Connection.public_id).where(
                Connection.status == ConnectionStatus.ACTIVE,
                sa.or_(Connection.hold_code.is_not(None), Connection.key_review.is_(True)),
            )
        ).all()
    except SQLAlchemyError:
        db.session.rollback()
        return _Seen(False, "cannot be read", _MEND_DATABASE)
    if held:
        return _Seen(
            False,
            f"{len(held)} connections wait for a person, such as {held[0]}",
            "`flask connection show ID` says why; `flask connection retry-now ID` sends again.",
        )
    return _Seen(True, "no connection waits for a person")


def _paused() -> _Seen:
    """What people here stopped, and may have forgotten: worth a word, but nothing is wrong."""
    if missing_file():
        return _Seen(False, "there is no database", _MEND_DATABASE)
    try:
        paused = db.session.scalars(
            sa.select(Connection.public_id).where(
                Connection.status.in_(OPEN), sa.or_(Connection.paused_outgoing, Connection.paused_incoming)
            )
        ).all()
    except SQLAlchemyError:
        db.session.rollback()
        return _Seen(False, "cannot be read", _MEND_DATABASE)
    if not paused:
        return _Seen(True, "no connection is paused here")
    return _Seen(
        True, f"{len(paused)} connections, such as {paused[0]}; `flask connection unpause ID` goes on"
    )


def _one_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:200]


def gauges() -> Iterator[Gauge]:
    """What is so now, for `/metrics`. What cannot be read is left out."""
    with suppress(queue.Unavailable):
        yield Gauge("tidings_workers", "Workers that are alive.", {(): len(queue.live_workers())})
    try:
        yield _connections()
        yield _open_deliveries()
    except SQLAlchemyError:
        db.session.rollback()


def _connections() -> Gauge:
    counted: dict[tuple[str, ...], float] = {(status.value,): 0 for status in ConnectionStatus}
    rows = db.session.execute(sa.select(Connection.status, sa.func.count()).group_by(Connection.status))
    counted |= {(status.value,): count for status, count in rows}
    return Gauge("tidings_connections", "Connections by status.", counted, ("status",))


def _open_deliveries() -> Gauge:
    """Counted connection by connection in the index of (connection, state), each no further than the cap."""
    counted: dict[tuple[str, ...], float] = {
        (status,): 0 for status in ("pending", "held", "sending", "dead")
    }
    for connection_id, sends in db.session.execute(sa.select(Connection.id, sending_clause())).all():
        counted[("pending" if sends else "held",)] += _count(connection_id, DeliveryState.PENDING)
        counted[("sending",)] += _count(connection_id, DeliveryState.SENDING)
        counted[("dead",)] += _count(connection_id, DeliveryState.DEAD)
    text = f"Deliveries by status, counted up to {GAUGE_CAP} a connection."
    return Gauge("tidings_deliveries_open", text, counted, ("status",))


def _count(connection_id: int, state: DeliveryState) -> int:
    some = (
        sa.select(sa.literal(1))
        .select_from(Delivery)
        .where(Delivery.connection_id == connection_id, Delivery.state == state)
        .limit(GAUGE_CAP)
        .subquery()
    )
    return db.session.scalar(sa.select(sa.func.count()).select_from(some)) or 0
