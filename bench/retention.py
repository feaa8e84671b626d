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
from bench import rows as many
from bench.figure import Figure
from bench.work import Pair, running_pair

#: Of an app that signs nothing.
_SECRET = "-" * 32
#: A lone event may take so much longer, and a piece hold its locks for so long (ms).
SLOWER, LONGEST_MS = 2.0, 1_000.0


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

        place = many.place_of(pair.database, pair.connections[0])
        many.outgoing(pair.database, place, many.OLD, rows, days=40, attempts=False)
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
        Figure(engine, "lone event before a deletion, p50", "ms", p50, None, True),
        Figure(engine, "lone event while deleting, p50 to before", "x", p50_during / p50, SLOWER, True),
        Figure(engine, "lone event before a deletion, p99", "ms", p99, None, True),
        Figure(engine, "lone event while deleting, p99", "ms", p99_during, LONGEST_MS, True),
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
            figure.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
