"""The retry schedule, the probes of the breaker, and Retry-After."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import backoff

HOUR = 3_600_000
NOW = 1_767_225_600_000  # Thu, 01 Jan 2026 00:00:00 GMT


class Middle(Random):
    """Chance that always falls in the middle."""

    def random(self) -> float:
        return 0.5


def test_retries_come_after_5_s_then_three_times_as_late_up_to_6_h():
    delays = [backoff.retry_delay(failures, Middle()) for failures in range(10)]

    seconds = [5, 15, 45, 135, 405, 1215, 3645, 10_935, 21_600, 21_600]
    assert delays == [second * 1000 for second in seconds]


@given(st.integers(0, 10**6), st.integers())
def test_retries_are_spread_by_a_fifth(failures, seed):
    middle = backoff.retry_delay(failures, Middle())

    delay = backoff.retry_delay(failures, Random(seed))

    assert 0.8 * middle - 1 <= delay <= 1.2 * middle + 1


def test_probes_come_after_30_s_then_twice_as_late_up_to_an_hour():
    delays = [backoff.probe_delay(probes) // 1000 for probes in [*range(9), 10**6]]

    assert delays == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_breaker_opens_at_five_failures_in_a_row():
    assert [backoff.is_breaker_open(failures) for failures in (0, 4, 5, 6)] == [False, False, True, True]


@pytest.mark.parametrize(
    "value, wait",
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("0", 1000),
        ("7", 7000),
        (" 7 ", 7000),
        ("3600", HOUR),
        ("999999999999999999", HOUR),
        ("1" * 5000, None),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60_000),
        ("Thu, 01 Jan 2026 05:00:00 GMT", HOUR),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 1000),
        ("Thu, 01 Jan 2026 00:01:00", 60_000),
        ("Thu, 99 Jan 2026 00:01:00 GMT", None),
        ("Thu, 01 Jan 99999 00:01:00 GMT", None),
    ],
)
def test_retry_after_is_held_to_a_second_and_an_hour(value, wait):
    assert backoff.parse_retry_after(value, NOW) == wait


@given(st.text(max_size=30))
def test_any_retry_after_is_a_wait_or_nothing(value):
    wait = backoff.parse_retry_after(value, NOW)

    assert wait is None or 1000 <= wait <= HOUR
