"""Figures of a period: counted while there is little, estimated from a sample when there is much."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from app import clock
from app.clock import now_ms
from app.database import db, transaction
from app.models import Attempt, Connection, Delivery, Direction, Event, Stream, StreamGap
from app.protocol.states import DeliveryState
from app.reports import traffic
from app.reports.strips import DAY_MS, DAYS, strips
from app.reports.traffic import PERIODS, Mark
from tests.exchange import RemotePeer, Scene, connect, make_scene
from tests.reports.rows import add_delivery, add_event

HOUR = PERIODS["1h"]


@pytest.fixture
def scene(app: object) -> Iterator[Scene]:
    """A workspace with a connection."""
    yield make_scene()
    clock.set_offset_ms(0)


def _add_attempt(connection: Connection, at_ms: int, error_code: str | None = None) -> None:
    with transaction():
        db.session.add(
            Attempt(
                connection_id=connection.id,
                batch_id="b",
                size=1,
                started_at=at_ms,
                duration_ms=5,
                status_code=200,
                error_code=error_code,
            )
        )


def _add_many(scene: Scene, number: int, over_ms: int) -> None:
    """Events with a delivery each, evenly over the time up to now; every tenth is dead."""
    begin = now_ms() - over_ms
    pattern = add_event(scene.workspace.id)
    columns = {c.name: getattr(pattern, c.name) for c in Event.__table__.columns if c.name != "id"}
    with transaction():
        db.session.execute(sa.delete(Event))
        times = [begin + at * over_ms // number for at in range(number)]
        db.session.execute(
            sa.insert(Event),
            [columns | {"message_id": f"m-{at}", "created_at": t} for at, t in enumerate(times)],
        )
        events = db.session.execute(sa.select(Event.id, Event.created_at).order_by(Event.id)).all()
        db.session.execute(
            sa.insert(Delivery),
            [
                {
                    "workspace_id": scene.workspace.id,
                    "event_id": event_id,
                    "connection_id": scene.connection.id,
                    "event_type": "task.created",
                    "state": DeliveryState.DEAD if event_id % 10 == 0 else DeliveryState.DELIVERED,
                    "next_attempt_at": 0,
                    "created_at": at,
                    "delivered_at": None if event_id % 10 == 0 else at + event_id % 100,
                }
                for event_id, at in events
            ],
        )


def test_little_is_counted_one_by_one(scene: Scene) -> None:
    for state in (
        DeliveryState.DELIVERED,
        DeliveryState.DELIVERED,
        DeliveryState.PENDING,
        DeliveryState.DEAD,
    ):
        add_delivery(add_event(scene.workspace.id, event_type="task.done"), scene.connection, state=state)
    add_event(scene.workspace.id, scene.connection)

    seen = traffic.traffic(scene.workspace.id, HOUR)

    assert not seen.is_estimated
    assert (sum(seen.published), sum(seen.received), seen.senders) == (4, 1, 1)
    assert [seen.total(mark) for mark in Mark] == [2, 1, 1]
    assert seen.delivered_share() == pytest.approx(2 / 3)
    assert seen.types == [("task.done", 4), ("task.created", 1)]


def test_much_is_estimated_from_a_sample_and_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "COUNTED", 200)
    monkeypatch.setattr(traffic, "SAMPLED", 150)
    _add_many(scene, 3_000, HOUR.step_ms * (HOUR.buckets - 1))

    seen = traffic.traffic(scene.workspace.id, HOUR)

    assert seen.is_estimated
    assert sum(seen.published) == pytest.approx(3_000, rel=0.1)
    assert seen.total(Mark.DELIVERED) + seen.total(Mark.DEAD) == pytest.approx(3_000, rel=0.1)
    assert seen.types[0][0] == "task.created"


@pytest.mark.parametrize("apart", [500, 10])
def test_what_comes_every_tenth_time_is_neither_missed_nor_made_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, apart: int
) -> None:
    monkeypatch.setattr(traffic, "COUNTED", 200)
    monkeypatch.setattr(traffic, "SAMPLED", 300)
    monkeypatch.setattr(traffic, "COUNTED_APART", apart)
    _add_many(scene, 3_000, HOUR.step_ms * (HOUR.buckets - 1))

    seen = traffic.traffic(scene.workspace.id, HOUR)

    assert seen.total(Mark.DEAD) == (300 if apart == 500 else pytest.approx(300, rel=0.5))
    assert seen.total(Mark.DELIVERED) == pytest.approx(2_700, rel=0.1)


def test_what_is_older_than_the_period_or_of_another_workspace_does_not_count(scene: Scene) -> None:
    add_event(scene.workspace.id, created_at=now_ms() - 2 * 3_600_000)
    add_event(make_scene().workspace.id)

    seen = traffic.traffic(scene.workspace.id, HOUR)

    assert (sum(seen.published), seen.types) == (0, [])


def test_the_time_to_ack_is_that_of_the_slowest_of_twenty(scene: Scene) -> None:
    at = now_ms()
    for wait in range(1, 21):
        add_delivery(
            add_event(scene.workspace.id),
            scene.connection,
            state=DeliveryState.DELIVERED,
            created_at=at,
            delivered_at=at + wait,
        )

    seen = traffic.traffic(scene.workspace.id, HOUR)

    assert (seen.wait_ms(0.5), seen.wait_ms(0.95)) == (11, 20)


def test_a_period_without_anything_has_no_share_and_no_time(scene: Scene) -> None:
    seen = traffic.traffic(scene.workspace.id, HOUR)

    assert (seen.delivered_share(), seen.wait_ms(0.95), len(seen.published)) == (None, None, HOUR.buckets)


def test_a_strip_has_the_share_of_failed_requests_of_each_day(scene: Scene) -> None:
    today = now_ms()
    _add_attempt(scene.connection, today - 2 * DAY_MS)
    _add_attempt(scene.connection, today - 1 * DAY_MS, "timeout")
    _add_attempt(scene.connection, today - 1 * DAY_MS)
    _add_attempt(scene.connection, today, "timeout")

    strip = strips([scene.connection.id])[scene.connection.id].outgoing

    assert strip == [None] * (DAYS - 3) + [0.0, 0.5, 1.0]


def test_a_strip_that_was_seen_goes_on_with_what_came_today(scene: Scene) -> None:
    _add_attempt(scene.connection, now_ms() - DAY_MS, "timeout")
    before = strips([scene.connection.id])[scene.connection.id].outgoing
    _add_attempt(scene.connection, now_ms())
    add_event(scene.workspace.id, scene.connection)

    after = strips([scene.connection.id])[scene.connection.id]

    assert (before[-2:], after.outgoing[-2:], after.incoming[-1]) == ([1.0, None], [1.0, 0.0], 0.0)


def test_a_quiet_connection_beside_a_busy_one_keeps_its_day(scene: Scene) -> None:
    other = connect(scene.workspace, RemotePeer())
    for _ in range(40):
        _add_attempt(other, now_ms())
    _add_attempt(scene.connection, now_ms(), "timeout")
    for _ in range(40):
        _add_attempt(other, now_ms())

    found = strips([scene.connection.id, other.id])

    assert (found[scene.connection.id].outgoing[-1], found[other.id].outgoing[-1]) == (1.0, 0.0)


def test_what_came_in_shows_on_its_day_and_what_was_lost_too(scene: Scene) -> None:
    add_event(scene.workspace.id, scene.connection, created_at=now_ms() - DAY_MS)
    add_event(scene.workspace.id, scene.connection)
    with transaction():
        stream = Stream(
            connection_id=scene.connection.id, direction=Direction.INCOMING, epoch="e", created_at=now_ms()
        )
        db.session.add(stream)
        db.session.flush()
        db.session.add(
            StreamGap(stream_id=stream.id, from_sequence=1, to_sequence=2, reason="lost", created_at=now_ms())
        )

    strip = strips([scene.connection.id])[scene.connection.id].incoming

    assert strip[-2:] == [0.0, 0.25]
    assert strip[:-2] == [None] * (DAYS - 2)
