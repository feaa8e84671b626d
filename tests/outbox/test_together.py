"""Threads that want the same kind of thing at the same time."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.outbox import together
from app.outbox.together import Together


def test_somebody_alone_is_served_at_once_and_alone() -> None:
    turns: list[Sequence[int]] = []
    place: Together[int, int] = Together(lambda wishes: turns.append(wishes) or [n * n for n in wishes], 10)

    assert [place.do(3), place.do(4)] == [9, 16]
    assert turns == [[3], [4]]


class Crowd:
    """A place whose first turn lasts until so many others wait."""

    def __init__(self, waiting: int, most: int) -> None:
        self.turns: list[list[int]] = []
        self.place: Together[int, int] = Together(self._work, most)
        self._entered = threading.Event()
        self._all_wait = threading.Event()
        self._pool = ThreadPoolExecutor(waiting + 1)
        first = self._pool.submit(self.place.do, 0)
        assert self._entered.wait(10)
        self.rest = [self._pool.submit(self.place.do, n) for n in range(1, waiting + 1)]
        while len(self.place) < waiting:
            threading.Event().wait(0.001)
        self._all_wait.set()
        assert first.result(10) == 0

    def _work(self, wishes: Sequence[int]) -> list[int]:
        self.turns.append(list(wishes))
        if not self._entered.is_set():
            self._entered.set()
            assert self._all_wait.wait(10)
        if 13 in wishes:
            raise ValueError("13")
        return [n * n for n in wishes]


def test_those_who_come_meanwhile_are_served_in_one_turn_and_get_what_is_theirs() -> None:
    crowd = Crowd(waiting=5, most=100)

    results = [one.result(10) for one in crowd.rest]

    assert results == [1, 4, 9, 16, 25]
    assert [len(turn) for turn in crowd.turns] == [1, 5]


def test_a_turn_takes_no_more_than_it_may() -> None:
    crowd = Crowd(waiting=5, most=2)

    results = [one.result(10) for one in crowd.rest]

    assert results == [1, 4, 9, 16, 25]
    assert [len(turn) for turn in crowd.turns] == [1, 2, 2, 1]


def test_a_turn_that_fails_fails_for_all_in_it_and_for_nobody_else() -> None:
    crowd = Crowd(waiting=13, most=100)

    for one in crowd.rest:
        with pytest.raises(ValueError, match="13"):
            one.result(10)

    assert crowd.place.do(5) == 25


def test_after_two_crowded_turns_the_next_waits_for_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "GATHER_S", 10.0)
    crowd = Crowd(waiting=5, most=100)
    for one in crowd.rest:
        one.result(10)

    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(crowd.place.do, range(5)))

    assert results == [0, 1, 4, 9, 16]
    assert [len(turn) for turn in crowd.turns] == [1, 5, 5]


def test_whoever_is_expected_and_does_not_come_is_not_waited_for_again() -> None:
    crowd = Crowd(waiting=5, most=100)
    for one in crowd.rest:
        one.result(10)

    results = [crowd.place.do(n) for n in (6, 7, 8)]

    assert results == [36, 49, 64]
    assert [len(turn) for turn in crowd.turns] == [1, 5, 1, 1, 1]
