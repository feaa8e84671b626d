"""What waits when a grant or a connection ends."""

import sqlalchemy as sa

from app.database import db, transaction
from app.models import ControlOut, Event, EventStatus, Subscription
from app.outbox.deliver import drain
from app.outbox.withdraw import close_connection, withdraw
from app.protocol.states import SubscriptionStatus
from tests.exchange import connect, problem_answer, subscribe


def end_grants(event_type="task.**"):
    db.session.execute(
        sa.update(Subscription)
        .where(Subscription.event_type == event_type)
        .values(status=SubscriptionStatus.CANCELLED)
    )


def test_what_no_grant_covers_any_more_is_withdrawn(scene, publish, rows):
    subscribe(scene.connection, "task.done")
    publish(2)
    publish(1, "task.done")

    with transaction():
        end_grants()
        withdrawn = withdraw(scene.connection.id)

    assert withdrawn == 2
    assert [row.state.value for row in rows()] == ["withdrawn", "withdrawn", "pending"]
    assert db.session.scalars(sa.select(Event.status).order_by(Event.id)).all() == [
        EventStatus.UNSUBSCRIBED,
        EventStatus.UNSUBSCRIBED,
        EventStatus.PENDING,
    ]
    assert db.session.scalars(sa.select(ControlOut)).all() == []


def test_the_peer_is_told_of_numbers_that_will_not_come(scene, publish):
    publish(3)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    drain(scene.connection.id)

    with transaction():
        end_grants()
        withdraw(scene.connection.id)

    [gap] = db.session.scalars(sa.select(ControlOut))
    assert '"fromSequence":1,"reason":"withdrawn"' in gap.body
    assert '"toSequence":3' in gap.body


def test_an_ended_connection_leaves_dead_letters(scene, publish, rows):
    other = connect(scene.workspace, scene.peer)
    subscribe(other)
    publish(2)

    with transaction():
        closed = close_connection(scene.connection.id)

    assert closed == 2
    assert sorted((row.connection_id, row.state.value, row.error_code) for row in rows()) == [
        (scene.connection.id, "dead", "connection_closed"),
        (scene.connection.id, "dead", "connection_closed"),
        (other.id, "pending", None),
        (other.id, "pending", None),
    ]
