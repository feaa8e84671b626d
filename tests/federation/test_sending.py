"""Our control messages on their way: order, repeats, refusals, numbers."""

import os
import socket
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import orjson
import pytest

from app import clock
from app.database import db, transaction
from app.federation import connections, controls, identity, lifecycle, sending
from app.models import Connection, ControlOut, ControlState
from app.protocol.control import ControlType, Reason, sign_control_ack
from app.protocol.states import ConnectionStatus
from tests.federation.conftest import Pair, Side

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes] | None]


class Script:
    """Stands before beta's app and answers control messages as a test wants, or lets them pass."""

    def __init__(self, side: Side) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answer: Answer = lambda _message: None
        self._app = side.server.app
        side.server.app = self

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["REQUEST_METHOD"] != "POST":
            return self._app(environ, start)
        raw = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        message = orjson.loads(raw)
        self.messages.append(message)
        answer = self.answer(message)
        if answer is None:
            return self._app(environ | {"wsgi.input": BytesIO(raw)}, start)
        status, headers, body = answer
        start(f"{status} X", [("Content-Length", str(len(body))), *headers.items()])
        return [body]


def problem(status: int, code: str, headers: dict[str, str] | None = None, **members: Any) -> Answer:
    """Always this problem document."""
    body = orjson.dumps({"status": status, "code": code, "detail": "no", **members})
    media = {"Content-Type": "application/problem+json"}
    return lambda _message: (status, media | (headers or {}), body)


@pytest.fixture
def script(connected: Pair) -> Script:
    """What answers for beta, once it is connected."""
    return Script(connected.beta)


@pytest.fixture
def frozen() -> Iterator[clock.FrozenClock]:
    """A clock that stands still."""
    with clock.frozen_at(clock.now_ms()) as stopped:
        yield stopped


def last(side: Side) -> ControlOut:
    """The newest control message."""
    return side.rows(ControlOut)[-1]


def send(side: Side) -> None:
    """One run of the job."""
    side.do(sending.send_controls, side.connection().id)


def suspend(side: Side) -> None:
    """Something to say."""
    side.do(connections.suspend, side.connection().id)


@pytest.mark.parametrize(
    "answer",
    [
        problem(500, "internal_error"),
        lambda _message: (502, {}, b"<html>bad gateway</html>"),
        lambda _message: (200, {"Content-Type": "application/json"}, b"{}"),
        lambda _message: (404, {}, b"not here"),
        problem(401, "clock_skew", serverTime=1),
    ],
    ids=["500", "no problem document", "no ack", "404 without a document", "clock skew"],
)
def test_what_is_no_answer_is_repeated_as_it_was_by_the_schedule(
    connected: Pair, script: Script, frozen: clock.FrozenClock, answer: Answer
) -> None:
    script.answer = answer
    suspend(connected.alpha)

    waits = []
    for _ in range(3):
        send(connected.alpha)
        control = last(connected.alpha)
        waits.append(control.next_attempt_at - frozen.now_ms)
        send(connected.alpha)  # not due: nothing goes
        frozen.advance(waits[-1])
    script.answer = lambda _message: None
    send(connected.alpha)

    assert [round(wait / 1000 / 5 / 3**n) for n, wait in enumerate(waits)] == [1, 1, 1]
    assert [message["messageId"] for message in script.messages] == [last(connected.alpha).message_id] * 4
    assert last(connected.alpha).state == ControlState.ANSWERED


def test_retry_after_is_obeyed_and_is_no_failure(
    connected: Pair, script: Script, frozen: clock.FrozenClock
) -> None:
    script.answer = problem(429, "rate_limited", {"Retry-After": "77"})
    suspend(connected.alpha)

    send(connected.alpha)

    control = last(connected.alpha)
    assert (control.next_attempt_at - frozen.now_ms, control.attempts) == (77_000, 0)


def test_messages_go_one_after_the_other_in_the_order_of_their_numbers(
    connected: Pair, script: Script
) -> None:
    for act in (connections.suspend, connections.resume, connections.suspend, connections.disconnect):
        connected.alpha.do(act, connected.alpha.connection().id)

    send(connected.alpha)

    numbers = [message["controlSequence"] for message in script.messages]
    assert numbers == sorted(numbers)
    assert script.messages[-1]["type"] == "connection.disconnect"


def test_a_disconnect_gives_up_what_waited_before_it(connected: Pair, script: Script) -> None:
    suspend(connected.alpha)
    connected.alpha.do(connections.disconnect, connected.alpha.connection().id)

    send(connected.alpha)

    assert [message["type"] for message in script.messages] == ["connection.disconnect"]


def test_after_a_number_conflict_it_goes_on_from_the_peers_with_a_new_id(
    connected: Pair, script: Script
) -> None:
    with connected.alpha.app.app_context(), transaction():
        lifecycle.lock(connected.alpha.connection().id).last_control_out = 0
        db.session.execute(db.delete(ControlOut))
    suspend(connected.alpha)

    send(connected.alpha)

    first, second = script.messages
    assert (first["controlSequence"], second["controlSequence"]) == (1, 3)
    assert first["messageId"] != second["messageId"]
    assert connected.beta.connection().status == ConnectionStatus.SUSPENDED


def test_a_peer_that_always_finds_a_conflict_is_not_asked_without_end(
    connected: Pair, script: Script
) -> None:
    script.answer = problem(409, "sequence_conflict", lastControlSequence=1_000)
    suspend(connected.alpha)

    for _ in range(10):
        send(connected.alpha)

    assert len(script.messages) == 4


def test_a_number_that_is_none_is_not_taken_from_a_peer(connected: Pair, script: Script) -> None:
    script.answer = problem(409, "sequence_conflict", lastControlSequence=2**53)
    suspend(connected.alpha)

    send(connected.alpha)

    assert connected.alpha.connection().last_control_out < 100


def test_a_refusal_is_not_repeated(connected: Pair, script: Script) -> None:
    script.answer = problem(409, "invalid_state")
    suspend(connected.alpha)

    for _ in range(3):
        send(connected.alpha)

    assert len(script.messages) == 1
    assert (last(connected.alpha).state, last(connected.alpha).error_code) == (
        ControlState.REFUSED,
        "invalid_state",
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "authentication_failed"),
        (401, "key_untrusted"),
        (403, "access_denied"),
        (410, "connection_closed"),
    ],
)
def test_a_refusal_of_us_holds_the_queue_and_ends_nothing(
    connected: Pair, script: Script, status: int, code: str
) -> None:
    script.answer = problem(status, code)
    suspend(connected.alpha)
    send(connected.alpha)

    held = connected.alpha.connection()

    assert (held.hold_code, held.status) == (code, ConnectionStatus.SUSPENDED)
    assert held.hold_since is not None


def test_a_successful_verify_lets_go_on_what_a_refusal_held(connected: Pair) -> None:
    with connected.alpha.app.app_context(), transaction():
        lifecycle.lock(connected.alpha.connection().id).hold_code = "authentication_failed"
    assert not lifecycle.is_sending(connected.alpha.connection())

    connected.alpha.do(connections.verify, connected.alpha.connection().id)

    assert lifecycle.is_sending(connected.alpha.connection())


@pytest.mark.parametrize("code", ["connection_suspended", "access_denied", "key_untrusted"])
def test_a_hold_that_passes_by_itself_ends_when_the_peer_is_heard(connected: Pair, code: str) -> None:
    with connected.alpha.app.app_context(), transaction():
        lifecycle.lock(connected.alpha.connection().id).hold_code = code

    connected.beta.do(connections.verify, connected.beta.connection().id)

    assert connected.alpha.connection().hold_code is None


def test_a_hold_that_somebody_must_look_at_outlasts_what_the_peer_says(connected: Pair) -> None:
    with connected.alpha.app.app_context(), transaction():
        lifecycle.lock(connected.alpha.connection().id).hold_code = "authentication_failed"

    connected.beta.do(connections.verify, connected.beta.connection().id)

    assert connected.alpha.connection().hold_code == "authentication_failed"


def test_a_verification_is_never_repeated(connected: Pair, script: Script) -> None:
    script.answer = problem(503, "overloaded", {"Retry-After": "1"})
    with connected.alpha.app.app_context(), transaction():
        lifecycle.send_verification(lifecycle.lock(connected.alpha.connection().id))

    send(connected.alpha)

    assert last(connected.alpha).state == ControlState.GIVEN_UP


def test_a_peer_that_asks_for_a_wait_without_saying_how_long_is_asked_ever_more_seldom(
    connected: Pair, script: Script, frozen: clock.FrozenClock
) -> None:
    script.answer = problem(503, "overloaded")
    connected.alpha.do(connections.disconnect, connected.alpha.connection().id)

    waits = []
    for _ in range(4):
        send(connected.alpha)
        waits.append(last(connected.alpha).next_attempt_at - frozen.now_ms)
        frozen.advance(waits[-1])

    assert len(script.messages) == 4
    assert [5_000 * 3**n * 0.8 <= wait <= 5_000 * 3**n * 1.2 for n, wait in enumerate(waits)] == [True] * 4
    assert last(connected.alpha).attempts == 0


def test_a_disconnect_is_retried_for_seven_days(
    connected: Pair, script: Script, frozen: clock.FrozenClock
) -> None:
    script.answer = problem(500, "internal_error")
    connected.alpha.do(connections.disconnect, connected.alpha.connection().id)
    send(connected.alpha)

    frozen.advance(6 * 86_400_000)
    send(connected.alpha)
    frozen.advance(86_400_000 + 1)
    send(connected.alpha)

    assert len(script.messages) == 2
    assert last(connected.alpha).state == ControlState.GIVEN_UP


def test_an_answer_by_somebody_else_changes_nothing(connected: Pair, script: Script) -> None:
    connected.alpha.do(connections.suspend, connected.alpha.connection().id)
    send(connected.alpha)
    genuine = script.messages[-1]
    connected.alpha.do(connections.resume, connected.alpha.connection().id)
    answers: list[bytes] = []
    with connected.beta.app.app_context():
        answers.append(
            sign_control_ack(
                identity.signer(),
                message_id=genuine["messageId"],
                correlation_id=genuine["messageId"],  # of the suspension, not of the resume
                connection_id=genuine["connectionId"],
                status="active",
                timestamp=clock.now_ms(),
            )
        )
    script.answer = lambda _message: (200, {"Content-Type": "application/json"}, answers[0])

    send(connected.alpha)

    assert connected.alpha.connection().suspended_by_me
    assert last(connected.alpha).state == ControlState.WAITING


def test_only_a_disconnect_goes_while_a_person_looks_at_keys(connected: Pair, script: Script) -> None:
    suspend(connected.alpha)
    with connected.alpha.app.app_context(), transaction():
        lifecycle.lock(connected.alpha.connection().id).key_review = True

    send(connected.alpha)
    assert script.messages == []

    connected.alpha.do(connections.disconnect, connected.alpha.connection().id)
    send(connected.alpha)
    assert [message["type"] for message in script.messages] == ["connection.disconnect"]


def test_only_one_of_two_jobs_sends(connected: Pair, script: Script) -> None:
    suspend(connected.alpha)
    with connected.alpha.app.app_context(), transaction():
        connection = lifecycle.lock(connected.alpha.connection().id)
        connection.control_owner, connection.control_lease_until = "elsewhere:1:1:x", clock.now_ms() + 9_000

    send(connected.alpha)
    assert script.messages == []

    with clock.frozen_at(clock.now_ms() + 9_001):
        send(connected.alpha)
    assert len(script.messages) == 1


def test_the_lease_of_a_process_that_died_here_is_freed_at_once(connected: Pair) -> None:
    with connected.alpha.app.app_context(), transaction():
        connection = lifecycle.lock(connected.alpha.connection().id)
        connection.control_owner = f"{socket.gethostname()[:60]}:{os.getpid()}:1:dead"
        connection.control_lease_until = clock.now_ms() + 45_000

    connected.alpha.do(sending.wake_due)

    assert connected.alpha.connection().control_owner is None


def test_a_message_is_said_only_if_the_change_it_tells_was_committed(connected: Pair) -> None:
    before = len(connected.alpha.rows(ControlOut))

    def fail_half_way() -> None:
        with transaction():
            connection = lifecycle.lock(connected.alpha.connection().id)
            controls.queue_control(connection, ControlType.CONNECTION_SUSPEND, Reason())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        connected.alpha.do(fail_half_way)

    assert len(connected.alpha.rows(ControlOut)) == before
    assert connected.alpha.rows(Connection)[0].last_control_out == before
