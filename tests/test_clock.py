"""The clock: true, wrong on purpose, or standing still."""

import time

import pytest

from app import clock


@pytest.fixture
def offset():
    yield clock.set_offset_ms
    clock.set_offset_ms(0)


def test_clock_tells_unix_time_in_ms():
    before = time.time_ns() // 1_000_000

    now = clock.now_ms()

    assert before <= now <= time.time_ns() // 1_000_000


def test_offset_moves_the_clock(offset):
    offset(-3_600_000)

    assert abs(clock.now_ms() - (time.time() - 3600) * 1000) < 5_000


def test_frozen_clock_stands_still_until_it_is_moved(offset):
    offset(1000)

    with clock.frozen_at(5) as frozen:
        assert clock.now_ms() == 5
        frozen.advance(10)
        assert clock.now_ms() == 15
        with clock.frozen_at(7):
            assert clock.now_ms() == 7
        assert clock.now_ms() == 15

    assert clock.now_ms() > 15


def test_clock_runs_again_after_a_failure():
    with pytest.raises(LookupError), clock.frozen_at(5):
        raise LookupError

    assert clock.now_ms() > 5


def test_monotonic_time_never_goes_back_or_freezes():
    with clock.frozen_at(5):
        first, second = clock.monotonic(), clock.monotonic()

    assert 5 != first <= second
