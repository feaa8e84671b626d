"""Retention beside delivery: `python -m bench.retention [--engine sqlite|postgresql] [--rows 100000]`.

Two instances run; the publisher gets so many old events with their deliveries, and then they are deleted
while events go on being published one by one. What counts is how much longer a lone event takes meanwhile,
and how long the longest piece held its locks. PostgreSQL should stand 10,000,000 rows (--rows).
"""

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from app import create_app
from app.config import Config
from app.database import db
from app.jobs import retention
from bench.__main__ import Figure, _show, running_pair
from bench.work import Pair

DAY_MS = 86_400_000
#: Of an app that signs nothing.
_SECRET = "-" * 32
#: Rows of one statement.
CHUNK = 20_000
#: A lone event may take so much longer, and a piece hold its locks for so long (ms).
SLOWER, LONGEST_MS = 2.0, 1_000.0

_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS"
    " (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)",
    "postgresql": "WITH numbers(n) AS"
    " (SELECT generate_series(CAST(:first AS bigint), CAST(:last AS bigint)))",
}
_ID = {
    "sqlite": "printf('00000000-0000-4000-8000-%012x', n)",
    "postgresql": "'00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0')",
}
_EVENTS = """
{numbers}
INSERT INTO event (workspace_id, direction, message_id, event_type, body, signature, key_id, digest,
                   timestamp, status, created_at)
SELECT :workspace, 'outgoing', {id}, 'bench.old', :body, 'c2ln', 'k-old', '', :at + n, 'delivered', :at + n
FROM numbers
"""
_DELIVERIES = """
INSERT INTO delivery (workspace_id, event_id, connection_id, event_type, state, attempts, refusals,
                      next_attempt_at, trigger, created_at, delivered_at)
SELECT workspace_id, id, :connection, event_type, 'delivered', 1, 0, created_at, 'auto', created_at,
       created_at
FROM event WHERE event_type = 'bench.old' AND created_at BETWEEN :at + :first AND :at + :last
"""


def fill(engine: str, rows: int) -> None:
    """Write so many events of 40 days ago, each with a delivery that arrived. In the current app."""
    at = time.time_ns() // 1_000_000 - 40 * DAY_MS
    with db.engine.begin() as connection:
        workspace, to = connection.execute(sa.text("SELECT workspace_id, id FROM connection LIMIT 1")).one()
    events = sa.text(_EVENTS.format(numbers=_NUMBERS[engine], id=_ID[engine]))
    for first in range(1, rows + 1, CHUNK):
        bounds = {"first": first, "last": min(first + CHUNK - 1, rows), "at": at}
        with db.engine.begin() as connection:
            connection.execute(events, {**bounds, "workspace": workspace, "body": "x" * 900})
            connection.execute(sa.text(_DELIVERIES), {**bounds, "connection": to})


def while_deleting(pair: Pair, purge: Callable[[], object]) -> list[float]:
    """How long lone events took, ms, as long as the deletion went on."""
    thread = threading.Thread(target=purge)
    took: list[float] = []
    thread.start()
    while thread.is_alive():
        took += pair.lone_events(10, warm_up=0)
    thread.join()
    return took


def measure(engine: str, rows: int, events: int) -> list[Figure]:
    """The figures of one engine."""
    # The publisher itself deletes nothing: what deletes is measured here.
    with running_pair(engine, RETENTION_DAYS="36500") as pair:
        pair.subscribe()
        app = create_app(
            Config.from_env({**pair.alpha.environ, "RETENTION_DAYS": "30", "SECRET_KEY": _SECRET})
        )
        before = sorted(pair.lone_events(events))
        pace = retention.Pace(float("inf"), time.sleep)

        def purge() -> None:
            with app.app_context():
                retention.work_off(pace)

        with app.app_context():
            fill(engine, rows)
        began = time.perf_counter()
        during = sorted(while_deleting(pair, purge))
        seconds = time.perf_counter() - began
        with app.app_context():
            left = db.session.scalar(sa.text("SELECT count(*) FROM event WHERE event_type = 'bench.old'"))
            db.session.remove()
            db.engine.dispose()
    if left:
        raise RuntimeError(f"{left} old events are left")
    p50, p50_during = statistics.median(before), statistics.median(during)
    p99, p99_during = before[int(len(before) * 0.99)], during[int(len(during) * 0.99)]
    return [
        Figure(engine, f"old events deleted, of {rows:,}", "/s", rows / seconds, None, False),
        Figure(engine, "longest piece of a deletion", "ms", pace.longest_s * 1000, LONGEST_MS, True),
        Figure(engine, "lone event, p50, before", "ms", p50, None, True),
        Figure(engine, "lone event, p50, while deleting, to before", "x", p50_during / p50, SLOWER, True),
        Figure(engine, "lone event, p99, before", "ms", p99, None, True),
        Figure(engine, "lone event, p99, while deleting", "ms", p99_during, LONGEST_MS, True),
    ]


def main() -> int:
    """Measure and print. Figures that are missed are no error."""
    parser = argparse.ArgumentParser(prog="bench.retention", description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--rows", type=int, default=100_000, help="old events to delete")
    parser.add_argument("--events", type=int, default=200, help="lone events before")
    options = parser.parse_args()
    for engine in options.engine or ("sqlite", "postgresql"):
        for figure in measure(engine, options.rows, options.events):
            _show(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
