"""Holes are asked for, filled, or given up; and what comes of a replay is counted."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from app import clock
from app.clock import FrozenClock
from app.database import db, transaction
from app.federation import controls, lifecycle, sending
from app.inbox import holes, replays
from app.inbox import stream as streams
from app.models import ControlOut, Direction, Replay, ReplayState, Stream
from app.protocol.control import ControlType, ReplayComplete
from app.protocol.errors import InvalidRequest, InvalidState, RateLimited
from app.protocol.states import ConnectionStatus
from app.reports.connections import streams_of
from tests.exchange import RemotePeer, connect, problem_answer
from tests.inbox.conftest import EPOCH, outcomes, stream

OTHER_EPOCH = "22222222-2222-4222-8222-222222222222"
SECOND_MS, MINUTE_MS = 1_000, 60_000


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with clock.frozen_at(clock.now_ms()) as frozen:
        yield frozen


def asked() -> list[Replay]:
    db.session.rollback()
    db.session.expire_all()
    return list(db.session.scalars(sa.select(Replay).order_by(Replay.id)))


def requests() -> list[dict[str, Any]]:
    """Payloads of the messages that ask for replays."""
    found = db.session.scalars(
        sa.select(ControlOut.body).where(ControlOut.type == "replay.request").order_by(ControlOut.id)
    )
    return [orjson.loads(body)["payload"] for body in found]


def answer(scene, replay: Replay, code: str | None = None) -> None:
    with transaction():
        replays.answered(scene.connection.id, replay.replay_id, code, code)


def complete(scene, replay: Replay, **more: Any) -> None:
    said = ReplayComplete(replay.replay_id, **{"count": 0, "more_available": False, **more})
    with transaction():
        replays.completed(scene.connection.id, said)


def missing() -> list[tuple[int, int, str]]:
    return streams.missing(stream())


def take_some(scene, take, *numbers: int, **more: Any) -> dict[str, Any]:
    return take({number: scene.peer.event(payload={"n": number}) for number in numbers}, **more)


def test_a_hole_is_asked_for_after_thirty_seconds(scene, take, time):
    take_some(scene, take, 1, 2, 5)
    replays.sweep()
    time.advance(29 * SECOND_MS)
    replays.sweep()
    too_early = asked()
    time.advance(SECOND_MS)

    replays.sweep()

    assert too_early == []
    [replay] = asked()
    assert (replay.state, replay.requested_by) == (ReplayState.REQUESTED, "holes")
    [said] = requests()
    assert said == {
        "replayId": replay.replay_id, "streamEpoch": EPOCH, "fromSequence": 3, "toSequence": 4,
    }  # fmt: skip


def test_nothing_is_asked_while_a_replay_is_under_way(scene, take, time):
    take_some(scene, take, 2)
    replays.sweep()
    time.advance(30 * SECOND_MS)
    replays.sweep()
    time.advance(120 * MINUTE_MS)

    replays.sweep()

    assert len(asked()) == 1
    assert missing() == [(1, 1, "missing")]


def test_a_hole_is_asked_for_after_30_s_5_min_and_1_h_and_then_shown_as_lost(scene, take, time):
    take_some(scene, take, 1, 4)
    began, asked_after = clock.now_ms(), []

    for wait in (30 * SECOND_MS, 5 * MINUTE_MS, 60 * MINUTE_MS):
        replays.sweep()
        time.advance(wait)
        replays.sweep()
        replay = asked()[-1]
        asked_after.append(replay.created_at - began)
        answer(scene, replay)
        complete(scene, replay)
    before = (missing(), stream().contiguous)
    replays.sweep()

    assert asked_after == [30_000, 330_000, 3_930_000]
    assert before == ([(2, 3, "missing")], 1)
    assert missing() == [(2, 3, "lost")]
    assert (stream().contiguous, stream().due_at) == (4, None)


def test_what_was_lost_is_so_no_more_when_it_comes(scene, take, time):
    take_some(scene, take, 1, 5)
    with transaction():
        streams.account(lifecycle_locked_stream(scene), 2, 4, streams.LOST)

    ack = take_some(scene, take, 3)

    assert outcomes(ack) == ["stored"]
    assert missing() == [(2, 2, "lost"), (4, 4, "lost")]


def lifecycle_locked_stream(scene):
    lifecycle.lock(scene.connection.id)
    found = streams.stream_of_epoch(scene.connection.id, EPOCH)
    assert found is not None
    return found


def test_a_gap_that_is_told_later_says_why_what_was_lost_will_not_come(scene, take):
    take_some(scene, take, 1, 5)
    with transaction():
        streams.account(lifecycle_locked_stream(scene), 2, 4, streams.LOST)

    with transaction():
        streams.gap_told(scene.connection.id, EPOCH, 3, 6, "erased")

    assert missing() == [(2, 2, "lost"), (3, 4, "erased"), (6, 6, "erased")]


def test_a_gap_does_not_take_away_what_came(scene, take):
    take_some(scene, take, 1, 2, 3)

    with transaction():
        streams.gap_told(scene.connection.id, EPOCH, 1, 3, "erased")

    assert (missing(), stream().contiguous) == ([], 3)


def test_a_lost_tail_is_asked_for_after_a_heartbeat_and_never_more_than_ten_thousand(scene, take, time):
    take_some(scene, take, 1)
    with transaction():
        lifecycle.lock(scene.connection.id)
        streams.head_told(scene.connection.id, EPOCH, 30_001, 1)
    replays.sweep()
    time.advance(30 * SECOND_MS)

    for _ in range(4):
        replays.sweep()
        replay = asked()[-1]
        answer(scene, replay)
        complete(scene, replay)

    assert [(said["fromSequence"], said["toSequence"]) for said in requests()] == [
        (2, 10_001),
        (10_002, 20_001),
        (20_002, 30_001),
    ]


def test_holes_of_an_earlier_epoch_are_lost_once_its_replay_fails(scene, take, time):
    take_some(scene, take, 3)
    time.advance(11 * SECOND_MS)
    take_some(scene, take, 1, epoch=OTHER_EPOCH)
    replays.sweep()
    time.advance(30 * SECOND_MS)
    replays.sweep()
    [replay] = asked()

    answer(scene, replay, code="replay_gone")
    replays.sweep()

    assert (asked()[0].state, asked()[0].error_code) == (ReplayState.REFUSED, "replay_gone")
    assert missing() == [(1, 2, "lost")]
    shown = streams_of(scene.connection.id, Direction.INCOMING)
    assert (shown["streamEpoch"], shown["contiguous"], shown["missing"]) == (OTHER_EPOCH, 1, [])
    [earlier] = shown["earlier"]
    assert (earlier["streamEpoch"], earlier["missing"][0]["reason"]) == (EPOCH, "lost")


def test_a_suspended_connection_is_not_asked_and_loses_nothing(scene, take, time):
    take_some(scene, take, 3)
    replays.sweep()
    with transaction():
        lifecycle.suspend(lifecycle.lock(scene.connection.id), by_me=True, reason=None)
    time.advance(120 * MINUTE_MS)

    replays.sweep()

    assert (asked(), missing()) == ([], [(1, 2, "missing")])


def test_what_a_replay_brings_is_counted_and_fills_the_hole(scene, take, time):
    known = scene.peer.event()
    take({1: known, 4: scene.peer.event()})
    replays.sweep()
    time.advance(30 * SECOND_MS)
    replays.sweep()
    [replay] = asked()

    ack = take(
        {1: known, 2: scene.peer.event(), 3: scene.peer.event("other.type")}, replay_id=replay.replay_id
    )

    assert outcomes(ack) == ["duplicate", "stored", "not_subscribed"]
    [replay] = asked()
    assert (replay.count, replay.stored, replay.refused) == (2, 1, 1)
    assert replay.state is ReplayState.RUNNING
    assert (stream().contiguous, stream().due_at, ack["contiguous"]) == (4, None, 4)


def test_a_replay_far_ahead_of_what_came_is_taken_if_we_asked_for_it(scene, take, monkeypatch):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    take_some(scene, take, 1)
    with transaction():
        lifecycle.lock(scene.connection.id)
        streams.head_told(scene.connection.id, EPOCH, 50_000, 1)
    wanted = replays.Wanted(from_sequence=40_000)
    replay = replays.request(scene.connection.id, wanted, requested_by="somebody")

    ack = take_some(scene, take, 40_000, replay_id=replay.replay_id)

    assert outcomes(ack) == ["stored"]


def test_a_replay_that_is_served_in_parts_is_asked_for_again_from_where_it_ended(scene, monkeypatch):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    wanted = replays.Wanted(from_sequence=1, to_sequence=900, since=5, event_types=["task.*"])
    replay = replays.request(scene.connection.id, wanted, requested_by="somebody")

    complete(scene, replay, count=100, more_available=True, next_sequence=101)

    assert [row.state for row in asked()] == [ReplayState.COMPLETE, ReplayState.REQUESTED]
    first, second = requests()
    assert second == first | {"replayId": asked()[1].replay_id, "fromSequence": 101}


def test_a_replay_of_which_nothing_comes_for_an_hour_has_failed(scene, take, time):
    take_some(scene, take, 2)
    replays.sweep()
    time.advance(30 * SECOND_MS)
    replays.sweep()
    answer(scene, asked()[0])
    time.advance(60 * MINUTE_MS)

    replays.sweep()

    first, second = asked()
    assert (first.state, first.error_code) == (ReplayState.FAILED, "no_answer")
    assert second.state is ReplayState.REQUESTED


def test_the_end_of_a_connection_ends_its_replays(scene, monkeypatch):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    replays.request(scene.connection.id, replays.Wanted(), requested_by="somebody")

    with transaction():
        lifecycle.end(lifecycle.lock(scene.connection.id), ConnectionStatus.DISCONNECTED, None)

    [replay] = asked()
    assert (replay.state, replay.error_code) == (ReplayState.FAILED, "connection_closed")


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        (replays.Wanted(from_sequence=5, to_sequence=4), "/toSequence"),
        (replays.Wanted(since=5, until=4), "/until"),
        (replays.Wanted(event_types=["a.*", "*"]), "/eventTypes/1"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_not_sent(scene, wanted, pointer):
    with pytest.raises(InvalidRequest) as refused:
        replays.request(scene.connection.id, wanted, requested_by="somebody")

    assert refused.value.errors[0].pointer == pointer
    assert requests() == []


def test_only_an_active_connection_can_be_asked(scene):
    with transaction():
        lifecycle.suspend(lifecycle.lock(scene.connection.id), by_me=True, reason=None)

    with pytest.raises(InvalidState):
        replays.request(scene.connection.id, replays.Wanted(), requested_by="somebody")


def test_the_answer_to_a_request_that_was_refused_says_why(scene, monkeypatch):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    replay = replays.request(scene.connection.id, replays.Wanted(), requested_by="somebody")

    answer(scene, replay, code="replay_gone")

    [replay] = asked()
    assert (replay.state, replay.error_code) == (ReplayState.REFUSED, "replay_gone")
    assert replay.finished_at is not None


def test_a_second_replay_waits_for_the_end_of_the_first(scene, monkeypatch, time):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    first = replays.request(scene.connection.id, replays.Wanted(from_sequence=1), requested_by="somebody")
    second = replays.request(scene.connection.id, replays.Wanted(from_sequence=2), requested_by="somebody")
    replays.sweep()
    state = second.state
    said_before = [said["fromSequence"] for said in requests()]

    complete(scene, first)
    replays.sweep()

    assert (state, said_before) == (ReplayState.WAITING, [1])
    assert [said["fromSequence"] for said in requests()] == [1, 2]
    assert asked()[1].state is ReplayState.REQUESTED


def test_a_peer_that_serves_another_replay_is_asked_again_and_nothing_else_waits(scene, monkeypatch, time):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)

    class Peer:
        def post(self, url: str, body: bytes, headers: Any, **_options: Any) -> Any:
            seen.append(orjson.loads(body)["type"])
            return problem_answer(429, "rate_limited", **{"retry-after": "3600"})

    seen: list[str] = []
    monkeypatch.setattr(sending.outside, "client", lambda: Peer())
    replays.request(scene.connection.id, replays.Wanted(), requested_by="somebody")
    with transaction():
        lifecycle.send_verification(lifecycle.lock(scene.connection.id))

    sending.send_controls(scene.connection.id)
    waiting = asked()[0].state
    time.advance(30 * SECOND_MS)
    replays.sweep()

    assert seen == ["replay.request", "verification"]
    assert (waiting, asked()[0].state) == (ReplayState.WAITING, ReplayState.REQUESTED)
    assert len({said["replayId"] for said in requests()}) == 1
    assert len(requests()) == 2


def test_the_request_is_of_the_type_that_the_protocol_names(scene, monkeypatch):
    monkeypatch.setattr(controls, "WAIT_S", 0.0)

    replays.request(scene.connection.id, replays.Wanted(since=1), requested_by="somebody")

    [said] = db.session.scalars(sa.select(ControlOut.type))
    assert said == ControlType.REPLAY_REQUEST


def test_a_stream_that_cannot_be_looked_at_keeps_no_other_one_waiting(scene, take, time, monkeypatch):
    take_some(scene, take, 1, 3)
    with transaction():
        other = connect(scene.workspace, RemotePeer())
        begun = {"head_sequence": 2, "hole_since": 0, "created_at": clock.now_ms()}
        db.session.add(
            Stream(connection_id=other.id, direction=Direction.INCOMING, epoch=OTHER_EPOCH, due_at=1, **begun)
        )
        db.session.flush()
        db.session.execute(
            sa.update(Stream).where(Stream.connection_id == scene.connection.id).values(due_at=0)
        )
    plan, planned = holes.plan, []

    def fail_first(*given, **named):
        planned.append(given)
        if len(planned) == 1:
            raise RateLimited("too many holes in the stream", retry_after_s=60)
        return plan(*given, **named)

    monkeypatch.setattr(holes, "plan", fail_first)

    replays.sweep()

    due = dict(db.session.execute(sa.select(Stream.connection_id, Stream.due_at)).all())
    assert len(planned) == 2
    assert due[scene.connection.id] == clock.now_ms() + replays.LOOK_LATER_MS
