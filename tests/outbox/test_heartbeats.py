"""An idle stream is told of every five minutes, so that a lost tail is found."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from app import clock
from app.clock import FrozenClock
from app.database import db, transaction
from app.federation import lifecycle, sending, streams
from app.federation.streams import HEARTBEAT_MS
from app.models import ControlOut, ControlState, Direction
from app.outbox import deliver, epochs, heartbeats
from app.protocol.states import ConnectionStatus
from app.transport.errors import ConnectFailed
from tests.exchange import problem_answer


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with clock.frozen_at(clock.now_ms()) as frozen:
        yield frozen


@pytest.fixture
def idle(scene, publish, time):
    """Three events went; since then it is quiet."""
    publish(3)
    deliver.drain(scene.connection.id)
    return scene


def beats() -> list[dict[str, Any]]:
    db.session.rollback()
    found = db.session.scalars(sa.select(ControlOut.body).where(ControlOut.type == "heartbeat"))
    return [orjson.loads(body)["payload"] for body in found]


def test_a_heartbeat_goes_after_five_idle_minutes_and_tells_the_head(idle, time):
    early = heartbeats.beat_due()
    time.advance(HEARTBEAT_MS - 1)
    still_early = heartbeats.beat_due()
    time.advance(1)

    sent = heartbeats.beat_due()

    assert (early, still_early, sent) == (0, 0, 1)
    epoch = streams.newest(idle.connection.id, Direction.OUTGOING).epoch
    assert beats() == [{"streamEpoch": epoch, "headSequence": 3, "oldestSequence": 1}]


def test_a_stream_of_which_nothing_was_sent_says_0_and_1(scene, time):
    with transaction():
        lifecycle.lock(scene.connection.id)
        streams.begin(scene.connection.id)
    time.advance(HEARTBEAT_MS)

    heartbeats.beat_due()

    [beat] = beats()
    assert (beat["headSequence"], beat["oldestSequence"]) == (0, 1)


def test_events_put_it_off(idle, time, publish):
    time.advance(HEARTBEAT_MS - 1_000)
    publish(1)
    deliver.drain(idle.connection.id)
    time.advance(1_000)
    then = heartbeats.beat_due()
    time.advance(HEARTBEAT_MS - 1_000)

    sent = heartbeats.beat_due()

    assert (then, sent) == (0, 1)


def test_one_goes_every_five_minutes_and_only_the_newest_is_kept(idle, time):
    for _ in range(3):
        time.advance(HEARTBEAT_MS)
        assert heartbeats.beat_due() == 1
        with transaction():
            db.session.execute(sa.update(ControlOut).values(state=ControlState.ANSWERED))

    assert len(beats()) == 1


def test_a_heartbeat_that_fails_is_never_repeated(idle, time, monkeypatch):
    class Away:
        def post(self, *_args: Any, **_named: Any) -> None:
            raise ConnectFailed("nobody is there")

    monkeypatch.setattr(sending.outside, "client", lambda: Away())
    time.advance(HEARTBEAT_MS)
    heartbeats.beat_due()
    sending.send_controls(idle.connection.id)
    states = set(db.session.scalars(sa.select(ControlOut.state)))
    time.advance(60_000)

    again = heartbeats.beat_due()

    assert (states, again) == ({ControlState.GIVEN_UP}, 0)


def test_no_heartbeat_while_a_numbered_event_waits_to_go_again(scene, publish, time):
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    publish(1)
    deliver.drain(scene.connection.id)
    time.advance(HEARTBEAT_MS)

    assert heartbeats.beat_due() == 0


@pytest.mark.parametrize("state", [ConnectionStatus.SUSPENDED, ConnectionStatus.DISCONNECTED])
def test_only_an_active_connection_beats(idle, time, state):
    with transaction():
        lifecycle.lock(idle.connection.id).status = state
    time.advance(HEARTBEAT_MS)

    assert heartbeats.beat_due() == 0
    assert heartbeats.beat_due() == 0


def test_an_earlier_epoch_beats_no_more(idle, time):
    with transaction():
        lifecycle.lock(idle.connection.id)
        epochs.new_epoch(idle.connection.id)
    time.advance(HEARTBEAT_MS)

    heartbeats.beat_due()

    [beat] = beats()
    assert beat["headSequence"] == 0
