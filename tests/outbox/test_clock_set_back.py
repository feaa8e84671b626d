"""A sender whose clock is set back in a burst loses nothing, doubles nothing and keeps the order."""

import pytest

from app.database import transaction
from app.federation.lifecycle import lock
from app.outbox.deliver import drain
from tests.exchange import problem_answer

HOUR_MS = 3_600_000


@pytest.fixture
def engine() -> str:
    """What is due is the same whatever the database is."""
    return "sqlite"


@pytest.mark.parametrize("back_ms", [60_000, HOUR_MS, 24 * HOUR_MS], ids=["minute", "hour", "day"])
def test_a_clock_that_is_set_back_in_a_burst_changes_no_order(scene, publish, rows, now, back_ms):
    before = now.now_ms
    ids = []

    def burst():
        now.advance(200)
        ids.extend(event.message_id for event in publish(3))

    burst()
    drain(scene.connection.id)
    burst()
    # The clock is wrong now: the peer refuses what is signed by it, unless it is only a little behind.
    now.advance(-back_ms)
    burst()
    scene.peer.answer = None if back_ms <= 300_000 else lambda _batch: problem_answer(401, "clock_skew")
    drain(scene.connection.id)
    burst()
    drain(scene.connection.id)
    # And right again.
    scene.peer.answer = None
    now.now_ms = before + HOUR_MS
    burst()
    drain(scene.connection.id)

    # By number, as the peer stores them; what it refused came again under the number that it had.
    came = {(e["sequence"], e["event"]["messageId"]) for one in scene.peer.requests for e in one["events"]}
    assert [message_id for _, message_id in sorted(came)] == ids
    assert [sequence for sequence, _ in sorted(came)] == list(range(1, 16))
    assert {row.state.value for row in rows()} == {"delivered"}


def test_a_peer_whose_clock_is_ahead_does_not_shorten_a_back_off(scene, publish, rows, now):
    with transaction():
        connection = lock(scene.connection.id)
        connection.clock_skew_ms, connection.clock_skew_at = 200_000, now.now_ms
    publish(1)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {1: ("key_untrusted", True)})
    drain(scene.connection.id)

    drain(scene.connection.id)

    assert scene.peer.sent() == [[1]]
