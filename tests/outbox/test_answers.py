"""What each row of §9's tables, and each sentence of §8, does to the rows of the database."""

from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.federation.lifecycle import lock
from app.federation.receiving import heard_from
from app.models import ControlOut, Stream, Subscription
from app.outbox import rescue
from app.outbox.deliver import drain
from app.protocol.errors import CODES
from app.protocol.states import ConnectionStatus
from tests.exchange import json_answer, problem_answer

DAY_MS = 86_400_000
EPOCH_OLD_MS = 60_000


class Then(NamedTuple):
    """What is so after a request with one event got an answer."""

    state: str
    #: The code that holds the queue.
    held: bool = False
    #: Failed requests in a row.
    failures: int = 0
    #: Whether the next request waits.
    waits: bool = False
    attempts: int = 1
    #: Whether the grant is flagged as stale.
    stale: bool = False
    epochs: int = 1


DEAD = Then("dead")
HELD = Then("pending", held=True, attempts=0)
AGAIN = Then("pending", failures=1, waits=True)
WAIT = Then("pending", waits=True, attempts=0)
#: Refused once under the old epoch, and sent under the new one.
RENUMBERED = Then("delivered", attempts=2, epochs=2)

#: §9, row by row: the codes of both tables.
ROWS = {
    "invalid_request": DEAD,
    "unsupported_version": DEAD,
    "authentication_failed": HELD,
    "key_untrusted": HELD,
    "clock_skew": AGAIN,
    "invalid_issuer": HELD,
    "access_denied": HELD,
    "blocked": HELD,
    "connection_suspended": HELD,
    "not_found": HELD,
    "method_not_allowed": HELD,
    "unsupported_media_type": DEAD,
    "not_subscribed": DEAD._replace(stale=True),
    "payload_invalid": DEAD,
    "message_id_conflict": HELD,
    "invalid_state": HELD,
    "sequence_conflict": RENUMBERED,
    "event_expired": DEAD,
    "replay_gone": DEAD,
    "connection_closed": HELD,
    "too_large": DEAD,
    "rate_limited": WAIT,
    "overloaded": WAIT,
    "internal_error": AGAIN,
}


@pytest.fixture
def engine() -> str:
    """What follows from an answer is the same whatever the database is."""
    return "sqlite"


def seen(scene, rows) -> Then:
    connection, [row] = scene.reload(), rows()
    return Then(
        row.state.value,
        connection.hold_code is not None,
        connection.failures,
        connection.retry_at > clock.now_ms(),
        row.attempts,
        any(db.session.scalars(sa.select(Subscription.stale_at)).all()),
        len(db.session.scalars(sa.select(Stream)).all()),
    )


def once(scene, answer: Any, now: Any = None) -> None:
    """The next request gets this answer, those after it are acknowledged.

    now: a clock that is a minute on then, so that a new epoch may follow at once.
    """

    def reply(batch):
        scene.peer.answer = None
        if now is not None:
            now.advance(EPOCH_OLD_MS)
        return answer(batch)

    scene.peer.answer = reply


def test_the_table_has_every_code():
    assert set(ROWS) == set(CODES)


@pytest.mark.parametrize("code", ROWS)
def test_each_code_for_one_event_does_what_its_row_says(scene, publish, rows, now, code):
    publish(1)
    once(scene, lambda batch: problem_answer(CODES[code].status, code), now)

    drain(scene.connection.id)

    assert seen(scene, rows) == ROWS[code]
    assert scene.reload().status is ConnectionStatus.ACTIVE


@pytest.mark.parametrize("code", [code for code, then in ROWS.items() if then.state == "dead"])
def test_each_code_that_ends_an_event_halves_a_batch_until_it_stands_alone(scene, publish, rows, now, code):
    publish(4)
    bad = {2}
    scene.peer.answer = lambda batch: (
        problem_answer(CODES[code].status, code)
        if bad & {entry["sequence"] for entry in batch["events"]}
        else scene.peer.acknowledge(batch)
    )

    drain(scene.connection.id)

    assert scene.peer.sent()[:3] == [[1, 2, 3, 4], [1, 2], [1]]
    assert [(row.sequence, row.state.value) for row in rows()] == [
        (1, "delivered"),
        (2, "dead"),
        (3, "delivered"),
        (4, "delivered"),
    ]


@pytest.mark.parametrize("code", [code for code, then in ROWS.items() if then.state == "dead"])
def test_the_peer_is_told_that_the_number_will_not_come(scene, publish, rows, now, code):
    publish(1)
    once(scene, lambda batch: problem_answer(CODES[code].status, code))

    drain(scene.connection.id)

    [gap] = db.session.scalars(sa.select(ControlOut.body).where(ControlOut.type == "gap"))
    assert '"fromSequence":1,"reason":"refused"' in gap


@pytest.mark.parametrize("code", [code for code, then in ROWS.items() if then.held])
def test_each_code_that_holds_is_left_alone_until_somebody_acts(scene, publish, rows, now, code):
    publish(1)
    scene.peer.answer = lambda batch: problem_answer(CODES[code].status, code)
    drain(scene.connection.id)
    publish(1)
    now.advance(DAY_MS)

    woken = rescue.sweep()
    drain(scene.connection.id)

    assert woken == 0
    assert len(scene.peer.requests) == 1
    assert (scene.reload().hold_code, scene.reload().failures) == (code, 0)


@pytest.mark.parametrize("code", ["connection_suspended", "access_denied", "key_untrusted"])
def test_a_hold_that_passes_by_itself_ends_when_the_peer_speaks(scene, publish, rows, now, code):
    publish(1)
    once(scene, lambda batch: problem_answer(CODES[code].status, code))
    drain(scene.connection.id)

    with transaction():
        heard_from(lock(scene.connection.id))
    drain(scene.connection.id)

    assert [row.state.value for row in rows()] == ["delivered"]


#: §8, "unknown codes are read by status", and answers that are no document at all.
STATUSES = {
    400: DEAD,
    401: HELD,
    402: DEAD,
    403: HELD,
    404: HELD,
    405: HELD,
    409: HELD,
    410: DEAD,
    413: DEAD,
    415: DEAD,
    418: DEAD,
    422: DEAD,
    429: WAIT,
    500: AGAIN,
    502: AGAIN,
    503: WAIT,
    504: AGAIN,
}


@pytest.mark.parametrize("status", STATUSES)
def test_an_unknown_code_is_read_by_its_status(scene, publish, rows, now, status):
    publish(1)
    once(scene, lambda batch: problem_answer(status, "never_heard_of"))

    drain(scene.connection.id)

    assert seen(scene, rows) == STATUSES[status]


@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 400, 401, 403, 404, 410, 422, 500, 502])
def test_what_is_neither_a_document_nor_an_ack_is_a_failure_like_5xx(scene, publish, rows, now, status):
    publish(1)
    once(scene, lambda batch: json_answer(status, b"<html>", "text/html"))

    drain(scene.connection.id)

    assert seen(scene, rows) == AGAIN
    assert scene.reload().network_failures == 1


@pytest.mark.parametrize(
    ("told", "waited_s"),
    [
        ("0", 1),
        ("1", 1),
        ("120", 120),
        ("3600", 3600),
        ("999999999", 3600),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed_between_a_second_and_an_hour(
    scene, publish, rows, now, status, told, waited_s
):
    publish(1)
    code = {429: "rate_limited", 503: "overloaded"}[status]
    once(scene, lambda batch: problem_answer(status, code, **{"retry-after": told}))

    drain(scene.connection.id)

    assert scene.reload().retry_at - now.now_ms == waited_s * 1000


#: §8, of a refused entry in a verified ack: code and retryable -> its state and number of tries, epochs.
ENTRIES = {
    ("payload_invalid", False): ("dead", 1, 1),
    ("not_subscribed", False): ("dead", 1, 1),
    ("never_heard_of", False): ("dead", 1, 1),
    ("clock_skew", True): ("pending", 1, 1),
    ("key_untrusted", True): ("pending", 1, 1),
    ("internal_error", True): ("pending", 1, 1),
    ("sequence_conflict", False): ("delivered", 2, 2),
    ("sequence_conflict", True): ("delivered", 2, 2),
}


@pytest.mark.parametrize(("code", "retryable"), ENTRIES)
def test_a_refused_entry_goes_by_retryable_but_for_a_number_in_conflict(
    scene, publish, rows, now, code, retryable
):
    publish(1)
    once(scene, lambda batch: scene.peer.acknowledge(batch, {1: (code, retryable)}), now)

    drain(scene.connection.id)

    [row] = rows()
    epochs = len(db.session.scalars(sa.select(Stream)).all())
    assert (row.state.value, row.attempts, epochs) == ENTRIES[code, retryable]
    assert scene.reload().failures == 0


def test_an_entry_that_waits_lets_later_ones_pass_and_keeps_its_number(scene, publish, rows, now):
    publish(2)
    once(scene, lambda batch: scene.peer.acknowledge(batch, {1: ("key_untrusted", True)}))
    drain(scene.connection.id)
    publish(1)
    drain(scene.connection.id)
    now.advance(6_000)

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1, 2], [3], [1]]
    assert {row.state.value for row in rows()} == {"delivered"}


def test_an_entry_that_is_refused_again_and_again_waits_longer_each_time(scene, publish, rows, now):
    publish(1)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {1: ("key_untrusted", True)})
    waits = []
    for _ in range(4):
        drain(scene.connection.id)
        [row] = rows()
        waits.append((row.next_attempt_at - now.now_ms) / 1000)
        now.advance(row.next_attempt_at - now.now_ms)

    assert all(5 * 3**n * 0.8 <= wait <= 5 * 3**n * 1.2 for n, wait in enumerate(waits)), waits


@pytest.mark.parametrize("status", [400, 404, 405, 415])
def test_two_single_events_in_a_row_put_our_envelope_at_fault(scene, publish, rows, now, status):
    code = next(code for code in CODES if CODES[code].status == status)
    with transaction():
        scene.connection.peer.max_batch_events = 1
    publish(3)
    scene.peer.answer = lambda batch: problem_answer(status, code)

    drain(scene.connection.id)

    held_at = 1 if status in (404, 405) else 2
    assert len(scene.peer.requests) == held_at
    assert scene.reload().hold_code == code
    assert [row.state.value for row in rows()] == ["dead"] * (held_at - 1) + ["pending"] * (4 - held_at)


def test_age_ends_an_event_whatever_number_of_attempts_it_had(scene, publish, rows, now):
    publish(1)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    tries = 0
    while rows()[0].state.value == "pending" and tries < 400:
        drain(scene.connection.id)
        tries += 1
        now.advance(max(1, scene.reload().retry_at - now.now_ms))

    [row] = rows()
    assert (row.state.value, row.error_code) == ("dead", "expired")
    # A week of probes, one an hour, after the first ones.
    assert 150 < row.attempts < 185
    assert now.now_ms - row.created_at >= 7 * DAY_MS


def test_what_a_person_sends_again_gets_one_try_at_any_age(scene, publish, rows, now):
    publish(1)
    with transaction():
        rows()[0].trigger = "manual"
    now.advance(8 * DAY_MS)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    drain(scene.connection.id)
    once_tried = rows()[0].state.value
    now.advance(10_000)

    drain(scene.connection.id)

    assert once_tried == "pending"
    assert (rows()[0].state.value, len(scene.peer.requests)) == ("dead", 1)


def test_that_try_is_not_used_up_by_a_batch_that_is_halved(scene, publish, rows, now):
    publish(2)
    with transaction():
        for row in rows():
            row.trigger = "manual"
    now.advance(8 * DAY_MS)
    scene.peer.answer = lambda batch: (
        problem_answer(413, "too_large") if len(batch["events"]) > 1 else scene.peer.acknowledge(batch)
    )

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1, 2], [1], [2]]
    assert [row.state.value for row in rows()] == ["delivered"] * 2
