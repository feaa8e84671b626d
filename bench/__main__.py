"""Run the benchmark: `python -m bench [--engine sqlite|postgresql] [--smoke] [--out file.json]`."""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import sick
from bench.probe import signatures_per_second
from bench.work import Pair
from tests import engines


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    events: int = 5_000
    lone: int = 200
    waiting: int = 100_000
    waiting_for_dead: int = 5_000
    yardstick_s: float = 2.0


SMOKE = Size(events=200, lone=5, waiting=500, waiting_for_dead=500, yardstick_s=0.2)


@dataclass(frozen=True)
class Figure:
    """One line of the table. `at_most`: smaller is better; `ratio` is to the yardstick, if there is one."""

    engine: str
    name: str
    unit: str
    measured: float
    wanted: float | None
    at_most: bool
    ratio: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether it is as wanted; None if nothing is. Rates are wanted as a multiple of the yardstick."""
        if self.wanted is None:
            return None
        value = self.measured if self.ratio is None else self.ratio
        return value <= self.wanted if self.at_most else value >= self.wanted


#: What is wanted on (SQLite, PostgreSQL).
WANTED = {
    "batch": (0.9, 0.6),
    "single": (0.2, 0.15),
    "cpu": (0.6, 0.8),
    "lone": (15.0, 25.0),
    "second": (0.2, 0.2),
    "rest": (350.0, 350.0),
    "growth": (50.0, 50.0),
    # Within what two runs of the same thing differ by.
    "sick": (0.2, 0.2),
}


def measure(engine: str, pair: Pair, size: Size) -> Iterator[Figure]:
    """Everything about one engine, line by line."""
    column = ("sqlite", "postgresql").index(engine)

    def wanted(name: str) -> float:
        return WANTED[name][column]

    yield Figure(engine, "one instance at rest (PSS)", "MB", pair.memory_at_rest(), wanted("rest"), True)
    pair.subscribe()
    pair.batches(min(size.events, 500), 100, 2)

    yardsticks = [signatures_per_second(size.yardstick_s)]
    batch = pair.batches(size.events, 100, 2)
    yardsticks.append(signatures_per_second(size.yardstick_s))
    single = pair.singles(size.events, 8)
    yardsticks.append(signatures_per_second(size.yardstick_s))
    yardstick = statistics.mean(yardsticks)

    yield Figure(engine, "yardstick: RSA-2048 signatures, one thread", "/s", yardstick, None, False)
    yield _rate(engine, "W1, batches of 100, 2 clients", batch.rate, yardstick, wanted("batch"))
    yield _rate(engine, "W1, one event a call, 8 clients", single.rate, yardstick, wanted("single"))
    yield Figure(engine, "CPU an event in batches, both sides", "ms", batch.cpu_ms, wanted("cpu"), True)
    yield Figure(engine, "CPU an event in batches, publisher", "ms", batch.publisher_cpu_ms, None, True)
    yield Figure(engine, "CPU an event, one a call, both sides", "ms", single.cpu_ms, None, True)
    lone = sorted(pair.lone_events(size.lone))
    yield Figure(engine, "lone event, p50", "ms", statistics.median(lone), wanted("lone"), True)
    yield Figure(engine, "lone event, p99", "ms", lone[int(len(lone) * 0.99)], None, True)
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


@contextmanager
def running_pair(engine: str, **environ: str) -> Iterator[Pair]:
    """Two instances on an engine, with folders and databases that go away; environ: of the publisher."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidings-bench-")))
        urls: list[str] = []
        if engine == "postgresql":
            # As durable as PostgreSQL is by default.
            server = stack.enter_context(engines.postgresql(durable=True))
            urls = [server.url(server.create()) for _ in range(2)]
        pair = Pair(folder, urls)
        pair.alpha.environ.update(environ)
        stack.callback(pair.stop)
        yield pair.start()


def _show(figure: Figure) -> None:
    wanted = "" if figure.wanted is None else f"{'<=' if figure.at_most else '>='} {figure.wanted:g}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} x"
    verdict = {None: "", True: "met", False: "MISSED"}[figure.is_met]
    measured = f"{figure.measured:,.2f}" if figure.measured < 100 else f"{figure.measured:,.0f}"
    print(
        f"{figure.engine:<10} {figure.name:<46} {measured:>9} {figure.unit:<4} {ratio:>7} {wanted:>8}"
        f" {verdict}",
        flush=True,
    )


def main() -> int:
    """Measure, print, and write the figures as JSON if asked to. Figures that are missed are no error."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), action="append")
    parser.add_argument("--smoke", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures: list[Figure] = []
    for engine in options.engine or ("sqlite", "postgresql"):
        with running_pair(engine) as pair:
            for figure in measure(engine, pair, SMOKE if options.smoke else Size()):
                figures.append(figure)
                _show(figure)
    if options.out:
        rows = [asdict(figure) | {"met": figure.is_met} for figure in figures]
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
