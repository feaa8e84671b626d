"""A connection whose incoming events are paused here: what its peer is answered, and what it keeps."""

import pytest
import sqlalchemy as sa

from app.database import db, transaction
from app.federation import connections
from app.models import Connection, Direction
from app.protocol.answers import Outcome, decide
from app.protocol.errors import Overloaded
from tests.inbox.conftest import outcomes


@pytest.fixture
def engine() -> str:
    """A pause is the same whatever the database is."""
    return "sqlite"


def test_a_paused_peer_is_asked_to_wait_a_minute_which_is_no_failure_for_it(scene, take, stored):
    connections.pause(scene.connection.id, Direction.INCOMING)

    with pytest.raises(Overloaded) as refused:
        take({1: scene.peer.event()})

    assert refused.value.retry_after_s == 60
    assert decide(refused.value.status, refused.value.code, 1) is Outcome.WAIT
    assert stored() == []


def test_what_was_refused_in_a_pause_is_stored_after_it(scene, take, stored):
    event = scene.peer.event()
    connections.pause(scene.connection.id, Direction.INCOMING)
    with pytest.raises(Overloaded):
        take({1: event})
    connections.unpause(scene.connection.id, Direction.INCOMING)

    ack = take({1: event})

    assert (outcomes(ack), len(stored())) == (["stored"], 1)


def test_what_a_peer_repeats_in_a_pause_is_still_a_duplicate(scene, take, stored):
    event = scene.peer.event()
    take({1: event})
    connections.pause(scene.connection.id, Direction.INCOMING)

    ack = take({1: event})

    assert (outcomes(ack), len(stored())) == (["duplicate"], 1)


def test_a_peer_that_is_refused_in_a_pause_is_heard_all_the_same(scene, take):
    with transaction():
        db.session.execute(
            sa.update(Connection).values(failures=7, network_failures=7, breaker_opened_at=1, retry_at=2**60)
        )
    connections.pause(scene.connection.id, Direction.INCOMING)

    with pytest.raises(Overloaded):
        take({1: scene.peer.event()})

    connection = scene.reload()
    assert (connection.failures, connection.breaker_opened_at, connection.retry_at) == (0, None, 0)
