"""Counters and histograms that all processes share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import metrics
from app.metrics import Counter, Gauge, Histogram


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the numbers go."""
    metrics.start(tmp_path)
    yield tmp_path
    metrics.stop()


def lines(folder: Path, *gauges: Gauge) -> list[str]:
    return metrics.exposition(folder, gauges).decode().splitlines()


def test_numbers_of_two_processes_are_added(folder: Path) -> None:
    counter = Counter("t_things", "Things.", ("kind",))
    counter.inc("a")
    child = os.fork()
    if child == 0:
        counter.inc("a", amount=2)
        os._exit(0)
    os.waitpid(child, 0)

    found = lines(folder)

    assert 't_things_total{kind="a"} 3.0' in found
    assert len(list(folder.glob("counter_*.db"))) == 2


def test_a_histogram_counts_below_each_bound(folder: Path) -> None:
    histogram = Histogram("t_seconds", "Time.", (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)

    found = lines(folder)

    assert [line for line in found if not line.startswith("#")] == [
        "t_seconds_sum 12.0",
        't_seconds_bucket{le="1.0"} 2.0',
        't_seconds_bucket{le="2.0"} 3.0',
        't_seconds_bucket{le="+Inf"} 4.0',
        "t_seconds_count 4.0",
    ]


def test_a_fresh_start_begins_at_zero(folder: Path) -> None:
    counter = Counter("t_things", "Things.")
    counter.inc()

    metrics.start(folder, fresh=True)

    assert lines(folder) == []


def test_nothing_is_written_before_the_start(tmp_path: Path) -> None:
    metrics.stop()

    Counter("t_things", "Things.").inc()

    assert list(tmp_path.iterdir()) == []


def test_a_gauge_is_as_it_is_told(tmp_path: Path) -> None:
    found = lines(tmp_path / "none", Gauge("t_now", "Now.", {("x",): 2}, ("state",)))

    assert 't_now{state="x"} 2.0' in found
