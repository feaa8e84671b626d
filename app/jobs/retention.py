"""Retention: what is old goes, in pieces so small that nobody notices.

    events, deliveries, attempts     RETENTION_DAYS after they ended; never what is open
    incoming events                  RETENTION_DAYS after they came; a trace stays, so a repeat is a duplicate
    gaps of streams                  as long as traces, and so many of an epoch; epochs in which nothing came:
                                     the newest
    control messages of ours, ended replays, operations and comparisons     RETENTION_DAYS
    idempotency keys                 24 hours
    sign-ins and one-time links      30 days, which none of them lasts
    subscriptions that ended         as long as traces
    keys, dedupe ids, answers to control messages     kept as the protocol wants it, longer

Each piece is one transaction, its size follows the time that the last one took, and the database is left to
the others for as long between two of them. A run ends after about a second and wakes the next one.
"""

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import sqlalchemy as sa

from app import clock, queue
from app.access.sessions import LONGEST_MS
from app.config import settings
from app.database import Model, db, table_of, transaction
from app.federation.controls import OPEN as OPEN_CONTROL
from app.inbox import retention as incoming
from app.models import (
    ControlOut,
    IdempotencyKey,
    Operation,
    Reconciliation,
    Replay,
    SignIn,
    SignInLink,
    Subscription,
    Workspace,
)
from app.outbox import retention as outgoing
from app.outbox.retention import Place
from app.protocol.states import LIVE_SUBSCRIPTION

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
#: How long an Idempotency-Key stands for its call, ms.
IDEMPOTENCY_MS = DAY_MS

#: How long a run works before it lets others at the worker, seconds.
WORK_S = 1.0
#: A piece that took longer is followed by a smaller one, seconds; one of a second would be felt.
LONG_S = 0.1
#: Rows of a piece.
FEWEST, MOST = 50, 500


def start() -> None:
    """Have a worker look for what is old. Safe to run twice."""
    queue.wake_retention()


def purge() -> None:
    """Delete for about a second. Safe to run twice, also at the same time."""
    queue.retention_started()
    if not run(WORK_S):
        queue.wake_retention()


def run(seconds: float, sleep: Callable[[float], object] = time.sleep) -> bool:
    """Delete what is old until nothing is left (True) or the time is over (False). Commits in pieces."""
    return work_off(Pace(seconds, sleep))


def work_off(pace: "Pace") -> bool:
    """As `run`, at a pace that tells afterwards how long its longest piece took."""
    deleted = 0
    for walk in _walks(clock.now_ms() - settings().retention_days * DAY_MS, pace):
        for rows in walk:
            deleted += rows
            if pace.is_over:
                _tell(deleted)
                return False
    _tell(deleted)
    return True


def _tell(deleted: int) -> None:
    if deleted:
        log.info("retention.purged", extra={"rows": deleted})


class Pace:
    """How large the next piece is, and when to stop."""

    def __init__(self, seconds: float, sleep: Callable[[float], object]) -> None:
        self.size = 200
        self.longest_s = 0.0
        self._sleep = sleep
        self._end_s = clock.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return clock.monotonic() >= self._end_s

    def take(self, piece: Callable[[int], Any]) -> Any:
        """Do a piece of the present size, measure it, and give way to others for as long."""
        began_s = clock.monotonic()
        result = piece(self.size)
        took_s = clock.monotonic() - began_s
        self.longest_s = max(self.longest_s, took_s)
        if took_s > LONG_S:
            self.size = max(FEWEST, self.size // 2)
        elif took_s < LONG_S / 2:
            self.size = min(MOST, self.size * 2)
        self._sleep(min(took_s, LONG_S))
        return result


def _walks(before_ms: int, pace: Pace) -> Iterator[Iterator[int]]:
    """What there is to delete, each as a walk that yields how many rows a piece deleted."""
    workspaces = db.session.scalars(sa.select(Workspace.id).order_by(Workspace.id)).all()
    for workspace_id in workspaces:
        yield _own_events(workspace_id, before_ms, pace)
        yield _incoming_events(workspace_id, before_ms, pace)
    yield _attempts(before_ms, pace)
    yield _until_none(incoming.purge_traces, pace)
    yield _until_none(incoming.purge_gaps, pace)
    yield _epochs(pace)
    yield _ended(IdempotencyKey, IdempotencyKey.created_at, clock.now_ms() - IDEMPOTENCY_MS, pace)
    closed = ControlOut.state.not_in(OPEN_CONTROL)
    yield _ended(ControlOut, ControlOut.created_at, before_ms, pace, closed)
    for model in (Replay, Operation, Reconciliation):
        yield _ended(model, model.finished_at, before_ms, pace)
    # No sign-in and no link lasts so long.
    for way_in in (SignIn, SignInLink):
        yield _ended(way_in, way_in.created_at, clock.now_ms() - LONGEST_MS, pace)
    long_ago_ms = clock.now_ms() - incoming.TRACE_MS
    is_over = (Subscription.status.not_in(LIVE_SUBSCRIPTION), Subscription.updated_at < long_ago_ms)
    yield _ended(Subscription, Subscription.created_at, long_ago_ms, pace, *is_over)


def _own_events(workspace_id: int, before_ms: int, pace: Pace) -> Iterator[int]:
    place: Place | None = Place()
    while place is not None:
        piece = pace.take(partial(outgoing.purge_events, workspace_id, before_ms, place))
        place = piece.next
        yield piece.deleted


def _incoming_events(workspace_id: int, before_ms: int, pace: Pace) -> Iterator[int]:
    return _until_none(partial(incoming.purge_events, workspace_id, before_ms), pace)


def _attempts(before_ms: int, pace: Pace) -> Iterator[int]:
    place: Place | None = Place()
    while place is not None:
        piece = pace.take(partial(outgoing.purge_attempts, before_ms, place))
        place = piece.next
        yield piece.deleted


def _epochs(pace: Pace) -> Iterator[int]:
    after: int | None = 0
    while after is not None:
        deleted, after = pace.take(partial(incoming.purge_epochs, after))
        yield deleted


def _until_none(purge_some: Callable[[int], int], pace: Pace) -> Iterator[int]:
    while deleted := pace.take(purge_some):
        yield deleted


def _ended(
    model: type[Model], at: Any, before_ms: int, pace: Pace, *conditions: sa.ColumnElement[bool]
) -> Iterator[int]:
    """A small table, in order of its row numbers, which follow the times."""
    table = table_of(model)
    last: int | None = 0
    while last is not None:
        deleted, last = pace.take(partial(_delete_ended, table, at, before_ms, conditions, last))
        yield deleted


def _delete_ended(
    table: sa.Table,
    at: Any,
    before_ms: int,
    conditions: tuple[sa.ColumnElement[bool], ...],
    after: int,
    most: int,
) -> tuple[int, int | None]:
    """Rows deleted, and the row number to go on from; None at the end."""
    number = table.c.id
    rows = db.session.execute(
        sa.select(number, at < before_ms, *conditions).where(number > after).order_by(number).limit(most)
    ).all()
    db.session.rollback()
    old = [row[0] for row in rows if all(row[1:])]
    if old:
        with transaction():
            db.session.execute(sa.delete(table).where(number.in_(old)))
    is_end = len(rows) < most or not any(row[1] for row in rows)
    return len(old), None if is_end else rows[-1][0]
