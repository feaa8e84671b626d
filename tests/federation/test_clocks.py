"""How far a peer's clock is from ours: measured at every answer, and what waits because of it."""

from typing import Any

import pytest

from app import clock
from app.backoff import parse_http_date
from app.database import db, transaction
from app.federation import clocks, connections
from app.federation.clocks import in_words, skew_ms
from app.models import Connection
from app.transport.client import Answer
from tests.federation.conftest import Pair

NOON = "Mon, 01 Jun 2026 12:00:00 GMT"
NOON_MS = 1_780_315_200_000


def answer(date: str | None = None, duration_ms: int = 0) -> Answer:
    return Answer(200, {} if date is None else {"date": date}, b"", duration_ms)


@pytest.mark.parametrize(
    ("date", "told", "skew"),
    [
        (None, None, None),
        (NOON, None, 500),
        (NOON, NOON_MS + 7, 7),
        (None, NOON_MS - 90_000, -90_000),
        ("Mon, 01 Jun 2026 12:10:00 GMT", None, 600_500),
        ("yesterday", None, None),
        ("", None, None),
        (NOON, "12:00", 500),
        (NOON, True, 500),
        (None, 2**53, None),
        (None, -(2**60), None),
    ],
)
def test_an_ack_tells_it_by_the_millisecond_and_a_date_by_the_second(
    date: str | None, told: Any, skew: int | None
) -> None:
    with clock.frozen_at(NOON_MS):
        assert skew_ms(answer(date), told) == skew


def test_a_slow_network_makes_no_skew() -> None:
    with clock.frozen_at(NOON_MS):
        # Four seconds under way: written half-way, two seconds ago.
        assert skew_ms(answer(duration_ms=4_000), NOON_MS - 2_000) == 0


def test_a_date_is_read_as_it_is_meant() -> None:
    assert parse_http_date(NOON) == NOON_MS


@pytest.mark.parametrize(
    ("skew", "words"),
    [
        (1_200, "1.2 s ahead of ours"),
        (-119_000, "119.0 s behind ours"),
        (600_000, "10 min ahead of ours"),
        (-86_400_000, "24 h behind ours"),
        (3 * 86_400_000, "3 d ahead of ours"),
    ],
)
def test_a_skew_has_words(skew: int, words: str) -> None:
    assert in_words(skew) == words


def test_what_refuses_is_five_minutes() -> None:
    assert clocks.REFUSED_MS == 300_000


def test_every_answer_to_a_control_message_measures_it(connected: Pair) -> None:
    before = connected.alpha.connection().clock_skew_at

    connected.alpha.do(connections.verify, connected.alpha.connection().id)

    after = connected.alpha.connection()
    assert after.clock_skew_at is not None
    assert before is None or after.clock_skew_at >= before
    assert abs(after.clock_skew_ms or 0) < 5_000


def test_what_waits_for_clocks_goes_when_the_peer_takes_ours_again(connected: Pair) -> None:
    number = connected.alpha.connection().id
    connected.alpha.do(_wait_for_clocks, number)

    connected.alpha.do(connections.verify, number)

    connection = connected.alpha.connection()
    assert (connection.retry_at, connection.failures, connection.wait_code) == (0, 0, None)


def _wait_for_clocks(connection_id: int) -> None:
    with transaction():
        connection = db.session.get_one(Connection, connection_id)
        connection.failures, connection.retry_at, connection.wait_code = 4, 2**50, "clock_skew"
