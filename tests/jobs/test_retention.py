"""What is old goes, in small pieces; what is open, and what must be known again, stays."""

import uuid

import pytest
import sqlalchemy as sa

from app import clock, queue
from app.access import links, sessions
from app.database import db, transaction
from app.inbox import retention as incoming
from app.inbox import traces
from app.jobs import retention
from app.models import (
    Attempt,
    AttemptEntry,
    ControlOut,
    ControlState,
    Delivery,
    Direction,
    Event,
    EventStatus,
    EventTrace,
    IdempotencyKey,
    Operation,
    OperationKind,
    Role,
    SignIn,
    SignInLink,
    Stream,
    StreamGap,
    Subscription,
)
from app.outbox import operations
from app.outbox import retention as outgoing
from app.outbox.dead_letters import DeliveryFilter
from app.outbox.retention import Place
from app.protocol.canonical import loads
from app.protocol.messages import parse_event
from app.protocol.states import DeliveryState, SubscriptionStatus
from tests.exchange import connect, make_scene, subscribe
from tests.reports.rows import add_delivery, add_event
from tests.web.console.conftest import make_user

DAY_MS = retention.DAY_MS
OLD_DAYS = 31


@pytest.fixture
def scene(app):
    """A workspace with an active connection to a peer; RETENTION_DAYS is 30."""
    return make_scene()


def ago(days):
    return clock.now_ms() - round(days * DAY_MS)


def add_attempt(scene, days):
    with transaction():
        attempt = Attempt(
            connection_id=scene.connection.id,
            batch_id=str(uuid.uuid4()),
            size=1,
            started_at=ago(days),
            duration_ms=1,
        )
        db.session.add(attempt)
        db.session.flush()
    return attempt


def add_own(scene, days, state, status, ended=None, attempt=None):
    """An event of ours, so many days old, with one delivery that ended so many days ago."""
    event = add_event(scene.workspace.id, created_at=ago(days), status=status)
    at = "delivered_at" if state is DeliveryState.DELIVERED else "ended_at"
    times = {} if ended is None else {at: ago(ended)}
    add_delivery(event, scene.connection, state=state, attempt_id=attempt.id if attempt else None, **times)
    return event.id


def purge():
    db.session.rollback()
    return retention.run(60, sleep=lambda _s: None)


def left(model):
    db.session.rollback()
    return db.session.scalars(sa.select(model).execution_options(populate_existing=True)).all()


def test_an_event_goes_with_all_that_belongs_to_it(scene):
    attempt = add_attempt(scene, OLD_DAYS)
    old = add_own(scene, OLD_DAYS, DeliveryState.DELIVERED, EventStatus.DELIVERED, OLD_DAYS, attempt)
    [delivery] = left(Delivery)
    with transaction():
        db.session.add(AttemptEntry(delivery_id=delivery.id, attempt_id=attempt.id, number=1, trigger="auto"))
    young = add_own(scene, 29, DeliveryState.DELIVERED, EventStatus.DELIVERED, 29)

    finished = purge()

    assert finished
    assert [row.id for row in left(Event)] == [young] != [old]
    assert [row.event_id for row in left(Delivery)] == [young]
    assert (left(AttemptEntry), left(Attempt)) == ([], [])


@pytest.mark.parametrize("state", [DeliveryState.PENDING, DeliveryState.SENDING])
def test_what_is_open_stays_however_old_with_the_receipts_of_others(scene, state):
    attempt = add_attempt(scene, 400)
    add_own(scene, 400, DeliveryState.DELIVERED, EventStatus.PENDING, 400, attempt)
    add_delivery(left(Event)[0], connect(scene.workspace, scene.peer), state=state)

    purge()

    assert (len(left(Event)), len(left(Delivery)), len(left(Attempt))) == (1, 2, 1)


def test_an_open_delivery_is_not_deleted_if_its_event_says_otherwise(scene):
    add_own(scene, 400, DeliveryState.PENDING, EventStatus.DEAD)

    purge()

    assert (len(left(Event)), len(left(Delivery))) == (1, 1)


def test_a_dead_letter_is_kept_as_long_again_after_it_died(scene):
    add_own(scene, 37, DeliveryState.DEAD, EventStatus.DEAD, 29)
    gone = add_own(scene, 38, DeliveryState.DEAD, EventStatus.DEAD, 31)

    purge()

    assert gone not in [row.id for row in left(Event)]
    assert len(left(Delivery)) == 1


def test_a_walk_goes_on_beyond_what_it_may_not_delete(scene):
    for _ in range(3):
        add_own(scene, 40, DeliveryState.DEAD, EventStatus.DEAD, 1)
    add_own(scene, 39, DeliveryState.DEAD, EventStatus.DEAD, 31)
    place, deleted = Place(), []

    while place is not None:
        piece = outgoing.purge_events(scene.workspace.id, ago(30), place, 2)
        deleted.append(piece.deleted)
        place = piece.next

    assert sum(deleted) == 1
    assert len(left(Event)) == 3


def test_what_came_leaves_a_trace(scene):
    event = add_event(scene.workspace.id, scene.connection, created_at=ago(OLD_DAYS), digest="d")
    message_id = event.message_id

    purge()

    [trace] = left(EventTrace)
    assert left(Event) == []
    assert (trace.connection_id, trace.message_id, trace.digest, trace.key_id) == (
        scene.connection.id,
        message_id,
        "d",
        "k-1",
    )


def test_traces_go_long_after_their_events(scene):
    add_event(scene.workspace.id, scene.connection, created_at=ago(OLD_DAYS))
    purge()
    clock.set_offset_ms(399 * DAY_MS)
    purge()
    before = len(left(EventTrace))
    clock.set_offset_ms(401 * DAY_MS)

    purge()

    assert (before, left(EventTrace)) == (1, [])


def test_small_tables_lose_what_ended_long_ago(scene):
    now = clock.now_ms()
    with transaction():
        for hours, key in ((25, "old"), (23, "young")):
            db.session.add(
                IdempotencyKey(
                    workspace_id=scene.workspace.id,
                    key=key,
                    fingerprint="f",
                    status_code=202,
                    answer="{}",
                    created_at=now - hours * 3_600_000,
                )
            )
        for number, state in enumerate((ControlState.ANSWERED, ControlState.WAITING), start=1):
            db.session.add(
                ControlOut(
                    connection_id=scene.connection.id,
                    message_id=str(uuid.uuid4()),
                    type="heartbeat",
                    control_sequence=number,
                    body="{}",
                    signature="s",
                    key_id="k",
                    state=state,
                    next_attempt_at=0,
                    created_at=ago(OLD_DAYS),
                )
            )
    operations.start(scene.workspace.id, OperationKind.RETRY, DeliveryFilter())
    with transaction():
        db.session.execute(sa.update(Operation).values(finished_at=ago(OLD_DAYS)))

    purge()

    assert [row.key for row in left(IdempotencyKey)] == ["young"]
    assert [row.state for row in left(ControlOut)] == [ControlState.WAITING]
    assert left(Operation) == []


def test_a_run_that_has_no_time_left_says_that_there_is_more(scene):
    for _ in range(2):
        add_own(scene, OLD_DAYS, DeliveryState.DELIVERED, EventStatus.DELIVERED, OLD_DAYS)

    assert not retention.run(0, sleep=lambda _s: None)
    assert purge()
    assert left(Event) == []


def test_the_job_wakes_the_next_one_while_there_is_more(app, scene, monkeypatch):
    monkeypatch.setattr(retention, "WORK_S", 0)

    retention.start()
    retention.start()
    waiting = queue.length(queue.MAINTENANCE)
    retention.purge()

    assert waiting == 1
    assert queue.length(queue.MAINTENANCE) == 2


def test_a_slow_piece_is_followed_by_a_smaller_one():
    slept = []
    pace = retention.Pace(60, slept.append)

    pace.take(lambda _most: None)
    quick = pace.size
    real, retention.LONG_S = retention.LONG_S, -1.0
    try:
        pace.take(lambda _most: None)
    finally:
        retention.LONG_S = real

    assert (quick, pace.size, len(slept)) == (400, 200, 2)


def test_a_trace_knows_its_event_under_another_key(scene):
    event = parse_event(scene.peer.event())
    trace = traces.Trace(event.message_id, event.digest, event.key_id, None, None)
    other = {**loads(event.body), "keyId": "k-another", "signature": "AAAA"}
    changed = {**other, "payload": {"n": 2}}

    assert trace.is_of(event)
    assert trace.is_of(parse_event(other))
    assert not trace.is_of(parse_event(changed))


def add_epoch(scene, number):
    """An epoch that the peer spoke of."""
    with transaction():
        stream = Stream(
            connection_id=scene.connection.id,
            direction=Direction.INCOMING,
            epoch=str(uuid.UUID(int=number)),
            head_sequence=5,
            created_at=clock.now_ms(),
        )
        db.session.add(stream)
    return stream.id


def add_gaps(stream_id, *numbers, days=0):
    with transaction():
        for number in numbers:
            db.session.add(
                StreamGap(
                    stream_id=stream_id,
                    from_sequence=number,
                    to_sequence=number,
                    reason="expired",
                    created_at=ago(days),
                )
            )


def test_of_the_epochs_in_which_nothing_came_the_newest_stay(scene, monkeypatch):
    monkeypatch.setattr(incoming, "EPOCHS_KEPT", 3)
    epochs = [add_epoch(scene, number) for number in range(8)]
    add_gaps(epochs[0], 1, 3)
    add_event(scene.workspace.id, connection=scene.connection, stream_id=epochs[2], sequence=1)

    purge()

    assert [stream.id for stream in left(Stream)] == [epochs[2], *epochs[-3:]]
    assert left(StreamGap) == []


def test_gaps_go_when_they_are_old_and_when_they_are_too_many(scene, monkeypatch):
    monkeypatch.setattr(incoming, "GAPS_KEPT", 3)
    crowded, other = add_epoch(scene, 1), add_epoch(scene, 2)
    add_gaps(crowded, *range(1, 20, 2))
    add_gaps(other, 1, days=399)
    add_gaps(other, 3, days=401)

    purge()

    assert [(gap.stream_id, gap.from_sequence) for gap in left(StreamGap)] == [
        *((crowded, number) for number in (15, 17, 19)),
        (other, 1),
    ]


def test_sign_ins_and_links_go_when_none_of_them_can_last_any_longer(scene):
    user = make_user(Role.VIEWER, scene.workspace)
    with clock.frozen_at(ago(31)):
        for agent in ("ended", "idle"):
            sessions.begin(user.id, None, agent)
        sessions.end(left(SignIn)[0].id)
        links.create(user.id)
    with clock.frozen_at(ago(29)):
        sessions.begin(user.id, None, "young")
        links.create(user.id)

    purge()

    assert [row.agent for row in left(SignIn)] == ["young"]
    assert len(left(SignInLink)) == 1


def test_subscriptions_that_ended_long_ago_go(scene):
    long_ago = {"created_at": ago(500), "updated_at": ago(401)}
    subscribe(scene.connection, "over.**", status=SubscriptionStatus.CANCELLED, **long_ago)
    kept = [
        subscribe(scene.connection, "lives.**", **long_ago),
        subscribe(scene.connection, "ended.**", status=SubscriptionStatus.CANCELLED, created_at=ago(500)),
    ]

    purge()

    assert [row.id for row in left(Subscription)] == [row.id for row in kept]
