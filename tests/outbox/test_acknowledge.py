"""Acks that come later than the answer."""

import uuid

import pytest
import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, transaction
from app.federation.peers import message_key
from app.models import Event, EventStatus
from app.outbox.acknowledge import process_event_ack
from app.outbox.deliver import drain
from app.outbox.withdraw import close_connection, withdraw
from app.protocol.canonical import loads
from app.protocol.messages import (
    AckEntry,
    AckError,
    AckStatus,
    parse_any_ack,
    sign_ack_batch,
    sign_event_ack,
    verify_ack_batch,
    verify_event_ack,
)
from app.protocol.states import DeliveryState
from tests.exchange import connect, problem_answer


@pytest.fixture
def waiting(scene, publish, rows):
    """Two events that were sent once, unanswered."""
    publish(2)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    drain(scene.connection.id)
    return [db.session.get(Event, row.event_id) for row in rows()]


def record_of(scene):
    return message_key([scene.connection.peer_id], scene.peer.key.key_id)


def ack(scene, event, status=AckStatus.STORED, error=None, digest=None, connection=None):
    wire = sign_event_ack(
        scene.peer.signer,
        message_id=str(uuid.uuid4()),
        correlation_id=event.message_id,
        connection_id=scene.connection.wire_connection_id,
        timestamp=now_ms(),
        status=status,
        digest=digest or event.digest,
        error=error,
    )
    verified = verify_event_ack(parse_any_ack(loads(wire)), record_of(scene))
    with transaction():
        return process_event_ack(connection or scene.connection, verified)


def states(rows):
    return [row.state.value for row in rows()]


def test_a_late_ack_delivers_and_a_repeat_changes_nothing(scene, waiting, rows):
    changed = [ack(scene, waiting[0]), ack(scene, waiting[0], AckStatus.DUPLICATE)]

    assert changed == [1, 0]
    assert states(rows) == ["delivered", "pending"]
    assert db.session.get(Event, waiting[0].id).status is EventStatus.DELIVERED


def test_a_late_ack_turns_a_dead_letter_into_delivered(scene, waiting, rows):
    with transaction():
        close_connection(scene.connection.id)

    ack(scene, waiting[1])

    assert states(rows) == ["dead", "delivered"]


def test_a_late_batch_of_acks_counts_entry_by_entry(scene, waiting, rows):
    refusal = AckError("payload_invalid", "no", False)
    wire = sign_ack_batch(
        scene.peer.signer,
        message_id=str(uuid.uuid4()),
        batch_id=scene.peer.requests[0]["batchId"],
        connection_id=scene.connection.wire_connection_id,
        timestamp=now_ms(),
        stream_epoch=scene.peer.requests[0]["streamEpoch"],
        contiguous=2,
        acks=[
            AckEntry(1, waiting[0].message_id, AckStatus.STORED, waiting[0].digest),
            AckEntry(2, waiting[1].message_id, AckStatus.REJECTED, waiting[1].digest, refusal),
            AckEntry(3, str(uuid.uuid4()), AckStatus.STORED, waiting[1].digest),
        ],
    )
    verified = verify_ack_batch(parse_any_ack(loads(wire)), record_of(scene))

    with transaction():
        changed = process_event_ack(scene.connection, verified)

    assert changed == 2
    assert states(rows) == ["delivered", "dead"]
    assert rows()[1].error_code == "payload_invalid"


@pytest.mark.parametrize(("code", "retryable"), [("key_untrusted", True), ("sequence_conflict", False)])
def test_a_late_refusal_that_may_pass_later_changes_nothing(scene, waiting, rows, code, retryable):
    changed = ack(scene, waiting[0], AckStatus.REJECTED, AckError(code, "no", retryable))

    assert changed == 0
    assert states(rows) == ["pending", "pending"]


def test_a_refusal_never_undoes_a_delivery(scene, waiting, rows):
    ack(scene, waiting[0])

    ack(scene, waiting[0], AckStatus.REJECTED, AckError("payload_invalid", "no", False))

    assert states(rows)[0] == "delivered"


def test_an_ack_of_other_content_or_over_another_connection_is_ignored(scene, waiting, rows):
    other = connect(scene.workspace, scene.peer)

    changed = [
        ack(scene, waiting[0], digest=waiting[1].digest),
        ack(scene, waiting[0], connection=other),
    ]

    assert changed == [0, 0]
    assert states(rows) == ["pending", "pending"]


def test_an_event_that_was_never_sent_cannot_be_acknowledged(scene, publish, rows):
    publish(1)
    event = db.session.scalar(sa.select(Event))

    assert ack(scene, event) == 0
    assert states(rows) == ["pending"]


def test_withdrawing_leaves_what_is_granted(scene, publish, rows):
    publish(1)

    with transaction():
        withdrawn = withdraw(scene.connection.id)

    assert withdrawn == 0
    assert {row.state for row in rows()} == {DeliveryState.PENDING}
