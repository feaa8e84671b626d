"""Gauges: what `/metrics` shows as it is now, beside the counters that processes keep.

Read at every scrape, so nothing here grows with the number of events: counts end in an index, at a cap.
"""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from app import clock, queue
from app.config import settings
from app.database import db
from app.federation.lifecycle import sending_clause
from app.metrics import Gauge
from app.models import Connection
from app.protocol.states import ConnectionStatus
from app.reports.ailments import LOST_AFTER_MS
from app.reports.health import SKEW_FRESH_MS, readiness

#: Deliveries of one state and connection that are counted at most.
GAUGE_CAP = 10_000


def gauges() -> Iterator[Gauge]:
    """What is so now, for `/metrics`. What cannot be read is left out."""
    checks = _by({check["name"]: float(check["ok"]) for check in readiness()})
    yield Gauge("tidings_check_ok", "Whether what the instance needs is there.", checks, ("check",))
    with suppress(queue.Unavailable):
        yield from _queue_gauges()
    with suppress(OSError):
        free = shutil.disk_usage(settings().data_dir).free
        yield Gauge("tidings_disk_free_bytes", "Free bytes where DATA_DIR is.", {(): free})
    try:
        yield from _connection_gauges()
        yield from _delivery_gauges()
    except SQLAlchemyError:
        db.session.rollback()


def _by(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Numbers by the value of a gauge's one label."""
    return {(value,): number for value, number in values.items()}


def _queue_gauges() -> Iterator[Gauge]:
    live = queue.live_workers()
    yield Gauge("tidings_workers", "Workers that are alive.", {(): len(live)})
    beats, now_s = queue.heartbeats(), time.time()
    ages = _by({name: max(0.0, now_s - beats[name]) for name in live if name in beats})
    text = "Time since a worker's last sign of life."
    yield Gauge("tidings_worker_heartbeat_age_seconds", text, ages, ("worker",))
    queues = {name: queue.queue(name) for name in queue.QUEUES}
    waiting = _by({name: each.count for name, each in queues.items()})
    yield Gauge("tidings_queue_jobs", "Jobs that wait in a queue.", waiting, ("queue",))
    failed = _by({name: each.failed_job_registry.count for name, each in queues.items()})
    yield Gauge("tidings_queue_jobs_failed", "Jobs of a queue that failed lately.", failed, ("queue",))


def _connection_gauges() -> Iterator[Gauge]:
    counted: dict[tuple[str, ...], float] = {(status.value,): 0 for status in ConnectionStatus}
    rows = db.session.execute(sa.select(Connection.status, sa.func.count()).group_by(Connection.status))
    counted |= {(status.value,): count for status, count in rows}
    yield Gauge("tidings_connections", "Connections by status.", counted, ("status",))
    ailing = db.session.execute(
        sa.select(
            *[sa.func.coalesce(sa.func.sum(sa.case((each, 1), else_=0)), 0) for each in _kinds().values()]
        )
        .select_from(Connection)
        .where(Connection.status == ConnectionStatus.ACTIVE)
    ).one()
    by_kind = _by(dict(zip(_kinds(), ailing, strict=True)))
    text = "Active connections over which events do not flow freely, by what keeps them."
    yield Gauge("tidings_connections_ailing", text, by_kind, ("kind",))
    skew = db.session.scalar(
        sa.select(sa.func.max(sa.func.abs(Connection.clock_skew_ms))).where(
            Connection.status == ConnectionStatus.ACTIVE,
            Connection.clock_skew_at > clock.now_ms() - SKEW_FRESH_MS,
        )
    )
    text = "Largest difference between our clock and that of a peer."
    yield Gauge("tidings_clock_skew_seconds", text, {(): (skew or 0) / 1000})


def _kinds() -> dict[str, sa.ColumnElement[bool]]:
    """What may keep an active connection from sending, in words of `reports.ailments`; each by itself."""
    return {
        "breaker": Connection.breaker_opened_at.is_not(None),
        "failing": sa.and_(Connection.failures > 0, Connection.breaker_opened_at.is_(None)),
        "held": Connection.hold_code.is_not(None),
        "lost": Connection.denied_since <= clock.now_ms() - LOST_AFTER_MS,
        "key_review": Connection.key_review.is_(True),
        "paused": sa.or_(Connection.paused_outgoing, Connection.paused_incoming),
    }


#: Correlated two levels deep, which SQLAlchemy cannot write: each count ends in the index, at the cap, and
#: the oldest is the first of two stretches of it: of what has no number, and of what has one.
_OPEN_DELIVERIES = sa.text(
    "SELECT c.id,"
    " (SELECT count(*) FROM (SELECT 1 FROM delivery AS d"
    " WHERE d.connection_id = c.id AND d.state = 'pending' LIMIT :cap) AS a) AS pending,"
    " (SELECT count(*) FROM (SELECT 1 FROM delivery AS d"
    " WHERE d.connection_id = c.id AND d.state = 'sending' LIMIT :cap) AS a) AS sending,"
    " (SELECT count(*) FROM (SELECT 1 FROM delivery AS d"
    " WHERE d.connection_id = c.id AND d.state = 'dead' LIMIT :cap) AS a) AS dead,"
    " (SELECT d.created_at FROM delivery AS d"
    " WHERE d.connection_id = c.id AND d.state = 'pending' AND d.sequence IS NULL"
    " ORDER BY d.sequence, d.id LIMIT 1) AS first_new,"
    " (SELECT d.created_at FROM delivery AS d"
    " WHERE d.connection_id = c.id AND d.state = 'pending' AND d.sequence IS NOT NULL"
    " ORDER BY d.sequence, d.id LIMIT 1) AS first_numbered"
    " FROM connection AS c"
)


def _delivery_gauges() -> Iterator[Gauge]:
    """Counted connection by connection in the index of (connection, state), each no further than the cap."""
    sends = {
        id_: is_sending for id_, is_sending in db.session.execute(sa.select(Connection.id, sending_clause()))
    }
    counted = dict.fromkeys(("pending", "held", "sending", "dead"), 0)
    oldest: dict[str, int | None] = {"pending": None, "held": None}
    for row in db.session.execute(_OPEN_DELIVERIES, {"cap": GAUGE_CAP}):
        waits = "pending" if sends.get(row.id) else "held"
        counted[waits] += row.pending
        counted["sending"] += row.sending
        counted["dead"] += row.dead
        times = [at for at in (oldest[waits], row.first_new, row.first_numbered) if at is not None]
        oldest[waits] = min(times, default=None)
    text = f"Deliveries by status, counted up to {GAUGE_CAP} a connection."
    yield Gauge("tidings_deliveries_open", text, _by(counted), ("status",))
    now = clock.now_ms()
    ages = _by({k: 0.0 if at is None else max(0, now - at) / 1000 for k, at in oldest.items()})
    yield Gauge(
        "tidings_oldest_waiting_seconds", "Age of the delivery that waits longest.", ages, ("status",)
    )
