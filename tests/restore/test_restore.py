"""One side comes back with the database of a backup: nothing is lost that is anywhere, nothing is doubled."""

import sqlalchemy as sa

from app.database import db, transaction
from app.federation import connections, lifecycle
from app.models import AttemptEntry, Delivery, Direction, Event, Replay
from app.outbox import epochs
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reports.connections import streams_of
from tests.federation.conftest import Side
from tests.restore.conftest import Copies, Exchange


def incoming(side: Side) -> dict[str, object]:
    return dict(side.do(streams_of, side.connection().id, Direction.INCOMING))


def outgoing(side: Side) -> dict[str, object]:
    return dict(side.do(streams_of, side.connection().id, Direction.OUTGOING))


def all_arrived_once(exchange: Exchange, *published: list[str]) -> None:
    """Row by row: what the publisher has is delivered, and the subscriber has each exactly once."""
    wanted = {message_id for ids in published for message_id in ids}
    stored = exchange.stored()
    assert sorted(stored) == sorted(wanted)
    sent = exchange.sent()
    assert set(sent) <= wanted
    assert set(sent.values()) <= {DeliveryState.DELIVERED}


def test_a_receiver_that_came_back_gets_what_it_lost(exchange: Exchange, copies: Copies) -> None:
    before = exchange.publish(5)
    exchange.deliver()
    copy = copies.take(exchange.subscriber)
    lost = exchange.publish(5)
    exchange.deliver()

    copies.put_back(exchange.subscriber, copy)
    forgotten = exchange.stored()
    after = exchange.publish(2)
    exchange.settle()

    assert sorted(forgotten) == sorted(before)
    all_arrived_once(exchange, before, lost, after)
    shown = incoming(exchange.subscriber)
    assert (shown["contiguous"], shown["headSequence"], shown["missing"]) == (12, 12, [])
    assert outgoing(exchange.publisher)["wentBackAt"] is not None


def test_a_receiver_that_came_back_to_silence_finds_what_it_lost_by_the_heartbeat(
    exchange: Exchange, copies: Copies
) -> None:
    before = exchange.publish(3)
    exchange.deliver()
    copy = copies.take(exchange.subscriber)
    lost = exchange.publish(4)
    exchange.deliver()

    copies.put_back(exchange.subscriber, copy)
    exchange.settle()

    all_arrived_once(exchange, before, lost)
    [replay] = exchange.subscriber.rows(Replay)
    assert (replay.requested_by, replay.stored) == ("holes", 4)


def test_a_sender_that_came_back_begins_a_new_epoch_and_doubles_nothing(
    exchange: Exchange, copies: Copies
) -> None:
    before = exchange.publish(5)
    exchange.deliver()
    copy = copies.take(exchange.publisher)
    forgotten = exchange.publish(5)
    exchange.deliver()
    first_epoch = outgoing(exchange.publisher)["streamEpoch"]

    copies.put_back(exchange.publisher, copy)
    after = exchange.publish(3)
    exchange.settle()

    all_arrived_once(exchange, before, forgotten, after)
    assert outgoing(exchange.publisher)["streamEpoch"] != first_epoch
    assert set(exchange.sent()) == {*before, *after}
    shown = incoming(exchange.subscriber)
    assert (shown["contiguous"], shown["missing"], shown["earlier"]) == (3, [], [])


def test_a_sender_that_came_back_sends_again_what_had_arrived_and_that_is_a_duplicate(
    exchange: Exchange, copies: Copies
) -> None:
    waiting = exchange.publish(4)
    copy = copies.take(exchange.publisher)
    exchange.deliver()

    copies.put_back(exchange.publisher, copy)
    exchange.settle()

    all_arrived_once(exchange, waiting)


def test_a_sender_that_came_back_to_an_earlier_epoch_goes_on(exchange: Exchange, copies: Copies) -> None:
    before = exchange.publish(2)
    exchange.deliver()
    copy = copies.take(exchange.publisher)
    exchange.time.advance(11_000)
    exchange.publisher.do(_begin_anew, exchange.publisher.connection().id)
    forgotten = exchange.publish(3)
    exchange.deliver()

    copies.put_back(exchange.publisher, copy)
    after = exchange.publish(2)
    exchange.settle()

    all_arrived_once(exchange, before, forgotten, after)


def test_control_numbers_are_agreed_after_either_side_came_back(exchange: Exchange, copies: Copies) -> None:
    for side in (exchange.publisher, exchange.subscriber):
        copy = copies.take(side)
        for _ in range(3):
            side.do(connections.suspend, side.connection().id)
            exchange.pair.settle()
            side.do(connections.resume, side.connection().id)
            exchange.pair.settle()
        copies.put_back(side, copy)

        side.do(connections.suspend, side.connection().id)
        exchange.pair.settle()
        suspended = [each.connection().status for each in (exchange.publisher, exchange.subscriber)]
        side.do(connections.resume, side.connection().id)
        exchange.pair.settle()

        assert suspended == [ConnectionStatus.SUSPENDED] * 2
    states = {each.connection().status for each in (exchange.publisher, exchange.subscriber)}
    assert states == {ConnectionStatus.ACTIVE}


def test_what_neither_side_has_any_more_is_named_with_its_reason(exchange: Exchange, copies: Copies) -> None:
    before = exchange.publish(2)
    exchange.deliver()
    copy = copies.take(exchange.subscriber)
    lost = exchange.publish(4)
    exchange.deliver()
    exchange.publisher.do(_erase, (3, 4))

    copies.put_back(exchange.subscriber, copy)
    exchange.settle()

    assert sorted(exchange.stored()) == sorted(before + lost[2:])
    assert incoming(exchange.subscriber)["missing"] == [
        {"fromSequence": 3, "toSequence": 4, "reason": "erased"}
    ]
    assert incoming(exchange.subscriber)["contiguous"] == 6


def test_both_sides_from_backups_of_different_days_agree_in_the_end(
    exchange: Exchange, copies: Copies
) -> None:
    first = exchange.publish(3)
    exchange.deliver()
    old_subscriber = copies.take(exchange.subscriber)
    second = exchange.publish(3)
    exchange.deliver()
    old_publisher = copies.take(exchange.publisher)
    gone = exchange.publish(2)
    exchange.deliver()

    copies.put_back(exchange.subscriber, old_subscriber)
    copies.put_back(exchange.publisher, old_publisher)
    third = exchange.publish(2)
    exchange.settle()

    # What only the two lost databases had is lost; nothing else is.
    assert not set(gone) & set(exchange.stored())
    all_arrived_once(exchange, first, second, third)


def _begin_anew(connection_id: int) -> None:
    with transaction():
        lifecycle.lock(connection_id)
        epochs.new_epoch(connection_id)


def _erase(sequences: tuple[int, ...]) -> None:
    """Delete events as retention does."""
    with transaction():
        chosen = sa.select(Delivery.event_id).where(Delivery.sequence.in_(sequences))
        ids = db.session.scalars(chosen).all()
        db.session.execute(sa.delete(AttemptEntry))
        db.session.execute(sa.delete(Delivery).where(Delivery.event_id.in_(ids)))
        db.session.execute(sa.delete(Event).where(Event.id.in_(ids)))
