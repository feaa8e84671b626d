"""Draining a connection: order, numbers, batches, and what each answer does."""

from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from app import clock
from app.config import settings
from app.database import db, transaction
from app.federation import connections
from app.federation.identity import ensure_identity, list_keys, record_of, signer
from app.models import (
    Attempt,
    AttemptEntry,
    Connection,
    ControlOut,
    Event,
    EventSignature,
    EventStatus,
    Peer,
    SigningKey,
    Stream,
    Subscription,
)
from app.outbox import deliver, lease
from app.outbox.deliver import drain
from app.protocol.messages import AckStatus, parse_event, verify_event
from app.protocol.signing import Signer
from app.protocol.states import ConnectionStatus, DeliveryState
from app.transport.errors import DeadlineExceeded
from tests.exchange import connect, json_answer, problem_answer, subscribe

DAY_MS = 86_400_000


def states(rows: Any) -> list[tuple[str, int | None]]:
    return [(row.state.value, row.sequence) for row in rows()]


def change(row: Any, **values: Any) -> None:
    with transaction():
        db.session.execute(sa.update(type(row)).where(type(row).id == row.id).values(**values))


def test_what_was_published_is_sent_in_order_and_delivered(scene, publish, rows):
    published = publish(3)

    acknowledged = drain(scene.connection.id)

    assert acknowledged == 3
    [batch] = scene.peer.requests
    assert [entry["event"]["messageId"] for entry in batch["events"]] == [p.message_id for p in published]
    assert states(rows) == [("delivered", 1), ("delivered", 2), ("delivered", 3)]
    assert {event.status for event in db.session.scalars(sa.select(Event))} == {EventStatus.DELIVERED}


def test_a_delivered_event_has_its_attempt_and_its_receipt(scene, publish, rows):
    publish(2)

    drain(scene.connection.id)

    [attempt] = db.session.scalars(sa.select(Attempt))
    assert (attempt.size, attempt.status_code, attempt.error_code) == (2, 200, None)
    assert attempt.batch_id in (attempt.ack or "")
    assert [(row.attempts, row.attempt_id) for row in rows()] == [(1, attempt.id)] * 2
    assert db.session.scalars(sa.select(AttemptEntry)).all() == []


def test_numbers_go_on_in_the_next_batch_and_the_next_drain(scene, publish, rows):
    change(scene.connection.peer, max_batch_events=2)
    publish(3)
    drain(scene.connection.id)
    publish(1)

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1, 2], [3], [4]]
    assert len({batch["streamEpoch"] for batch in scene.peer.requests}) == 1
    assert len({batch["batchId"] for batch in scene.peer.requests}) == 3
    [stream] = db.session.scalars(sa.select(Stream))
    assert (stream.head_sequence, stream.contiguous) == (4, 4)


def test_a_batch_stays_below_the_peers_largest_request(scene, publish):
    change(scene.connection.peer, max_request_bytes=4_500)
    publish(5, text="x" * 1_000)

    drain(scene.connection.id)

    assert [len(batch["events"]) for batch in scene.peer.requests] == [2, 2, 1]
    assert all(len(orjson.dumps(batch)) <= 4_500 for batch in scene.peer.requests)


def test_an_event_larger_than_the_peer_takes_is_a_dead_letter_without_a_number(scene, publish, rows):
    change(scene.connection.peer, max_event_bytes=1_500)
    publish(1, text="x" * 1_500)
    publish(1)

    drain(scene.connection.id)

    assert states(rows) == [("dead", None), ("delivered", 1)]
    assert rows()[0].error_code == "too_large"
    assert db.session.scalars(sa.select(ControlOut)).all() == []


def test_only_one_drain_has_a_connection(scene, publish, rows):
    publish(1)
    with transaction():
        lease.acquire(scene.connection.id, "elsewhere:1:1:x")

    acknowledged = drain(scene.connection.id)

    assert (acknowledged, scene.peer.requests) == (0, [])


def test_a_drain_gives_its_lease_back(scene, publish):
    publish(1)

    drain(scene.connection.id)

    assert scene.reload().drain_owner is None


def test_what_a_dead_drain_left_is_sent_again_under_its_number(scene, publish, rows):
    publish(2)

    def die(batch: Any) -> Any:
        raise KeyboardInterrupt

    scene.peer.answer = die
    with pytest.raises(KeyboardInterrupt):
        drain(scene.connection.id)
    assert states(rows) == [("sending", 1), ("sending", 2)]
    change(scene.connection, drain_lease_until=0)
    scene.peer.answer = None

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1, 2], [1, 2]]
    assert states(rows) == [("delivered", 1), ("delivered", 2)]


@pytest.mark.parametrize(
    "state",
    [
        {"status": ConnectionStatus.SUSPENDED, "suspended_by_peer": True},
        {"paused_outgoing": True},
        {"key_review": True},
        {"hold_code": "authentication_failed"},
        {"status": ConnectionStatus.DISCONNECTED},
        {"failures": 3, "retry_at": 2**60},
    ],
    ids=lambda state: next(iter(state)) + str(next(iter(state.values()))),
)
def test_a_connection_that_does_not_send_now_uses_no_attempt(scene, publish, rows, state):
    publish(1)
    change(scene.connection, **state)

    drain(scene.connection.id)

    assert scene.peer.requests == []
    assert [(row.state, row.attempts) for row in rows()] == [(DeliveryState.PENDING, 0)]


def test_nothing_is_sent_that_is_not_granted_any_more(scene, publish, rows):
    publish(1)
    publish(1, "task.done")
    for subscription in db.session.scalars(sa.select(Subscription)):
        change(subscription, granted_event_type="task.done")

    drain(scene.connection.id)

    assert states(rows) == [("withdrawn", None), ("delivered", 1)]


def test_a_peer_that_is_down_is_tried_again_later(scene, publish, rows):
    publish(1)

    def time_out(batch: Any) -> Any:
        raise DeadlineExceeded("no answer within 15 s")

    scene.peer.answer = time_out
    with clock.frozen_at(clock.now_ms()) as now:
        drain(scene.connection.id)
        first = scene.reload()
        waits = [first.retry_at - now.now_ms]
        now.advance(waits[0])
        drain(scene.connection.id)
        waits.append(scene.reload().retry_at - now.now_ms)

    assert 4_000 <= waits[0] <= 6_000
    assert 12_000 <= waits[1] <= 18_000
    assert scene.reload().failures == 2
    assert [(row.state, row.attempts, row.error_code) for row in rows()] == [
        (DeliveryState.PENDING, 2, "timeout")
    ]
    entries = db.session.scalars(sa.select(AttemptEntry).order_by(AttemptEntry.number)).all()
    assert [(entry.number, entry.error_code) for entry in entries] == [(1, "timeout"), (2, "timeout")]


def test_success_forgets_the_failures(scene, publish):
    publish(1)
    change(scene.connection, failures=4, retry_at=1)

    drain(scene.connection.id)

    assert (scene.reload().failures, scene.reload().retry_at) == (0, 0)


def forge_signature(peer: Any, batch: Any) -> Any:
    stranger = Signer(peer.instance_id, peer.key.key_id, _other_key())
    return peer.acknowledge(batch, signer=stranger)


def _other_key() -> Any:
    return signer().private_key


def leave_one_out(peer: Any, batch: Any) -> Any:
    return peer.acknowledge({**batch, "events": batch["events"][:-1]})


def turn_round(peer: Any, batch: Any) -> Any:
    return peer.acknowledge({**batch, "events": batch["events"][::-1]})


def wrong_digest(peer: Any, batch: Any) -> Any:
    entries = [peer.entry(entry) for entry in batch["events"]]
    other = entries[0].__class__(1, entries[0].correlation_id, AckStatus.STORED, entries[1].digest)
    return peer.acknowledge(batch, acks=[other, entries[1]])


OTHER_ID = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    "forge",
    [
        forge_signature,
        leave_one_out,
        turn_round,
        wrong_digest,
        lambda peer, batch: peer.acknowledge(batch, batch_id=OTHER_ID),
        lambda peer, batch: peer.acknowledge(batch, connection_id=OTHER_ID),
        lambda peer, batch: peer.acknowledge(batch, stream_epoch=OTHER_ID),
        lambda peer, batch: peer.acknowledge(
            batch, signer=Signer(OTHER_ID, peer.key.key_id, peer.signer.private_key)
        ),
        lambda peer, batch: peer.acknowledge(
            batch, signer=Signer(peer.instance_id, "k-unknown", peer.signer.private_key)
        ),
        lambda peer, batch: json_answer(200, b""),
        lambda peer, batch: json_answer(200, b"{}"),
        lambda peer, batch: json_answer(200, peer.acknowledge(batch).body + b" {}"),
        lambda peer, batch: json_answer(204, b""),
        lambda peer, batch: json_answer(202, b""),
        lambda peer, batch: json_answer(404, b"<html>", "text/html"),
    ],
    ids=[
        "signed by another key",
        "an entry left out",
        "entries in another order",
        "digest of another event",
        "another batch",
        "another connection",
        "another epoch",
        "another responder",
        "unknown key",
        "empty",
        "empty object",
        "two values",
        "204",
        "202",
        "a page that is no problem document",
    ],
)
def test_an_answer_that_is_no_valid_ack_is_no_delivery_and_a_failure(scene, publish, rows, forge):
    publish(2)
    scene.peer.answer = lambda batch: forge(scene.peer, batch)

    drain(scene.connection.id)

    assert states(rows) == [("pending", 1), ("pending", 2)]
    assert scene.reload().failures == 1
    assert len(scene.peer.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_peer_that_is_busy_is_obeyed_and_no_failure(scene, publish, rows, status):
    publish(1)
    code = {429: "rate_limited", 503: "overloaded"}[status]
    scene.peer.answer = lambda batch: problem_answer(status, code, **{"retry-after": "120"})

    with clock.frozen_at(clock.now_ms()) as now:
        drain(scene.connection.id)

        assert scene.reload().retry_at == now.now_ms + 120_000
    assert scene.reload().failures == 0
    assert states(rows) == [("pending", 1)]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "authentication_failed"),
        (401, "key_untrusted"),
        (403, "invalid_issuer"),
        (403, "access_denied"),
        (403, "blocked"),
        (403, "connection_suspended"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (409, "message_id_conflict"),
        (409, "invalid_state"),
        (410, "connection_closed"),
    ],
)
def test_a_refusal_of_the_whole_queue_holds_it(scene, publish, rows, status, code):
    publish(2)
    scene.peer.answer = lambda batch: problem_answer(status, code)

    drain(scene.connection.id)
    drain(scene.connection.id)

    connection = scene.reload()
    assert (connection.hold_code, connection.status) == (code, ConnectionStatus.ACTIVE)
    assert len(scene.peer.requests) == 1
    assert states(rows) == [("pending", 1), ("pending", 2)]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "clock_skew"), (500, "internal_error"), (502, "whatever")]
)
def test_a_fault_of_the_peer_is_retried(scene, publish, rows, status, code):
    publish(2)
    scene.peer.answer = lambda batch: problem_answer(status, code)

    drain(scene.connection.id)

    assert (scene.reload().failures, scene.reload().hold_code) == (1, None)
    assert states(rows) == [("pending", 1), ("pending", 2)]


@pytest.mark.parametrize(
    ("status", "code"), [(400, "invalid_request"), (413, "too_large"), (422, "payload_invalid")]
)
def test_a_bad_event_is_found_by_halving_and_told_as_a_gap(scene, publish, rows, status, code):
    bad = publish(5)[3].message_id

    def refuse(batch: Any) -> Any:
        is_bad = bad in [entry["event"]["messageId"] for entry in batch["events"]]
        return problem_answer(status, code) if is_bad else scene.peer.accept(batch)

    scene.peer.answer = refuse

    drain(scene.connection.id)

    assert [row.state.value for row in rows()] == ["delivered"] * 3 + ["dead", "delivered"]
    assert rows()[3].error_code == code
    [gap] = db.session.scalars(sa.select(ControlOut))
    assert '"fromSequence":4,"reason":"refused"' in gap.body
    assert '"toSequence":4' in gap.body


def test_two_single_events_refused_in_a_row_hold_the_queue(scene, publish, rows):
    publish(4)
    scene.peer.answer = lambda batch: problem_answer(400, "invalid_request")

    drain(scene.connection.id)

    assert scene.reload().hold_code == "invalid_request"
    assert states(rows) == [("dead", 1), ("pending", 2), ("pending", 3), ("pending", 4)]


@pytest.mark.parametrize("whole", [True, False])
def test_a_conflict_of_numbers_starts_a_new_epoch(scene, publish, rows, whole):
    with clock.frozen_at(clock.now_ms()) as now:
        publish(1)
        drain(scene.connection.id)
        now.advance(20_000)
        publish(3)

        def refuse(batch: Any) -> Any:
            scene.peer.answer = None
            if whole:
                return problem_answer(409, "sequence_conflict")
            return scene.peer.acknowledge(batch, {3: ("sequence_conflict", False)})

        scene.peer.answer = refuse
        drain(scene.connection.id)

    epochs = [batch["streamEpoch"] for batch in scene.peer.requests]
    assert epochs[0] == epochs[1] != epochs[2]
    assert scene.peer.sent()[1:] == [[2, 3, 4], [1, 2, 3] if whole else [1]]
    assert {row.state for row in rows()} == {DeliveryState.DELIVERED}


def test_a_young_epoch_is_not_followed_by_another_at_once(scene, publish):
    publish(1)
    scene.peer.answer = lambda batch: problem_answer(409, "sequence_conflict")

    drain(scene.connection.id)

    assert len(scene.peer.requests) == 1
    assert scene.reload().retry_at > clock.now_ms()
    assert scene.reload().failures == 0


def test_an_entry_that_may_pass_later_goes_again_and_holds_nobody_up(scene, publish, rows):
    with clock.frozen_at(clock.now_ms()) as now:
        publish(3)
        scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {2: ("key_untrusted", True)})
        drain(scene.connection.id)
        assert states(rows) == [("delivered", 1), ("pending", 2), ("delivered", 3)]
        publish(1)
        scene.peer.answer = None
        drain(scene.connection.id)
        now.advance(6_000)
        publish(1)

        drain(scene.connection.id)

    assert scene.peer.sent() == [[1, 2, 3], [4], [2, 5]]
    assert {row.state for row in rows()} == {DeliveryState.DELIVERED}
    assert rows()[1].refusals == 1


def test_trying_now_ends_the_wait_of_a_refused_entry_too(scene, publish, rows):
    publish(2)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {2: ("key_untrusted", True)})
    drain(scene.connection.id)
    scene.peer.answer = None
    assert states(rows) == [("delivered", 1), ("pending", 2)]

    connections.retry_now(scene.connection.id)
    drain(scene.connection.id)

    assert states(rows) == [("delivered", 1), ("delivered", 2)]


def test_an_entry_that_is_refused_for_good_is_a_dead_letter(scene, publish, rows):
    publish(3)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {2: ("message_id_conflict", False)})

    drain(scene.connection.id)

    assert states(rows) == [("delivered", 1), ("dead", 2), ("delivered", 3)]
    assert rows()[1].error_code == "message_id_conflict"
    assert db.session.scalars(sa.select(ControlOut)).all() == []
    statuses = db.session.scalars(sa.select(Event.status).order_by(Event.id)).all()
    assert statuses == [EventStatus.DELIVERED, EventStatus.DEAD, EventStatus.DELIVERED]


def test_an_entry_nobody_asked_for_flags_the_subscription(scene, publish, rows):
    publish(1)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {1: ("not_subscribed", False)})

    drain(scene.connection.id)

    assert states(rows) == [("dead", 1)]
    [subscription] = db.session.scalars(sa.select(Subscription))
    assert subscription.stale_at is not None


def test_an_event_of_seven_days_is_a_dead_letter_and_its_number_a_gap(scene, publish, rows):
    with clock.frozen_at(clock.now_ms()) as now:
        publish(2)
        scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
        drain(scene.connection.id)
        now.advance(7 * DAY_MS + 1)
        publish(1)
        scene.peer.answer = None

        drain(scene.connection.id)

    assert states(rows) == [("dead", 1), ("dead", 2), ("delivered", 3)]
    assert rows()[0].error_code == "expired"
    [gap] = db.session.scalars(sa.select(ControlOut))
    assert '"fromSequence":1,"reason":"expired"' in gap.body
    assert '"toSequence":2' in gap.body


def test_an_event_for_two_peers_is_delivered_when_both_have_it(scene, publish, rows):
    other = connect(scene.workspace, scene.peer)
    subscribe(other)
    [published] = publish(1)
    assert published.deliveries == 2

    drain(scene.connection.id)
    half = db.session.scalar(sa.select(Event.status))
    drain(other.id)

    assert half is EventStatus.PENDING
    db.session.rollback()
    assert db.session.scalar(sa.select(Event.status)) is EventStatus.DELIVERED


def test_an_event_that_reached_one_of_two_peers_is_partial(scene, publish):
    other = connect(scene.workspace, scene.peer)
    subscribe(other)
    publish(1)
    drain(scene.connection.id)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {1: ("payload_invalid", False)})

    drain(other.id)

    db.session.rollback()
    assert db.session.scalar(sa.select(Event.status)) is EventStatus.PARTIAL


def test_a_drain_without_work_writes_nothing_but_its_lease(scene):
    acknowledged = drain(scene.connection.id)

    assert acknowledged == 0
    assert db.session.scalars(sa.select(Attempt)).all() == []
    assert db.session.scalar(sa.select(Peer.id)) is not None
    assert db.session.get(Connection, scene.connection.id).drain_owner is None


def test_events_that_come_one_by_one_are_gathered_for_a_moment(scene, publish, monkeypatch):
    def publish_meanwhile(batch):
        scene.peer.answer = None
        publish(1)
        return scene.peer.acknowledge(batch, {})

    publish(1)
    scene.peer.answer = publish_meanwhile
    monkeypatch.setattr(deliver, "sleep", lambda _seconds: publish(3))

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1], [2, 3, 4, 5]]


def test_a_lone_event_waits_for_no_other(scene, publish, monkeypatch):
    slept = []
    publish(1)
    monkeypatch.setattr(deliver, "sleep", slept.append)

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1]]
    assert slept == []


def test_who_lost_the_lease_while_gathering_sends_no_more(scene, publish, monkeypatch):
    def publish_meanwhile(batch):
        scene.peer.answer = None
        publish(1)
        return scene.peer.acknowledge(batch, {})

    def lose_the_lease(_seconds):
        with transaction():
            db.session.execute(sa.update(Connection).values(drain_owner="another:1:1"))

    publish(1)
    scene.peer.answer = publish_meanwhile
    monkeypatch.setattr(deliver, "sleep", lose_the_lease)

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1]]


def lists_tree(peer: Any, read_at: int | None = None) -> None:
    """The peer's document lists the feature, as read at a time."""
    change(peer, document='{"features": ["tree"]}', document_read_at=read_at or clock.now_ms())


def test_a_peer_that_lists_it_gets_the_shared_signature_with_each_events_proof(scene, publish):
    lists_tree(scene.connection.peer)
    publish(3)

    drain(scene.connection.id)

    sent = [parse_event(entry["event"]) for entry in scene.peer.requests[0]["events"]]
    assert len({event.signature for event in sent}) == 1
    assert [event.proof.index for event in sent if event.proof] == [0, 1, 2]
    for event in sent:
        verify_event(event, record_of(list_keys()[0]))


@pytest.mark.parametrize("read_at", [None, -DAY_MS])
def test_any_other_peer_gets_each_event_signed_by_itself(scene, publish, read_at):
    if read_at is not None:
        # What a document listed a day ago is not relied on.
        lists_tree(scene.connection.peer, clock.now_ms() + read_at)
    publish(3)

    drain(scene.connection.id)

    sent = [parse_event(entry["event"]) for entry in scene.peer.requests[0]["events"]]
    assert {event.proof for event in sent} == {None}
    for event in sent:
        verify_event(event, record_of(list_keys()[0]))


def test_an_event_is_signed_by_itself_once_for_all_peers_and_keeps_both_signatures(
    scene, publish, monkeypatch
):
    other = connect(scene.workspace, scene.peer)
    subscribe(other)
    publish(2)
    made: list[bytes] = []
    sign = Signer.sign_body
    monkeypatch.setattr(
        Signer, "sign_body", lambda ours, kind, body: made.append(body) or sign(ours, kind, body)
    )

    drain(scene.connection.id)
    drain(other.id)

    first, second = [
        [entry["event"]["signature"] for entry in batch["events"]] for batch in scene.peer.requests
    ]
    kept = db.session.scalars(sa.select(EventSignature).order_by(EventSignature.event_id)).all()
    assert len([body for body in made if b'"eventType"' in body]) == 2
    assert first == second == [row.signature for row in kept]
    assert all(event.proof for event in db.session.scalars(sa.select(Event)))


def test_a_drain_that_the_database_fails_gives_its_lease_back_when_it_works_again(scene, publish, rows):
    publish(1)
    failures = iter([True, True, False])

    def refuse(*_args: Any) -> None:
        if next(failures, False):
            raise sa.exc.OperationalError("any statement", {}, Exception("no space left on device"))

    def store_and_fill(batch: dict[str, Any]) -> Any:
        sa.event.listen(db.engine, "before_cursor_execute", refuse)
        return scene.peer.accept(batch)

    scene.peer.answer = store_and_fill
    with pytest.raises(sa.exc.OperationalError):
        drain(scene.connection.id)
    sa.event.remove(db.engine, "before_cursor_execute", refuse)
    scene.peer.answer = None

    assert scene.reload().drain_owner is None
    drain(scene.connection.id)
    assert scene.peer.sent() == [[1], [1]]
    assert states(rows) == [("delivered", 1)]


def test_what_a_lost_key_has_signed_is_signed_again_by_the_key_that_follows(scene, publish):
    [event] = publish(1)
    with transaction():
        db.session.execute(sa.delete(SigningKey))
    ensure_identity(settings())

    drain(scene.connection.id)

    [entry] = scene.peer.requests[0]["events"]
    [key] = list_keys()
    assert (entry["event"]["messageId"], entry["event"]["keyId"]) == (event.message_id, key.key_id)
    verify_event(parse_event(entry["event"]), record_of(key))
