"""The circuit breaker of a connection: when it opens, what a probe costs, and what closes it (§8)."""

import logging

import pytest
import sqlalchemy as sa

from app import queue
from app.database import db, transaction
from app.federation import connections
from app.federation.lifecycle import lock
from app.federation.receiving import heard_from
from app.models import Attempt, Connection
from app.outbox import rescue
from app.outbox.deliver import drain
from app.protocol.states import DeliveryState
from app.transport.errors import ConnectFailed, DeadlineExceeded
from tests.exchange import json_answer, problem_answer

#: Wait after each failure in a row, in seconds: four of the schedule, spread by a fifth, then the probes.
WAITS = [
    (4, 6),
    (12, 18),
    (36, 54),
    (108, 162),
    (30, 30),
    (60, 60),
    (120, 120),
    (240, 240),
    (480, 480),
    (960, 960),
    (1920, 1920),
    (3600, 3600),
    (3600, 3600),
]


def hang(_batch):
    raise DeadlineExceeded("no answer within 15 s")


def refuse(_batch):
    raise ConnectFailed("refused")


def fail(scene, now, times, answer=hang):
    """Let so many requests in a row fail, each at its time; the waits after them in ms."""
    scene.peer.answer = answer
    waits = []
    for _ in range(times):
        drain(scene.connection.id)
        waits.append(scene.reload().retry_at - now.now_ms)
        now.advance(max(0, waits[-1]))
    return waits


@pytest.fixture
def engine() -> str:
    """When a breaker opens is the same whatever the database is."""
    return "sqlite"


def test_failures_in_a_row_wait_by_the_schedule_and_then_by_probes(scene, publish, now):
    publish(1)

    waits = fail(scene, now, len(WAITS))

    assert [low * 1000 <= wait <= high * 1000 for wait, (low, high) in zip(waits, WAITS, strict=True)] == [
        True
    ] * len(WAITS), waits


@pytest.mark.parametrize(
    "answer",
    [
        hang,
        refuse,
        lambda batch: problem_answer(500, "internal_error"),
        lambda batch: problem_answer(599, "never_heard_of"),
        lambda batch: json_answer(404, b"<html>", "text/html"),
        lambda batch: json_answer(200, b"{}"),
    ],
    ids=["no answer", "refused", "500", "599", "no problem document", "no valid ack"],
)
def test_five_network_or_5xx_failures_in_a_row_open_it(scene, publish, now, answer):
    publish(1)

    fail(scene, now, 4, answer)
    before = scene.reload().breaker_opened_at
    opened_at = now.now_ms
    fail(scene, now, 1, answer)

    assert before is None
    assert scene.reload().breaker_opened_at == opened_at


def test_a_probe_is_one_request_with_one_event_and_the_others_use_no_attempt(scene, publish, rows, now):
    publish(3)

    fail(scene, now, 7)

    assert [len(batch["events"]) for batch in scene.peer.requests] == [3, 3, 3, 3, 3, 1, 1]
    assert [row.attempts for row in rows()] == [7, 5, 5]
    assert {row.state for row in rows()} == {DeliveryState.PENDING}


def test_between_probes_nothing_goes_and_nothing_is_woken(scene, publish, now):
    publish(1)
    fail(scene, now, 5)
    now.advance(-1)
    queue.redis_client().flushdb()

    drain(scene.connection.id)
    woken = rescue.sweep()

    assert len(scene.peer.requests) == 5
    assert woken == 0


def test_the_sweep_wakes_the_probe_apart_from_healthy_peers(scene, publish, now):
    publish(1)
    fail(scene, now, 5)
    queue.redis_client().flushdb()

    rescue.sweep()

    assert queue.queue(queue.DELIVERIES).jobs == []
    assert [job.args for job in queue.queue(queue.DELIVERIES_FAILING).jobs] == [[scene.connection.id]]


def test_a_probe_that_passes_closes_it_and_the_rest_goes_in_full_batches(scene, publish, rows, now):
    publish(250)
    fail(scene, now, 6)
    before = len(scene.peer.requests)
    scene.peer.answer = None

    drain(scene.connection.id)

    assert [len(batch["events"]) for batch in scene.peer.requests[before:]] == [1, 100, 100, 49]
    assert is_well(scene.reload())
    assert {row.state for row in rows()} == {DeliveryState.DELIVERED}


def test_any_verified_request_of_the_peer_closes_it(scene, publish, now):
    publish(1)
    fail(scene, now, 6)
    scene.peer.answer = None
    queue.redis_client().flushdb()

    with transaction():
        heard_from(lock(scene.connection.id))

    assert is_well(scene.reload())
    assert [job.args for job in queue.queue(queue.DELIVERIES).jobs] == [[scene.connection.id]]


def test_retry_now_closes_it(scene, publish, now):
    publish(1)
    fail(scene, now, 6)

    connections.retry_now(scene.connection.id)

    assert is_well(scene.reload())


def test_what_the_peer_says_while_a_probe_hangs_counts_from_the_beginning(scene, publish, now):
    publish(1)
    fail(scene, now, 6)

    def speak_and_hang(_batch):
        with transaction():
            heard_from(lock(scene.connection.id))
        hang(_batch)

    fail(scene, now, 1, speak_and_hang)

    connection = scene.reload()
    assert (connection.failures, connection.breaker_opened_at) == (1, None)


def test_another_refusal_ends_the_row(scene, publish, now):
    publish(1)
    fail(scene, now, 4)
    scene.peer.answer = lambda batch: problem_answer(413, "too_large")

    drain(scene.connection.id)

    assert is_well(scene.reload())


def test_clocks_that_differ_are_a_failure_but_open_nothing(scene, publish, now):
    publish(1)

    waits = fail(scene, now, 6, lambda batch: problem_answer(401, "clock_skew"))

    connection = scene.reload()
    assert (connection.failures, connection.breaker_opened_at) == (6, None)
    assert waits[5] >= 5_000 * 3**5 * 0.8


@pytest.mark.parametrize("status", [429, 503])
def test_a_wish_to_wait_is_no_failure_and_no_attempt(scene, publish, rows, now, status):
    code = {429: "rate_limited", 503: "overloaded"}[status]
    publish(2)

    waits = fail(scene, now, 3, lambda batch: problem_answer(status, code, **{"retry-after": "90"}))

    connection = scene.reload()
    assert waits == [90_000] * 3
    assert (connection.failures, connection.wait_code) == (0, code)
    assert [row.attempts for row in rows()] == [0, 0]


#: Wait after each answer in a row that does not say how long, in seconds: the schedule, up to an hour.
UNTOLD = [(4, 6), (12, 18), (36, 54), (108, 162), (324, 486), (972, 1458), (2916, 3600), (3600, 3600)]


@pytest.mark.parametrize("told", [{}, {"retry-after": "soon"}, {"retry-after": "-5"}], ids=["", "soon", "-5"])
def test_a_wish_to_wait_that_does_not_say_how_long_is_asked_ever_more_seldom(scene, publish, rows, now, told):
    publish(2)

    waits = fail(scene, now, len(UNTOLD), lambda batch: problem_answer(503, "overloaded", **told))

    assert [low * 1000 <= wait <= high * 1000 for wait, (low, high) in zip(waits, UNTOLD, strict=True)] == [
        True
    ] * len(UNTOLD), waits
    assert (scene.reload().failures, [row.attempts for row in rows()]) == (0, [0, 0])


def test_waits_that_were_not_told_begin_anew_after_one_that_was_and_after_an_ack(scene, publish, now):
    publish(1)
    busy = {"answer": lambda batch: problem_answer(503, "overloaded")}
    grown = fail(scene, now, 3, **busy)

    fail(scene, now, 1, lambda batch: problem_answer(503, "overloaded", **{"retry-after": "90"}))
    after_told = fail(scene, now, 2, **busy)
    fail(scene, now, 1, None)
    publish(1)
    after_ack = fail(scene, now, 1, **busy)

    assert grown[2] >= 36_000
    assert after_told[0] <= 6_000 < after_told[1]
    assert after_ack[0] <= 6_000


def test_a_wait_that_was_not_told_ends_when_the_peer_speaks_to_us(scene, publish, now):
    publish(1)
    fail(scene, now, 3, lambda batch: problem_answer(503, "overloaded"))

    with transaction():
        heard_from(lock(scene.connection.id))

    assert is_well(scene.reload())


def test_a_wish_to_wait_is_kept_though_the_peer_speaks_to_us(scene, publish, now):
    publish(1)
    scene.peer.answer = lambda batch: problem_answer(429, "rate_limited", **{"retry-after": "90"})
    drain(scene.connection.id)

    with transaction():
        heard_from(lock(scene.connection.id))

    assert scene.reload().retry_at == now.now_ms + 90_000


def test_opening_and_closing_are_told_once(scene, publish, now, caplog):
    publish(1)
    with caplog.at_level(logging.INFO):
        fail(scene, now, 8)
        scene.peer.answer = None
        drain(scene.connection.id)

    told = [record.message for record in caplog.records if record.message.startswith("breaker.")]
    assert told == ["breaker.opened", "breaker.closed"]


def test_each_request_leaves_one_row_however_many_wait(scene, publish, now):
    publish(300)

    fail(scene, now, 8)

    assert db.session.scalar(sa.select(sa.func.count()).select_from(Attempt)) == 8


def is_well(connection: Connection) -> bool:
    """Whether nothing of a breaker is left."""
    return (
        connection.failures,
        connection.network_failures,
        connection.retry_at,
        connection.breaker_opened_at,
        connection.wait_code,
    ) == (0, 0, 0, None, None)
