"""Is all well? The list of checks that `/readyz`, `flask doctor` and the gauges of `/metrics` share.

Each check looks at one thing, says what it found in one line and what to do if that is wrong. None of them
raises, and none waits longer than the client below it does.
"""

import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import joinedload

from app import clock, queue
from app.config import ROOT, is_loopback, settings
from app.database import db, missing_file
from app.federation import clocks, identity
from app.models import Connection
from app.protocol.errors import InvalidState, Problem
from app.protocol.states import OPEN, ConnectionStatus
from app.reports.ailments import LOST_AFTER_MS, is_lost, what_ails
from app.reports.details import Check
from app.reports.times import rfc3339
from app.reports.words import visible

#: A skew that was measured longer ago says nothing about now, ms.
SKEW_FRESH_MS = 24 * 3_600_000
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
        ("address", _address),
        ("clocks", _clocks),
        ("peers", _breakers),
        ("holds", _holds),
        ("paused", _paused),
    )
    return readiness() + more


def _run(*checks: tuple[str, Callable[[], _Seen]]) -> list[Check]:
    found = []
    for name, check in checks:
        try:
            seen = check()
        except _Unreadable as error:
            seen = _Seen(False, error.detail, _MEND_DATABASE)
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


class _Unreadable(Exception):
    """The database does not tell; `detail` says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def _found(statement: sa.Select[Connection]) -> Sequence[Connection]:
    """The connections that a check looks for. Raises _Unreadable."""
    if missing_file():
        raise _Unreadable("there is no database")
    try:
        return db.session.scalars(statement).all()
    except SQLAlchemyError:
        db.session.rollback()
        raise _Unreadable("cannot be read") from None


def _active(*conditions: sa.ColumnElement[bool]) -> sa.Select[Connection]:
    return (
        sa.select(Connection)
        .where(Connection.status == ConnectionStatus.ACTIVE, *conditions)
        .order_by(Connection.id)
        .options(joinedload(Connection.peer))
        .execution_options(populate_existing=True)
    )


def _named(connection: Connection) -> str:
    """The connection for people: the peer's name, made harmless, and the id."""
    name = visible(connection.peer.name) if connection.peer else "unknown"
    return f"{name} ({connection.public_id})"


def _holds() -> _Seen:
    held = _found(
        _active(
            sa.or_(
                Connection.hold_code.is_not(None),
                Connection.key_review.is_(True),
                Connection.denied_since <= clock.now_ms() - LOST_AFTER_MS,
            )
        )
    )
    lost = [connection for connection in held if is_lost(connection)]
    if lost:
        ailment = what_ails(lost[0])
        number = "1 peer has" if len(lost) == 1 else f"{len(lost)} peers have"
        detail = f"{number} lost the connection with us, such as {_named(lost[0])}"
        return _Seen(False, detail, ailment.do if ailment else "")
    if held:
        return _Seen(
            False,
            f"{len(held)} connections wait for a person, such as {_named(held[0])}",
            "`flask connection show ID` says why; `flask connection retry-now ID` sends again.",
        )
    return _Seen(True, "no connection waits for a person")


def _breakers() -> _Seen:
    """Peers that do not answer. Nothing here is wrong for it, so it is a word and no failure."""
    broken = _found(_active(Connection.breaker_opened_at.is_not(None)))
    if not broken:
        return _Seen(True, "every peer answers")
    first = broken[0]
    return _Seen(
        True,
        f"{len(broken)} peers do not answer, such as {_named(first)} since "
        f"{rfc3339(first.breaker_opened_at)} ({first.wait_code}); next probe {rfc3339(first.retry_at)}",
    )


def _clocks() -> _Seen:
    measured = _found(_active(Connection.clock_skew_at > clock.now_ms() - SKEW_FRESH_MS))
    skews = [connection.clock_skew_ms or 0 for connection in measured]
    wrong = [each for each in measured if abs(each.clock_skew_ms or 0) >= clocks.NOTABLE_MS]
    if not wrong:
        return _Seen(
            True, f"{len(measured)} peers agree with ours within a minute" if skews else "none measured"
        )
    middle = round(statistics.median(skews))
    if len(skews) > 1 and abs(middle) >= clocks.NOTABLE_MS:
        said = f"most of {len(skews)} peers are {clocks.in_words(middle)}, so it is ours that is wrong"
        return _Seen(False, said, "Set the clock of this machine by a time server (NTP).")
    worst = max(wrong, key=lambda each: abs(each.clock_skew_ms or 0))
    refused = abs(worst.clock_skew_ms or 0) > clocks.REFUSED_MS
    return _Seen(
        False,
        f"the clock of {_named(worst)} is {clocks.in_words(worst.clock_skew_ms or 0)}"
        + ("; beyond 5 minutes nothing is accepted" if refused else ""),
        "Compare both clocks with a time server (NTP) and set the wrong one; what waits then goes by itself.",
    )


def _address() -> _Seen:
    """Whether peers know us under the address that we have."""
    ours = settings().base_url
    moved = _found(
        sa.select(Connection)
        .where(Connection.status.in_(OPEN), Connection.our_base_url != ours)
        .options(joinedload(Connection.peer))
    )
    if not moved:
        return _Seen(True, f"all peers know this instance as {ours}")
    before = moved[0].our_base_url
    return _Seen(
        False,
        f"BASE_URL is {ours}, but the peers of {len(moved)} open connections know {before}, such as "
        f"{_named(moved[0])}; what they send does not pass, since it is signed for that address",
        f"Set BASE_URL back to {before}, or end these connections and make them again.",
    )


def _paused() -> _Seen:
    """What people here stopped, and may have forgotten: worth a word, but nothing is wrong."""
    paused = _found(
        sa.select(Connection).where(
            Connection.status.in_(OPEN), sa.or_(Connection.paused_outgoing, Connection.paused_incoming)
        )
    )
    if not paused:
        return _Seen(True, "no connection is paused here")
    return _Seen(
        True,
        f"{len(paused)} connections, such as {paused[0].public_id}; `flask connection unpause ID` goes on",
    )


def _one_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:200]
