"""Sending again, and giving up."""

import pytest
import sqlalchemy as sa

from app.database import db, transaction
from app.models import Connection, ControlOut, Event, EventStatus
from app.outbox.dead_letters import (
    DeliveryFilter,
    RetryGroup,
    RetryResult,
    discard_deliveries,
    retry_deliveries,
    retry_event,
)
from app.outbox.deliver import drain
from app.outbox.withdraw import close_connection
from app.protocol.errors import InvalidRequest, NotFound, Problem
from app.protocol.states import ConnectionStatus, DeliveryState
from tests.exchange import connect, problem_answer, subscribe


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


def test_a_dry_run_counts_by_connection_and_error_and_changes_nothing(scene, dead, rows):
    result = retry_deliveries(scene.workspace.id, DeliveryFilter(), dry_run=True)

    assert result == RetryResult(3, [RetryGroup(scene.connection.public_id, "payload_invalid", 3)])
    assert {row.state for row in rows()} == {DeliveryState.DEAD}


def test_dead_letters_go_again_under_their_numbers(scene, dead, rows):
    result = retry_deliveries(scene.workspace.id, DeliveryFilter())
    drain(scene.connection.id)

    assert result.count == 3
    assert scene.peer.sent() == [[1, 2, 3]]
    assert {(row.state, row.trigger) for row in rows()} == {(DeliveryState.DELIVERED, "manual")}


def test_a_retry_opens_its_event_again(scene, dead):
    retry_deliveries(scene.workspace.id, DeliveryFilter())

    assert set(db.session.scalars(sa.select(Event.status))) == {EventStatus.PENDING}


def test_a_filter_and_a_maximum_choose(scene, dead, rows):
    by_type = retry_deliveries(scene.workspace.id, DeliveryFilter(event_type="task.done"))
    by_number = retry_deliveries(scene.workspace.id, DeliveryFilter(), max_items=1)
    elsewhere = retry_deliveries(scene.workspace.id + 1, DeliveryFilter())
    unknown = retry_deliveries(scene.workspace.id, DeliveryFilter(connection_id="nobody"))

    assert [result.count for result in (by_type, by_number, elsewhere, unknown)] == [1, 1, 0, 0]
    assert [row.state.value for row in rows()] == ["pending", "dead", "pending"]


def test_a_status_that_cannot_be_sent_again_is_refused(scene):
    with pytest.raises(InvalidRequest) as caught:
        retry_deliveries(scene.workspace.id, DeliveryFilter(status="delivered"))

    assert caught.value.errors[0].pointer == "/filter/status"


def test_waiting_deliveries_go_at_once_whatever_the_failures(scene, publish, rows):
    publish(1)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    drain(scene.connection.id)
    scene.peer.answer = None

    result = retry_deliveries(scene.workspace.id, DeliveryFilter(status="pending"))
    drain(scene.connection.id)

    assert result.count == 1
    assert rows()[0].state is DeliveryState.DELIVERED


def test_held_deliveries_are_chosen_apart(scene, publish):
    publish(1)
    with transaction():
        db.session.execute(sa.update(Connection).values(paused_outgoing=True))

    counts = [
        retry_deliveries(scene.workspace.id, DeliveryFilter(status=status), dry_run=True).count
        for status in ("pending", "held")
    ]

    assert counts == [0, 1]


def test_dead_letters_of_an_ended_connection_go_over_another_one(scene, publish, rows):
    publish(2)
    with transaction():
        close_connection(scene.connection.id)
        db.session.execute(sa.update(Connection).values(status=ConnectionStatus.DISCONNECTED))
    assert {row.error_code for row in rows()} == {"connection_closed"}
    nowhere = retry_deliveries(scene.workspace.id, DeliveryFilter())
    other = connect(scene.workspace, scene.peer)
    subscribe(other)

    result = retry_deliveries(scene.workspace.id, DeliveryFilter())
    drain(other.id)

    assert (nowhere.count, result.count) == (0, 2)
    assert {(row.state, row.connection_id) for row in rows()} == {(DeliveryState.DELIVERED, other.id)}


def test_one_event_is_sent_again(scene, dead, rows):
    message_id = db.session.scalar(sa.select(Event.message_id).order_by(Event.id))

    taken = retry_event(scene.workspace.id, message_id, scene.connection.public_id)

    assert taken.count == 1
    assert [row.state.value for row in rows()] == ["pending", "dead", "dead"]


def test_an_unknown_event_or_connection_is_not_found(scene, dead):
    message_id = db.session.scalar(sa.select(Event.message_id))

    for wanted in ((scene.workspace.id, "nothing"), (scene.workspace.id + 1, message_id)):
        with pytest.raises(NotFound):
            retry_event(*wanted)
    with pytest.raises(Problem):
        retry_event(scene.workspace.id, message_id, "nobody")


def test_what_is_discarded_is_withdrawn_with_its_reason(scene, dead, rows):
    result = discard_deliveries(scene.workspace.id, DeliveryFilter(), "not needed")

    assert result.count == 3
    assert {(row.state, row.error_code, row.error_detail) for row in rows()} == {
        (DeliveryState.WITHDRAWN, "discarded", "not needed")
    }
    assert set(db.session.scalars(sa.select(Event.status))) == {EventStatus.UNSUBSCRIBED}
    assert db.session.scalars(sa.select(ControlOut)).all() == []


def test_the_peer_need_not_wait_for_a_discarded_number(scene, publish):
    publish(2)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {2: ("key_untrusted", True)})
    drain(scene.connection.id)

    discard_deliveries(scene.workspace.id, DeliveryFilter(status="pending"), "not needed")

    [gap] = db.session.scalars(sa.select(ControlOut))
    assert '"fromSequence":2,"reason":"withdrawn"' in gap.body
