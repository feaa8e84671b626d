"""A connection whose outgoing events are paused here: they are held, and go when it goes on."""

import pytest

from app import queue
from app.federation import connections
from app.models import Direction
from app.outbox import rescue
from app.outbox.deliver import drain
from app.protocol.states import DeliveryState


@pytest.fixture
def engine() -> str:
    """A pause is the same whatever the database is."""
    return "sqlite"


@pytest.mark.parametrize("direction", [None, Direction.OUTGOING])
def test_a_paused_queue_is_kept_and_uses_no_attempt(scene, publish, rows, direction):
    publish(2)
    connections.pause(scene.connection.id, direction)
    publish(1)

    drain(scene.connection.id)

    assert (rescue.sweep(), scene.peer.requests) == (0, [])
    assert [(row.state, row.attempts) for row in rows()] == [(DeliveryState.PENDING, 0)] * 3


def test_a_pause_of_what_comes_in_leaves_what_goes_out(scene, publish, rows):
    connections.pause(scene.connection.id, Direction.INCOMING)
    publish(1)

    drain(scene.connection.id)

    assert [row.state for row in rows()] == [DeliveryState.DELIVERED]


def test_the_end_of_a_pause_wakes_the_queue(scene, publish, rows):
    connections.pause(scene.connection.id)
    publish(2)
    queue.redis_client().flushdb()

    connections.unpause(scene.connection.id)

    assert [job.args for job in queue.queue(queue.DELIVERIES).jobs] == [[scene.connection.id]]


def test_a_second_pause_changes_nothing(scene):
    first = connections.pause(scene.connection.id)
    updated_at = first.updated_at

    second = connections.pause(scene.connection.id, Direction.OUTGOING)

    assert (second.paused_outgoing, second.paused_incoming, second.updated_at) == (True, True, updated_at)


def test_one_direction_of_a_whole_pause_can_go_on_alone(scene):
    connections.pause(scene.connection.id)

    going = connections.unpause(scene.connection.id, Direction.INCOMING)

    assert (going.paused_outgoing, going.paused_incoming) == (True, False)
