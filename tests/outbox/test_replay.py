"""A peer asks for events again, and gets what is still kept and granted, beside the live ones."""

import uuid
from itertools import pairwise
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.federation import lifecycle, streams
from app.models import (
    AttemptEntry,
    ControlOut,
    ControlState,
    Delivery,
    Direction,
    Event,
    Replay,
    ReplayState,
    Stream,
    Subscription,
)
from app.outbox import deliver, epochs, replay
from app.outbox.publish import NewEvent, publish_events
from app.protocol.control import ReplayRequest
from app.protocol.errors import RateLimited, ReplayGone
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from app.reports.deliveries import deliveries_of_event
from app.transport.errors import ConnectFailed
from tests.exchange import problem_answer, subscribe


@pytest.fixture(autouse=True)
def unpaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a replay follow each other at once; one test looks at the rate."""
    monkeypatch.setattr(replay, "PACE_MS", 0)


@pytest.fixture
def delivered(scene, publish):
    """delivered(n): n events that the peer has acknowledged, under the next numbers."""

    def make(number: int, event_type: str = "task.created") -> list[str]:
        made = publish(number, event_type)
        deliver.drain(scene.connection.id)
        scene.peer.requests.clear()
        return [event.message_id for event in made]

    return make


def accept(scene, **asked: Any) -> str:
    replay_id = asked.pop("replay_id", None) or str(uuid.uuid4())
    with transaction():
        lifecycle.lock(scene.connection.id)
        replay.accept(scene.connection.id, ReplayRequest(replay_id, **asked))
    return replay_id


def row() -> Replay:
    db.session.rollback()
    db.session.expire_all()
    return db.session.scalars(sa.select(Replay).order_by(Replay.id.desc())).first()


def told() -> list[dict[str, Any]]:
    """Control messages so far: type and payload, in order."""
    found = db.session.execute(sa.select(ControlOut.body).order_by(ControlOut.control_sequence)).scalars()
    messages = [orjson.loads(body) for body in found]
    return [{"type": message["type"], **message["payload"]} for message in messages]


def gaps() -> list[tuple[int, int, str]]:
    return [(m["fromSequence"], m["toSequence"], m["reason"]) for m in told() if m["type"] == "gap"]


def erase(*sequences: int) -> None:
    """Delete deliveries as retention does."""
    with transaction():
        db.session.execute(sa.delete(AttemptEntry))
        db.session.execute(sa.delete(Delivery).where(Delivery.sequence.in_(sequences)))


def test_what_was_delivered_is_sent_again_under_its_numbers_and_ids(scene, delivered):
    ids = delivered(5)

    replay_id = accept(scene, from_sequence=2, to_sequence=4)
    deliver.drain(scene.connection.id)

    [request] = scene.peer.requests
    assert [(e["sequence"], e["event"]["messageId"]) for e in request["events"]] == list(
        zip([2, 3, 4], ids[1:4], strict=True)
    )
    assert {entry["replayId"] for entry in request["events"]} == {replay_id}
    assert told() == [
        {"type": "replay.complete", "replayId": replay_id, "count": 3, "moreAvailable": False}
    ]  # fmt: skip
    assert (row().state, row().count, row().stored) == (ReplayState.COMPLETE, 3, 3)


def test_a_replay_of_everything_begins_with_the_first_number(scene, delivered):
    delivered(3)

    accept(scene)
    deliver.drain(scene.connection.id)

    assert scene.peer.sent() == [[1, 2, 3]]


def test_types_and_times_are_anded(scene, delivered):
    with clock.frozen_at(1_800_000_000_000) as time:
        delivered(2)
        time.advance(10_000)
        delivered(1, "task.changed")
        delivered(2)
        time.advance(10_000)
        delivered(2)

    accept(scene, since=1_800_000_005_000, until=1_800_000_015_000, event_types=("task.created", "x.*"))
    deliver.drain(scene.connection.id)

    assert scene.peer.sent() == [[4, 5]]
    assert gaps() == []


def test_what_can_no_longer_be_sent_is_told_before_the_end(scene, delivered):
    subscribe(scene.connection, "other.*")
    delivered(3)
    delivered(2, "other.thing")
    delivered(1)
    erase(1, 2)
    with transaction():
        db.session.execute(
            sa.update(Subscription)
            .where(Subscription.granted_event_type == "other.*")
            .values(status=SubscriptionStatus.REVOKED)
        )

    accept(scene)
    deliver.drain(scene.connection.id)

    assert scene.peer.sent() == [[3, 6]]
    assert gaps() == [(1, 2, "erased"), (4, 5, "withdrawn")]
    assert told()[-1]["type"] == "replay.complete"


def test_a_number_that_is_missing_between_others_is_told_as_erased(scene, delivered):
    delivered(5)
    erase(3)

    accept(scene, from_sequence=2)
    deliver.drain(scene.connection.id)

    assert (scene.peer.sent(), gaps()) == ([[2, 4, 5]], [(3, 3, "erased")])


def test_what_waits_is_left_to_its_own_delivery(scene, delivered, publish, rows):
    delivered(2)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {3: ("key_untrusted", True)})
    publish(2)
    deliver.drain(scene.connection.id)
    scene.peer.answer = None
    scene.peer.requests.clear()

    accept(scene)
    deliver.drain(scene.connection.id)

    assert scene.peer.sent() == [[1, 2, 4]]
    assert gaps() == []
    assert rows()[2].state is DeliveryState.PENDING


def test_a_dead_letter_is_sent_again_and_delivered_if_it_is_taken(scene, publish, rows):
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {1: ("not_subscribed", False)})
    publish(2)
    deliver.drain(scene.connection.id)
    before = rows()[0].state
    scene.peer.answer = None

    accept(scene)
    deliver.drain(scene.connection.id)

    assert (before, rows()[0].state) == (DeliveryState.DEAD, DeliveryState.DELIVERED)


def test_what_is_refused_again_stays_as_it_was(scene, delivered, rows):
    delivered(2)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {1: ("payload_invalid", False)})

    accept(scene)
    deliver.drain(scene.connection.id)

    assert [delivery.state for delivery in rows()] == [DeliveryState.DELIVERED] * 2
    assert (row().state, row().count, row().refused) == (ReplayState.COMPLETE, 1, 1)


def test_batches_of_a_replay_take_turns_with_live_ones(scene, delivered):
    delivered(6)
    with transaction():
        scene.reload().peer.max_batch_events = 2
    accept(scene)
    publish_events(scene.workspace.id, [NewEvent("task.live", {"n": n}) for n in range(6)])

    deliver.drain(scene.connection.id)

    kinds = ["replay" if "replayId" in b["events"][0] else "live" for b in scene.peer.requests]
    assert kinds == ["live", "replay"] * 3
    assert scene.peer.sent() == [[7, 8], [1, 2], [9, 10], [3, 4], [11, 12], [5, 6]]


def test_a_replay_keeps_to_its_rate_and_a_live_event_waits_for_none_of_it(scene, delivered, monkeypatch):
    delivered(3)
    monkeypatch.setattr(replay, "PACE_MS", 150)
    with transaction():
        scene.reload().peer.max_batch_events = 1
    accept(scene)
    #: What was sent, when, and when the replay is due again.
    sent: list[tuple[str, int, int]] = []

    def answer(batch):
        live = "replayId" not in batch["events"][0]
        with db.engine.connect() as connection:
            due_at = connection.scalar(sa.select(Replay.due_at))
        sent.append(("live" if live else "replay", clock.now_ms(), due_at))
        if len(sent) == 1:
            publish_events(scene.workspace.id, [NewEvent("task.live", {})])
        return scene.peer.accept(batch)

    scene.peer.answer = answer
    deliver.drain(scene.connection.id)

    assert [kind for kind, _, _ in sent] == ["replay", "live", "replay", "replay"]
    turns = [(at, due_at) for kind, at, due_at in sent if kind == "replay"]
    for (_, due_at), (later, due_again) in pairwise(turns):
        # However long a busy machine takes from the claim to the request.
        assert later >= due_at
        assert due_again - due_at >= 150


def test_one_replay_runs_at_a_time(scene, delivered):
    delivered(1)
    first = accept(scene)

    with pytest.raises(RateLimited):
        accept(scene)
    accept(scene, replay_id=first)

    assert db.session.scalar(sa.select(sa.func.count()).select_from(Replay)) == 1


def test_the_next_one_has_to_wait_until_the_gaps_of_the_last_one_are_told(scene, delivered):
    delivered(4)
    erase(2)
    accept(scene)
    deliver.drain(scene.connection.id)
    assert [message["type"] for message in told()] == ["gap", "replay.complete"]

    with pytest.raises(RateLimited):
        accept(scene)
    with transaction():
        db.session.execute(
            sa.update(ControlOut).where(ControlOut.type == "gap").values(state=ControlState.ANSWERED)
        )
    accept(scene)

    assert row().state is ReplayState.RUNNING


def test_a_range_of_which_nothing_is_kept_is_gone(scene, delivered):
    delivered(4)
    erase(1, 2)

    with pytest.raises(ReplayGone) as gone:
        accept(scene, to_sequence=2)

    current = streams.newest(scene.connection.id, Direction.OUTGOING)
    assert gone.value.extras == {"streamEpoch": current.epoch, "oldestSequence": 3}


def test_a_time_before_all_that_is_kept_is_gone(scene, delivered):
    delivered(4)
    erase(1, 2)

    with pytest.raises(ReplayGone):
        accept(scene, until=clock.now_ms() - 86_400_000)


def test_an_epoch_that_nobody_knows_is_gone(scene, delivered):
    delivered(2)

    with pytest.raises(ReplayGone) as gone:
        accept(scene, stream_epoch=str(uuid.uuid4()))

    assert gone.value.extras["oldestSequence"] == 1


def test_numbers_that_were_never_given_are_complete_at_once(scene, delivered):
    delivered(2)

    replay_id = accept(scene, from_sequence=3)
    deliver.drain(scene.connection.id)

    assert scene.peer.requests == []
    assert told() == [
        {"type": "replay.complete", "replayId": replay_id, "count": 0, "moreAvailable": False}
    ]  # fmt: skip


def test_an_earlier_epoch_is_served_too_and_what_was_numbered_anew_is_told(scene, delivered, publish):
    delivered(2)
    old = streams.newest(scene.connection.id, Direction.OUTGOING).epoch
    scene.peer.answer = lambda batch: problem_answer(503, "overloaded")
    publish(1)
    deliver.drain(scene.connection.id)
    scene.peer.answer = None
    with transaction():
        lifecycle.lock(scene.connection.id).retry_at = 0
        epochs.new_epoch(scene.connection.id)
    deliver.drain(scene.connection.id)
    scene.peer.requests.clear()

    accept(scene, stream_epoch=old)
    deliver.drain(scene.connection.id)

    [request] = scene.peer.requests
    assert (request["streamEpoch"], scene.peer.sent()) == (old, [[1, 2]])
    assert gaps() == [(3, 3, "withdrawn")]


def test_a_replay_that_was_cut_off_goes_on_where_the_last_ack_was(scene, delivered):
    delivered(6)
    with transaction():
        scene.reload().peer.max_batch_events = 2
    accept(scene)

    def fail_second(batch):
        if batch["events"][0]["sequence"] == 3:
            raise ConnectFailed("gone")
        return scene.peer.accept(batch)

    scene.peer.answer = fail_second
    deliver.drain(scene.connection.id)
    between = (row().state, row().done_to)
    scene.peer.answer = None
    with transaction():
        lifecycle.lock(scene.connection.id).retry_at = 0
    deliver.drain(scene.connection.id)

    assert between == (ReplayState.RUNNING, 2)
    assert scene.peer.sent() == [[1, 2], [3, 4], [3, 4], [5, 6]]
    assert (row().state, row().count) == (ReplayState.COMPLETE, 6)


def test_gaps_are_told_once_however_often_a_batch_goes(scene, delivered):
    delivered(4)
    erase(2)
    accept(scene)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    deliver.drain(scene.connection.id)
    scene.peer.answer = None
    with transaction():
        lifecycle.lock(scene.connection.id).retry_at = 0

    deliver.drain(scene.connection.id)

    assert gaps() == [(2, 2, "erased")]


def test_a_replay_that_is_put_off_without_a_time_is_tried_ever_more_seldom(scene, delivered):
    delivered(1)
    scene.peer.answer = lambda batch: problem_answer(503, "overloaded")
    waits = []

    with clock.frozen_at(clock.now_ms()) as now:
        accept(scene)
        for _ in range(3):
            deliver.drain(scene.connection.id)
            waits.append(row().due_at - now.now_ms)
            now.advance(waits[-1])

    assert [5_000 * 3**n * 0.8 <= wait <= 5_000 * 3**n * 1.2 for n, wait in enumerate(waits)] == [True] * 3


def test_429_lets_the_replay_wait_and_not_the_live_events(scene, delivered, publish, rows):
    delivered(2)
    accept(scene)

    def answer(batch):
        if "replayId" in batch["events"][0]:
            return problem_answer(429, "rate_limited", **{"retry-after": "60"})
        return scene.peer.accept(batch)

    scene.peer.answer = answer
    publish(1)
    deliver.drain(scene.connection.id)
    publish(1)
    deliver.drain(scene.connection.id)

    assert [delivery.state for delivery in rows()] == [DeliveryState.DELIVERED] * 4
    assert row().state is ReplayState.RUNNING
    assert row().due_at > clock.now_ms() + 50_000
    assert scene.reload().retry_at == 0


def test_an_event_that_the_peer_refuses_as_a_request_is_passed_over_and_told(scene, delivered, rows):
    delivered(3)
    accept(scene)

    def answer(batch):
        if any(entry["sequence"] == 2 for entry in batch["events"]):
            return problem_answer(422, "payload_invalid")
        return scene.peer.accept(batch)

    scene.peer.answer = answer
    deliver.drain(scene.connection.id)

    assert gaps() == [(2, 2, "refused")]
    assert (row().state, row().count, row().refused) == (ReplayState.COMPLETE, 2, 1)
    assert [delivery.state for delivery in rows()] == [DeliveryState.DELIVERED] * 3


def test_an_entry_that_is_refused_for_now_goes_again_in_its_place(scene, delivered):
    delivered(3)
    accept(scene)
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, {2: ("key_untrusted", True)})
    deliver.drain(scene.connection.id)
    waiting = (row().state, row().done_to, row().due_at > clock.now_ms())
    scene.peer.answer = None
    with transaction():
        db.session.execute(sa.update(Replay).values(due_at=0))

    deliver.drain(scene.connection.id)

    assert waiting == (ReplayState.RUNNING, 1, True)
    assert scene.peer.sent() == [[1, 2, 3], [2, 3]]
    assert row().state is ReplayState.COMPLETE


def test_a_replay_is_among_the_attempts_of_an_event_and_leaves_its_receipt(scene, delivered, rows):
    delivered(1)
    receipt = rows()[0].attempt_id

    accept(scene)
    deliver.drain(scene.connection.id)

    [shown] = deliveries_of_event(db.session.scalars(sa.select(Event.id)).one())
    assert [(a["number"], a["trigger"], a["errorCode"]) for a in shown["attempts"]] == [
        (1, "auto", None),
        (2, "replay", None),
    ]
    assert rows()[0].attempt_id == receipt


def test_what_retention_takes_while_it_is_sent_again_stops_nothing(scene, delivered):
    delivered(3)
    accept(scene)

    def answer(batch):
        erase(1, 2, 3)
        return scene.peer.accept(batch)

    scene.peer.answer = answer
    deliver.drain(scene.connection.id)

    assert (row().state, row().count) == (ReplayState.COMPLETE, 3)


def test_nothing_is_sent_again_while_the_connection_is_suspended(scene, delivered):
    delivered(1)
    accept(scene)
    with transaction():
        lifecycle.suspend(lifecycle.lock(scene.connection.id), by_me=True, reason=None)

    deliver.drain(scene.connection.id)
    woken = replay.wake_due()

    assert (scene.peer.requests, woken, row().state) == ([], 0, ReplayState.RUNNING)


def test_the_sweep_wakes_a_replay_that_was_left_behind(scene, delivered, app, work):
    delivered(2)
    accept(scene)

    woken = replay.wake_due()
    work(app)

    assert woken == 1
    assert row().state is ReplayState.COMPLETE


def test_the_end_of_a_connection_ends_what_it_was_sent_again(scene, delivered):
    delivered(1)
    accept(scene)

    with transaction():
        lifecycle.end(lifecycle.lock(scene.connection.id), ConnectionStatus.DISCONNECTED, None)

    assert (row().state, row().error_code) == (ReplayState.FAILED, "connection_closed")


def test_a_stream_of_many_windows_is_gone_through_to_its_end(scene, delivered, monkeypatch):
    monkeypatch.setattr(replay, "WINDOW", 3)
    delivered(20)
    erase(*range(2, 19))

    accept(scene)
    deliver.drain(scene.connection.id)

    assert scene.peer.sent() == [[1], [19, 20]]
    covered = sorted(n for first, last, _ in gaps() for n in range(first, last + 1))
    assert covered == list(range(2, 19))
    assert row().state is ReplayState.COMPLETE


def test_the_peer_that_says_that_it_has_less_came_back_from_a_backup(scene, delivered):
    delivered(5)
    before = streams.newest(scene.connection.id, Direction.OUTGOING).went_back_at
    scene.peer.answer = lambda batch: scene.peer.acknowledge(batch, contiguous=2)

    delivered(1)

    stream = db.session.scalars(sa.select(Stream).execution_options(populate_existing=True)).one()
    assert before is None
    assert stream.contiguous == 2
    assert stream.went_back_at is not None
