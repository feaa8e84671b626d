"""Run the benchmark: `python -m bench [--engine sqlite|postgresql] [--smoke] [--out file.json] [--save]`.

--save keeps the figures in bench/latest.json, adds a line for each engine to bench/history.csv, and makes the
table and the picture of docs/explanation/performance.md anew. For that the machine should do nothing else.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import pages, probe, report, retention, sick, waiting
from bench.figure import Figure
from bench.probe import signatures_per_second
from bench.work import Pair, running_pair


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    events: int = 5_000
    lone: int = 200
    waiting: int = 100_000
    waiting_for_dead: int = 5_000
    yardstick_s: float = 2.0
    #: Events in the log while pages are read, and calls of each page.
    history: int = 1_000_000
    calls: int = 20
    #: Deliveries that wait for another peer.
    few: int = 1_000
    many: int = 1_000_000
    #: Old events that are deleted meanwhile.
    old: int = 100_000


SMOKE = Size(
    events=100,
    lone=3,
    waiting=200,
    waiting_for_dead=200,
    yardstick_s=0.1,
    history=500,
    calls=1,
    few=100,
    many=300,
    old=0,
)


#: What is wanted on (SQLite, PostgreSQL).
WANTED = {
    "batch": (1.8, 1.6),
    "single": (0.4, 0.3),
    "cpu": (0.30, 0.40),
    "lone": (8.0, 10.0),
    "lone p99": (25.0, 30.0),
    "second": (0.2, 0.2),
    "help": (0.5, 0.5),
    "ready": (2.0, 2.0),
    "rest": (300.0, 300.0),
    "growth": (50.0, 50.0),
    # Within what two runs of the same thing differ by.
    "sick": (0.2, 0.2),
    "waiting": (0.2, 0.2),
    "page": (pages.WANTED_MS, pages.WANTED_MS),
}


def measure(engine: str, pair: Pair, size: Size) -> Iterator[Figure]:
    """Everything about one engine, line by line."""
    column = ("sqlite", "postgresql").index(engine)

    def wanted(name: str) -> float:
        return WANTED[name][column]

    yield Figure(engine, "flask --help, CPU", "s", probe.cpu_of_help_s(), wanted("help"), True)
    yield Figure(engine, "flask up, until it is ready", "s", pair.ready_s, wanted("ready"), True)
    yield Figure(engine, report.REST, "MB", pair.memory_at_rest(), wanted("rest"), True)
    pair.subscribe()
    pair.batches(min(size.events, 500), 100, 2)

    yardsticks = [signatures_per_second(size.yardstick_s)]
    batch = pair.batches(size.events, 100, 2)
    yardsticks.append(signatures_per_second(size.yardstick_s))
    single = pair.singles(size.events, 8)
    yardsticks.append(signatures_per_second(size.yardstick_s))
    yardstick = statistics.mean(yardsticks)

    yield Figure(engine, report.YARDSTICK, "/s", yardstick, None, False)
    yield _rate(engine, report.BATCH, batch.rate, yardstick, wanted("batch"))
    yield _rate(engine, report.SINGLE, single.rate, yardstick, wanted("single"))
    yield Figure(engine, report.CPU, "ms", batch.cpu_ms, wanted("cpu"), True)
    yield Figure(engine, "CPU an event in batches, publisher", "ms", batch.publisher_cpu_ms, None, True)
    yield Figure(engine, "CPU an event, one a call, both sides", "ms", single.cpu_ms, None, True)
    lone = sorted(pair.lone_events(size.lone))
    yield Figure(engine, report.LONE, "ms", statistics.median(lone), wanted("lone"), True)
    yield Figure(engine, report.LONE_P99, "ms", lone[int(len(lone) * 0.99)], wanted("lone p99"), True)
    growth = pair.growth_while_draining(size.waiting)
    name = f"growth of a process, {size.waiting:,} waiting"
    yield Figure(engine, name, "MB", growth, wanted("growth"), True)

    pair.subscribe_again()
    double = pair.batches(size.events, 100, 2)
    second = double.publisher_cpu_ms / batch.publisher_cpu_ms - 1
    yield Figure(
        engine, "second subscriber, publisher's CPU to the first", "x", second, wanted("second"), True
    )
    yield from _sick(engine, pair, size, wanted("sick"))
    yield from _many(engine, pair, size, wanted)


def _many(engine: str, pair: Pair, size: Size, wanted: Callable[[str], float]) -> Iterator[Figure]:
    """What large numbers cost: pages and lists with a long history, deliveries beside many that wait."""
    pages.fill(pair, size.history)
    for path, ms in pages.measure(pair, size.calls):
        yield Figure(engine, f"{report.PAGE}{path}", "ms", ms, wanted("page"), True)
    few, many = waiting.measure(pair, size.few, size.many, size.events, size.lone)
    beside = f"beside {size.many:,} that wait, to {size.few:,}"
    yield Figure(engine, f"CPU {beside}, growth", "x", many.cpu / few.cpu - 1, wanted("waiting"), True)
    yield Figure(
        engine, f"lone event {beside}, growth", "x", many.lone / few.lone - 1, wanted("waiting"), True
    )


def _sick(engine: str, pair: Pair, size: Size, wanted: float | None) -> Iterator[Figure]:
    """What sick peers cost healthy ones."""
    costs = sick.measure(pair, size.lone, size.waiting_for_dead, size.events)
    dead = f"lone event beside {size.waiting_for_dead:,} for a dead peer, growth"
    yield Figure(engine, dead, "x", costs.growth(costs.beside_dead), wanted, True)
    hanging = f"lone event as {sick.HANGING} peers begin to hang, growth"
    yield Figure(engine, hanging, "x", costs.growth(costs.beside_hanging), wanted, True)
    worst = sorted(costs.beside_hanging)[int(len(costs.beside_hanging) * 0.99)]
    yield Figure(engine, "lone event beside peers that hang, p99", "ms", worst, None, True)
    loss = costs.rate_alone / costs.rate_beside - 1
    yield Figure(engine, "W1 beside them, time by which it is longer", "x", loss, wanted, True)
    outage = costs.rate_after_outage / costs.rate_alone
    yield Figure(engine, "drain after an outage, to W1", "x", outage, 1.0, False)


def _rate(engine: str, name: str, rate: float, yardstick: float, wanted: float) -> Figure:
    return Figure(engine, name, "/s", rate, wanted, False, rate / yardstick)


def main() -> int:
    """Measure, print, and write the figures as JSON if asked to. Figures that are missed are no error."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--smoke", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--save", action="store_true", help="keep the figures, and make their page")
    options = parser.parse_args()
    size = SMOKE if options.smoke else Size()
    figures: list[Figure] = []
    for engine in options.engine or ("sqlite", "postgresql"):
        with running_pair(engine) as pair:
            for figure in measure(engine, pair, size):
                figures.append(figure)
                figure.show()
        if size.old:
            for figure in retention.measure(engine, size.old, size.lone):
                figures.append(figure)
                figure.show()
    rows = [asdict(figure) | {"met": figure.is_met} for figure in figures]
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if options.save:
        report.save(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
