"""Both sides compare what was sent with what was stored; what differs is mended, or named."""

import json

import pytest
import sqlalchemy as sa

from app import clock, queue
from app.federation import connections
from app.jobs import reconciliation as jobs
from app.jobs import retention
from app.models import (
    ControlOut,
    ControlState,
    Delivery,
    Direction,
    Event,
    EventStatus,
    Peer,
    Reconciliation,
    ReconciliationState,
    Replay,
)
from app.protocol import comparison
from app.protocol.errors import InvalidRequest, InvalidState
from app.protocol.states import DeliveryState
from app.reconciliation import run

DAY_MS = 86_400_000
BOTH = pytest.mark.parametrize("direction", list(Direction))


def found(reconciliation):
    return [(one["sequence"], one["kind"], one["repair"]) for one in json.loads(reconciliation.differences)]


def incoming(side):
    return side.rows(Event, Event.direction == Direction.INCOMING)


@BOTH
def test_equal_lists_are_compared_by_one_question(stream, direction):
    stream.publish(150)

    result = stream.compare(direction)

    assert (result.state, result.rounds, result.compared, result.found) == (
        ReconciliationState.DONE,
        1,
        150,
        0,
    )
    assert (result.from_sequence, result.to_sequence, result.asked_by) == (1, 150, "test")


def test_what_the_subscriber_lost_is_sent_again(stream):
    ids = stream.publish(150)
    lost = Event.message_id.in_([ids[6], ids[120]])
    stream.change(stream.subscriber, sa.delete(Event).where(lost))

    result = stream.compare(Direction.OUTGOING)
    stream.drain()
    after = stream.compare(Direction.OUTGOING)

    assert found(result) == [(7, "missing_there", "sent_again"), (121, "missing_there", "sent_again")]
    assert (result.found, result.repaired) == (2, 2)
    assert {event.message_id for event in incoming(stream.subscriber)} == set(ids)
    assert (after.found, after.state) == (0, ReconciliationState.DONE)
    assert {event.status for event in stream.publisher.rows(Event)} == {EventStatus.DELIVERED}


def test_the_subscriber_asks_for_a_replay_of_what_it_lost(stream):
    ids = stream.publish(150)
    stream.change(stream.subscriber, sa.delete(Event).where(Event.message_id.in_([ids[6], ids[120]])))

    result = stream.compare(Direction.INCOMING)
    stream.drain()
    stream.pair.settle()
    after = stream.compare(Direction.INCOMING)

    assert found(result) == [(7, "missing_here", "replay_asked"), (121, "missing_here", "replay_asked")]
    [replay] = stream.subscriber.rows(Replay)
    assert (replay.from_sequence, replay.to_sequence) == (7, 121)
    assert {event.message_id for event in incoming(stream.subscriber)} == set(ids)
    assert after.found == 0


def test_what_arrived_although_the_publisher_gave_it_up_becomes_delivered(stream):
    stream.publish(3)
    [_, second, _] = stream.publisher.rows(Delivery)
    stream.change(
        stream.publisher,
        sa.update(Delivery)
        .where(Delivery.id == second.id)
        .values(state=DeliveryState.DEAD, error_code="expired", delivered_at=None),
    )

    result = stream.compare(Direction.OUTGOING)

    assert found(result) == [(2, "unacknowledged", "acknowledged")]
    [again] = stream.publisher.rows(Delivery, Delivery.id == second.id)
    assert (again.state, again.error_code) == (DeliveryState.DELIVERED, None)


def test_the_subscriber_names_what_the_publisher_does_not_know_as_arrived(stream):
    stream.publish(3)
    stream.change(
        stream.publisher,
        sa.update(Delivery).where(Delivery.sequence == 2).values(state=DeliveryState.DEAD),
    )
    clock.set_offset_ms(120_000)

    result = stream.compare(Direction.INCOMING)

    assert found(result) == [(2, "not_acknowledged", None)]
    assert (result.found, result.repaired) == (1, 0)


@BOTH
def test_another_content_under_a_number_is_named(stream, direction):
    stream.publish(3)
    stream.change(
        stream.subscriber,
        sa.update(Event).where(Event.sequence == 2).values(digest="A" * 43 + "="),
    )

    result = stream.compare(direction)

    assert found(result) == [(2, "different", None)]


def test_what_the_publisher_lost_is_named(stream):
    ids = stream.publish(3)
    stream.change(stream.publisher, sa.delete(Delivery).where(Delivery.sequence == 3))

    result = stream.compare(Direction.OUTGOING)

    assert found(result) == [(3, "unknown_here", None)]
    assert json.loads(result.differences)[0]["messageId"] == ids[2]


@BOTH
def test_what_is_under_way_is_no_difference(stream, direction):
    stream.publish(4)
    stream.change(
        stream.publisher,
        sa.update(Delivery)
        .where(Delivery.sequence == 2)
        .values(state=DeliveryState.PENDING, next_attempt_at=clock.now_ms() + DAY_MS),
    )

    result = stream.compare(direction, to_sequence=4)

    assert (result.state, result.found) == (ReconciliationState.DONE, 0)


@BOTH
def test_what_went_by_age_at_the_subscriber_counts_as_stored(stream, direction):
    stream.publish(3)
    clock.set_offset_ms(31 * DAY_MS)
    stream.subscriber.do(retention.run, 60, sleep=lambda _s: None)

    result = stream.compare(direction)

    assert incoming(stream.subscriber) == []
    assert (result.compared, result.found) == (3, 0)


def test_what_is_too_old_to_be_sent_again_is_named_alone(stream):
    stream.publish(2)
    clock.set_offset_ms(9 * DAY_MS)
    stream.change(stream.subscriber, sa.delete(Event).where(Event.sequence == 1))

    result = stream.compare(Direction.OUTGOING)

    assert found(result) == [(1, "missing_there", None)]
    assert {row.state for row in stream.publisher.rows(Delivery)} == {DeliveryState.DELIVERED}


def test_a_large_window_is_compared_slice_by_slice(stream, monkeypatch):
    monkeypatch.setattr(run, "SLICE", 40)
    monkeypatch.setattr(comparison, "MAX_NUMBERS", 100)
    ids = stream.publish(300)
    stream.change(stream.subscriber, sa.delete(Event).where(Event.message_id == ids[250]))

    result = stream.compare(Direction.OUTGOING)

    assert (result.compared, found(result)) == (300, [(251, "missing_there", "sent_again")])
    assert result.rounds > 3


def test_a_chosen_range_alone_is_compared(stream):
    ids = stream.publish(10)
    stream.change(stream.subscriber, sa.delete(Event).where(Event.message_id == ids[0]))

    result = stream.compare(Direction.OUTGOING, from_sequence=2, to_sequence=5)

    assert (result.compared, result.found) == (4, 0)


def test_a_stream_of_which_the_other_side_knows_nothing_differs_in_all(stream):
    stream.publish(3)
    stream.change(stream.subscriber, sa.delete(Event))

    result = stream.compare(Direction.OUTGOING)

    assert [one[1] for one in found(result)] == ["missing_there"] * 3


def test_so_many_differences_end_a_comparison(stream, monkeypatch):
    monkeypatch.setattr(run, "MAX_DIFFERENCES", 2)
    stream.publish(3)
    stream.change(stream.subscriber, sa.delete(Event))

    result = stream.compare(Direction.OUTGOING)

    assert (result.state, result.error_code) == (ReconciliationState.FAILED, "too_many_differences")


def test_a_peer_that_does_not_list_the_feature_is_not_asked(stream):
    stream.publish(1)
    [peer] = stream.publisher.rows(Peer)
    document = json.loads(peer.document) | {"features": ["tree"]}
    stream.change(stream.publisher, sa.update(Peer).values(document=json.dumps(document)))

    with pytest.raises(run.NotOffered):
        stream.compare(Direction.OUTGOING)

    assert stream.publisher.do(run.due) == []


def test_nothing_is_compared_over_a_connection_that_is_not_active(stream):
    stream.publish(1)
    stream.publisher.do(connections.suspend, stream.publisher.connection().id)

    with pytest.raises(InvalidState):
        stream.compare(Direction.OUTGOING)
    with pytest.raises(InvalidRequest):
        stream.compare(Direction.OUTGOING, from_sequence=2, to_sequence=1)


def test_an_answer_that_is_none_fails_the_comparison(stream, monkeypatch):
    stream.publish(1)

    def lie(asked, _held):
        summary = comparison.Summary(asked[0].first, asked[0].last, 9, asked[0].root)
        return [comparison.Answered(summary, ())]

    monkeypatch.setattr(comparison, "answer", lie)

    result = stream.compare(Direction.OUTGOING)

    assert (result.state, result.error_code) == (ReconciliationState.FAILED, "answer_invalid")


def test_a_question_that_was_given_up_ends_its_comparison(stream):
    stream.publish(1)
    beta = stream.publisher
    beta.do(run.start, beta.connection().id, Direction.OUTGOING)
    waiting = beta.do(run.sweep)
    stream.change(beta, sa.update(ControlOut).values(state=ControlState.GIVEN_UP))

    ended = beta.do(run.sweep)

    [result] = beta.rows(Reconciliation)
    assert (waiting, ended, result.state) == (0, 1, ReconciliationState.FAILED)


def test_a_peer_that_asks_without_end_is_told_to_wait(stream, monkeypatch):
    monkeypatch.setattr(run, "ASKED_PER_MINUTE", 1)
    stream.publish(1)
    stream.compare(Direction.OUTGOING)

    result = stream.compare(Direction.OUTGOING)

    [*_, question] = stream.publisher.rows(ControlOut)
    assert (result.state, question.state, question.error_code) == (
        ReconciliationState.RUNNING,
        ControlState.WAITING,
        "rate_limited",
    )


def test_streams_are_compared_once_an_hour_and_idle_ones_once_a_day(stream):
    beta = stream.publisher
    nothing_sent = beta.do(run.due)
    stream.publish(1)
    first = beta.do(run.due)
    beta.do(jobs.begin, beta.connection().id)
    stream.pair.settle()
    at_once = beta.do(run.due)
    clock.set_offset_ms(3_700_000)
    idle = beta.do(run.due)
    stream.publish(1)
    sent = beta.do(run.due)
    beta.do(jobs.begin, beta.connection().id)
    stream.pair.settle()
    clock.set_offset_ms(3_800_000 + DAY_MS)

    a_day_later = beta.do(run.due)

    due = [beta.connection().id]
    assert (nothing_sent, first, at_once, idle, sent, a_day_later) == ([], due, [], [], due, due)
    assert {row.asked_by for row in beta.rows(Reconciliation)} == {"schedule"}


def test_the_clock_has_workers_begin(stream):
    stream.publish(1)

    stream.publisher.do(jobs.begin_due)

    assert stream.publisher.do(queue.length, queue.MAINTENANCE) == 1
