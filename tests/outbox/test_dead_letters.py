"""Sending again, and giving up."""

import pytest
import sqlalchemy as sa

from app import clock
from app.access import audit
from app.database import db, transaction
from app.models import (
    AuditEntry,
    Connection,
    ControlOut,
    Delivery,
    Event,
    EventStatus,
    Operation,
    OperationKind,
    OperationState,
)
from app.models.ids import IdKind, public_id
from app.outbox import operations
from app.outbox.acknowledge import process_event_ack
from app.outbox.dead_letters import DeliveryFilter, preview, retry_event
from app.outbox.deliver import drain
from app.outbox.withdraw import close_connection
from app.protocol.canonical import loads
from app.protocol.errors import InvalidRequest, InvalidState, NotFound, Problem
from app.protocol.messages import AckStatus, parse_event_ack, sign_event_ack, verify_event_ack
from app.protocol.states import ConnectionStatus, DeliveryState
from tests.exchange import connect, problem_answer, subscribe


def retry(scene, chosen=None, **options):
    return operations.start(scene.workspace.id, OperationKind.RETRY, chosen or DeliveryFilter(), **options)


def discard(scene, chosen=None, reason="not needed", **options):
    return operations.start(
        scene.workspace.id, OperationKind.DISCARD, chosen or DeliveryFilter(), reason=reason, **options
    )


@pytest.fixture
def dead(scene, publish, rows):
    """Three dead letters, numbered 1 to 3; the peer is well again."""
    publish(2)
    publish(1, "task.done")
    scene.peer.answer = lambda batch: scene.peer.acknowledge(
        batch, {n: ("payload_invalid", False) for n in (1, 2, 3)}
    )
    drain(scene.connection.id)
    scene.peer.answer = None
    scene.peer.requests.clear()
    return rows()


def test_a_preview_counts_by_connection_and_error_and_changes_nothing(scene, dead, rows):
    found = preview(scene.workspace.id, DeliveryFilter())

    [group] = found.groups
    assert (group.connection_id, group.error, group.count) == (
        scene.connection.public_id,
        "payload_invalid",
        3,
    )
    assert (found.count, found.requests) == (3, 1)
    assert found.oldest_at == min(row.created_at for row in dead)
    assert found.estimate_ms >= 1
    assert {row.state for row in rows()} == {DeliveryState.DEAD}
    assert preview(scene.workspace.id, DeliveryFilter(), max_items=2).count == 2


def test_dead_letters_go_again_under_their_numbers(scene, dead, rows):
    result = retry(scene)
    drain(scene.connection.id)

    assert (result.state, result.total, result.done, result.skipped) == (OperationState.DONE, 3, 3, 0)
    assert scene.peer.sent() == [[1, 2, 3]]
    assert {(row.state, row.trigger) for row in rows()} == {(DeliveryState.DELIVERED, "manual")}


def test_a_retry_opens_its_event_again(scene, dead):
    retry(scene)

    assert set(db.session.scalars(sa.select(Event.status))) == {EventStatus.PENDING}


def test_a_filter_and_a_maximum_choose(scene, dead, rows):
    by_type = retry(scene, DeliveryFilter(event_type="task.done"))
    by_number = retry(scene, max_items=1)
    unknown = retry(scene, DeliveryFilter(connection_id="nobody"))
    by_error = retry(scene, DeliveryFilter(error="too_large"))

    assert [result.done for result in (by_type, by_number, unknown, by_error)] == [1, 1, 0, 0]
    assert [row.state.value for row in rows()] == ["pending", "dead", "pending"]


def test_a_status_that_cannot_be_sent_again_is_refused(scene):
    with pytest.raises(InvalidRequest) as caught:
        retry(scene, DeliveryFilter(status="delivered"))

    assert caught.value.errors[0].pointer == "/filter/status"


def test_waiting_deliveries_go_at_once_whatever_the_failures(scene, publish, rows):
    publish(1)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    drain(scene.connection.id)
    scene.peer.answer = None

    result = retry(scene, DeliveryFilter(status="pending"))
    drain(scene.connection.id)

    assert result.done == 1
    assert rows()[0].state is DeliveryState.DELIVERED


def test_held_deliveries_are_chosen_apart(scene, publish):
    publish(1)
    with transaction():
        db.session.execute(sa.update(Connection).values(paused_outgoing=True))

    counts = [
        preview(scene.workspace.id, DeliveryFilter(status=status)).count for status in ("pending", "held")
    ]

    assert counts == [0, 1]


def test_dead_letters_of_an_ended_connection_go_over_another_one(scene, publish, rows):
    publish(2)
    with transaction():
        close_connection(scene.connection.id)
        db.session.execute(sa.update(Connection).values(status=ConnectionStatus.DISCONNECTED))
    assert {row.error_code for row in rows()} == {"connection_closed"}
    nowhere = retry(scene)
    other = connect(scene.workspace, scene.peer)
    subscribe(other)

    result = retry(scene)
    drain(other.id)

    assert [(op.done, op.skipped) for op in (nowhere, result)] == [(0, 2), (2, 0)]
    assert {(row.state, row.connection_id) for row in rows()} == {(DeliveryState.DELIVERED, other.id)}


def test_one_event_is_sent_again(scene, dead, rows):
    message_id = db.session.scalar(sa.select(Event.message_id).order_by(Event.id))

    taken = retry_event(scene.workspace.id, message_id, scene.connection.public_id)

    assert taken == 1
    assert [row.state.value for row in rows()] == ["pending", "dead", "dead"]


def test_an_unknown_event_or_connection_is_not_found(scene, dead):
    message_id = db.session.scalar(sa.select(Event.message_id))

    for wanted in ((scene.workspace.id, "nothing"), (scene.workspace.id + 1, message_id)):
        with pytest.raises(NotFound):
            retry_event(*wanted)
    with pytest.raises(Problem):
        retry_event(scene.workspace.id, message_id, "nobody")


def test_what_is_discarded_is_withdrawn_with_its_reason(scene, dead, rows):
    result = discard(scene)

    assert result.done == 3
    assert {(row.state, row.error_code, row.error_detail) for row in rows()} == {
        (DeliveryState.WITHDRAWN, "discarded", "not needed")
    }
    assert set(db.session.scalars(sa.select(Event.status))) == {EventStatus.UNSUBSCRIBED}
    assert db.session.scalars(sa.select(ControlOut)).all() == []


def test_the_peer_need_not_wait_for_a_discarded_number(scene, publish):
    publish(2)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {2: ("key_untrusted", True)})
    drain(scene.connection.id)

    discard(scene, DeliveryFilter(status="pending"))

    [gap] = db.session.scalars(sa.select(ControlOut))
    assert '"fromSequence":2,"reason":"withdrawn"' in gap.body


def test_deliveries_are_chosen_one_by_one(scene, dead, rows):
    ids = (public_id(IdKind.DELIVERY, dead[0].id), public_id(IdKind.DELIVERY, dead[2].id), "nothing")

    result = retry(scene, DeliveryFilter(ids=ids))

    assert result.done == 2
    assert [row.state.value for row in rows()] == ["pending", "dead", "pending"]


def test_a_large_set_waits_for_a_worker(scene, dead, rows):
    operation = retry(scene, at_once=2)

    assert (operation.state, operation.total, operation.done) == (OperationState.RUNNING, 3, 0)
    assert {row.state for row in rows()} == {DeliveryState.DEAD}


def test_a_worker_does_it_piece_by_piece(app, scene, dead, rows, work, monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 1)
    retry(scene, at_once=0)

    work(app)

    [operation] = db.session.scalars(sa.select(Operation))
    assert (operation.state, operation.done, operation.owner) == (OperationState.DONE, 3, None)
    assert {row.trigger for row in rows()} == {"manual"}


def test_what_dies_after_the_start_is_not_part_of_the_set(scene, dead, publish, rows):
    operation = discard(scene, at_once=0)
    clock.set_offset_ms(1_000)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {4: ("payload_invalid", False)})
    publish(1)
    drain(scene.connection.id)
    retry(scene, DeliveryFilter(ids=(public_id(IdKind.DELIVERY, dead[0].id),)))
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {1: ("payload_invalid", False)})
    drain(scene.connection.id)

    ended = operations.work(operation.id, seconds=None)

    assert [row.state.value for row in rows()] == ["dead", "withdrawn", "withdrawn", "dead"]
    assert (ended.state, ended.done, ended.skipped) == (OperationState.DONE, 2, 1)


def test_a_paused_operation_goes_on_where_it_was(scene, dead, rows, monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 1)
    id_ = retry(scene, at_once=0).public_id
    place = scene.workspace.id

    number = operations.get(place, id_).id

    def work_off(tell=None):
        now = operations.work(number, seconds=None, tell=tell)
        return now.state, now.done, now.owner

    stopped = work_off(lambda _now: operations.pause(place, id_))
    idle = work_off()
    operations.resume(place, id_)
    ended = work_off()

    assert stopped == idle == (OperationState.PAUSED, 1, None)
    assert ended == (OperationState.DONE, 3, None)


def test_a_cancelled_operation_leaves_the_rest(scene, dead, rows, monkeypatch):
    monkeypatch.setattr(operations, "CHUNK", 1)
    id_ = retry(scene, at_once=0).public_id
    place = scene.workspace.id

    ended = operations.work(
        operations.get(place, id_).id, seconds=None, tell=lambda now: operations.cancel(place, id_)
    )

    assert (ended.state, ended.done, ended.total) == (OperationState.CANCELLED, 1, 3)
    assert [row.state.value for row in rows()] == ["pending", "dead", "dead"]
    with pytest.raises(InvalidState):
        operations.resume(place, id_)
    with pytest.raises(NotFound):
        operations.cancel(place + 1, id_)


def test_the_sweep_finds_an_operation_whose_worker_was_killed(app, scene, dead, work):
    operation = retry(scene, at_once=0)
    with transaction():
        db.session.execute(
            sa.update(Operation).values(owner="elsewhere:1:1:0", lease_until=clock.now_ms() + 30_000)
        )
    held = operations.wake_due()
    clock.set_offset_ms(31_000)

    found = operations.wake_due()
    work(app)

    db.session.rollback()
    assert (held, found) == (0, 1)
    assert operations.get(scene.workspace.id, operation.public_id).state is OperationState.DONE


def test_an_operation_says_who_started_it(scene, dead):
    audit.act_as(audit.Actor("user", "7", "ada@example.org"))
    try:
        operation = discard(scene)
    finally:
        audit.act_as_instance()

    entry = db.session.scalars(sa.select(AuditEntry)).one()
    assert operation.started_by == "ada@example.org"
    assert (entry.action, entry.object_id) == ("delivery.discard", operation.public_id)


def test_a_late_ack_turns_a_dead_letter_into_delivered(scene, dead, rows):
    event = db.session.scalars(sa.select(Event).order_by(Event.id)).first()
    wire = sign_event_ack(
        scene.peer.signer,
        message_id="00000000-0000-4000-8000-000000000001",
        correlation_id=event.message_id,
        connection_id=scene.connection.wire_connection_id,
        timestamp=clock.now_ms(),
        status=AckStatus.STORED,
        digest=event.digest,
    )
    [record] = [key for key in scene.reload().peer.keys]

    with transaction():
        changed = process_event_ack(scene.connection, verify_event_ack(parse_event_ack(loads(wire)), record))

    first = rows()[0]
    assert changed == 1
    assert (first.state, first.error_code, first.ended_at) == (DeliveryState.DELIVERED, None, None)
    assert first.delivered_at is not None
    assert db.session.scalar(sa.select(Event.status).order_by(Event.id)) is EventStatus.DELIVERED


def test_dead_letters_remember_when_they_died(scene, dead):
    assert all(row.ended_at is not None and row.ended_at >= row.created_at for row in dead)

    retry(scene)

    assert set(db.session.scalars(sa.select(Delivery.ended_at))) == {None}
