"""Publishing: what is refused, what is stored, and that it is one whole."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import orjson
import pytest
import redis
import sqlalchemy as sa

from app import queue
from app.database import db, is_sqlite, transaction
from app.federation.identity import list_keys
from app.models import Connection, Delivery, Event, EventStatus
from app.outbox import dispatch, lease
from app.outbox.publish import NewEvent, Published, meeting_place, publish_event, publish_events
from app.protocol.errors import InvalidRequest, TooLarge
from app.protocol.keys import load_public_key
from app.protocol.signing import (
    Kind,
    digest,
    signing_input,
    verify,
    verify_body,
    verify_in_tree,
    with_signature,
)
from app.protocol.states import ConnectionStatus, DeliveryState
from app.protocol.tree import parse_proof
from tests.engines import until
from tests.exchange import connect, subscribe


def events():
    db.session.rollback()
    return list(db.session.scalars(sa.select(Event).order_by(Event.id)))


def test_an_event_is_signed_once_and_stored_as_it_was_signed(scene):
    published = publish_event(
        scene.workspace.id, "task.created", {"b": 1.0, "a": "ü"}, "s", "urn:x", "00-trace"
    )

    [row] = events()
    message = orjson.loads(with_signature(row.body, row.signature))
    verify(Kind.EVENT, message, load_public_key(list_keys()[0].public_key_pem))
    assert row.digest == digest(signing_input(Kind.EVENT, message))
    assert '"payload":{"a":"ü","b":1}' in row.body
    assert (message["subject"], message["dataSchema"], message["traceparent"]) == ("s", "urn:x", "00-trace")
    assert published == (row.message_id, "task.created", row.timestamp, 1)


def test_a_delivery_waits_for_each_subscribed_connection_once(scene, rows):
    subscribe(scene.connection, "**")
    subscribe(scene.connection, "task.created")
    other = connect(scene.workspace, scene.peer)
    subscribe(other, "task.*")

    published = publish_events(
        scene.workspace.id, [NewEvent("task.created", {}), NewEvent("task.a.b", {}), NewEvent("note", {})]
    )

    assert [event.deliveries for event in published] == [2, 1, 1]
    first, second, third = [row.id for row in events()]
    by_connection = {
        connection_id: sorted(row.event_id for row in rows() if row.connection_id == connection_id)
        for connection_id in (scene.connection.id, other.id)
    }
    assert by_connection == {scene.connection.id: [first, second, third], other.id: [first]}


def test_an_event_nobody_asked_for_is_kept_and_says_so(scene, rows):
    published = publish_event(scene.workspace.id, "note.made", {})

    assert published.deliveries == 0
    assert [row.status for row in events()] == [EventStatus.UNSUBSCRIBED]
    assert rows() == []


def test_a_suspended_connection_gets_its_delivery_later_and_an_ended_one_none(scene, rows):
    other = connect(scene.workspace, scene.peer, status=ConnectionStatus.DISCONNECTED)
    subscribe(other)
    with transaction():
        db.session.execute(
            sa.update(Connection)
            .where(Connection.id == scene.connection.id)
            .values(status=ConnectionStatus.SUSPENDED)
        )

    published = publish_event(scene.workspace.id, "task.created", {})

    assert published.deliveries == 1
    assert [row.connection_id for row in rows()] == [scene.connection.id]


DEEP: dict = {}
for _ in range(40):
    DEEP = {"d": DEEP}


@pytest.mark.parametrize(
    ("event", "pointer"),
    [
        (NewEvent("Task", {}), "/eventType"),
        (NewEvent("task.*", {}), "/eventType"),
        (NewEvent("", {}), "/eventType"),
        (NewEvent(None, {}), "/eventType"),
        (NewEvent("task", []), "/payload"),
        (NewEvent("task", None), "/payload"),
        (NewEvent("task", DEEP), "/payload"),
        (NewEvent("task", {"n": list(range(10_001))}), "/payload"),
        (NewEvent("task", {"n": 2**53}), "/payload"),
        (NewEvent("task", {"n": 1e20}), "/payload"),
        (NewEvent("task", {"n": float("nan")}), "/payload"),
        (NewEvent("task", {"s": "\x00"}), "/payload"),
        (NewEvent("task", {"s": "\ud800"}), "/payload"),
        (NewEvent("task", {"s": object()}), "/payload"),
        (NewEvent("task", {1: 2}), "/payload"),
        (NewEvent("task", {}, subject=""), "/subject"),
        (NewEvent("task", {}, subject="x" * 1025), "/subject"),
        (NewEvent("task", {}, subject=7), "/subject"),
        (NewEvent("task", {}, data_schema="x" * 1025), "/dataSchema"),
        (NewEvent("task", {}, traceparent="x" * 56), "/traceparent"),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, NewEvent) else value,
)
def test_what_no_receiver_would_take_is_refused_at_its_pointer(scene, event, pointer):
    with pytest.raises(InvalidRequest) as caught:
        publish_events(scene.workspace.id, [NewEvent("task", {}), event], pointer_prefix="/events")

    assert [error.pointer for error in caught.value.errors] == [f"/events/1{pointer}"]
    assert events() == []


def test_all_bad_events_of_a_batch_are_named_and_none_is_stored(scene):
    with pytest.raises(InvalidRequest) as caught:
        publish_events(scene.workspace.id, [NewEvent("A", {}), NewEvent("b", {}), NewEvent("c", [])])

    assert [error.pointer for error in caught.value.errors] == ["/events/0/eventType", "/events/2/payload"]
    assert events() == []


def test_the_largest_event_passes_and_a_byte_more_does_not(scene):
    published = publish_event(scene.workspace.id, "task", {"t": ""})
    empty = len(with_signature(events()[0].body, events()[0].signature))
    fits = 65_536 - empty

    publish_event(scene.workspace.id, "task", {"t": "x" * fits})
    with pytest.raises(TooLarge):
        publish_event(scene.workspace.id, "task", {"t": "x" * (fits + 1)})

    assert len(with_signature(events()[1].body, events()[1].signature)) == 65_536
    assert published.event_type == "task"


@contextmanager
def nobody_writes_events() -> Iterator[None]:
    """A transaction that keeps all others from storing events: SQLite has one writer anyway."""
    with transaction():
        if not is_sqlite():
            db.session.execute(sa.text("LOCK TABLE event IN EXCLUSIVE MODE"))
        yield


def test_events_that_are_published_together_share_one_signature(scene):
    publish_events(scene.workspace.id, [NewEvent("task.created", {"n": n}) for n in range(5)])

    rows = events()
    pem = list_keys()[0].public_key_pem
    assert len({row.signature for row in rows}) == 1
    assert [parse_proof(row.proof).index for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        verify_in_tree(row.body.encode(), row.signature, parse_proof(row.proof), pem)


def test_a_large_event_is_signed_by_itself_among_others(scene):
    large = NewEvent("task.created", {"text": "x" * 20_000})

    publish_events(scene.workspace.id, [NewEvent("task.created", {}), large, NewEvent("task.created", {})])

    first, second, third = events()
    assert (first.signature, bool(first.proof)) == (third.signature, True)
    assert second.proof is None
    verify_body(
        Kind.EVENT, second.body.encode(), second.signature, load_public_key(list_keys()[0].public_key_pem)
    )


def test_single_events_that_come_at_the_same_time_are_signed_and_committed_as_one(app, scene, rows):
    pem = list_keys()[0].public_key_pem
    db.session.rollback()

    def publish_one(n: int) -> Published:
        with app.app_context():
            return publish_event(scene.workspace.id, "task.created", {"n": n})

    with ThreadPoolExecutor(8) as pool:
        with nobody_writes_events():
            calls = [pool.submit(publish_one, n) for n in range(8)]
            until(lambda: len(meeting_place()) == 7, "seven calls that wait for the first")
        published = [call.result(10) for call in calls]

    stored = {row.message_id: row for row in events()}
    assert {one.message_id for one in published} == set(stored)
    assert [orjson.loads(stored[one.message_id].body)["payload"]["n"] for one in published] == list(range(8))
    assert len({row.signature for row in stored.values()}) == 2
    assert len(rows()) == 8
    for row in stored.values():
        if row.proof is None:
            verify_body(Kind.EVENT, row.body.encode(), row.signature, load_public_key(pem))
        else:
            verify_in_tree(row.body.encode(), row.signature, parse_proof(row.proof), pem)


@pytest.mark.parametrize("number", [0, 1001])
def test_a_batch_has_one_to_a_thousand_events(scene, number):
    with pytest.raises(InvalidRequest):
        publish_events(scene.workspace.id, [NewEvent("task", {})] * number)


def test_a_large_batch_keeps_its_order(scene):
    published = publish_events(scene.workspace.id, [NewEvent("task.n", {"n": n}) for n in range(1000)])

    assert [row.message_id for row in events()] == [event.message_id for event in published]


def test_the_callers_transaction_decides(scene):
    def fail():
        with transaction():
            publish_event(scene.workspace.id, "task.created", {})
            raise LookupError("the caller failed")

    with pytest.raises(LookupError):
        fail()

    assert events() == []
    assert queue.redis_client().keys("tidings:wake:*") == []


def test_the_drain_is_woken_after_the_commit(scene):
    with transaction():
        publish_event(scene.workspace.id, "task.created", {})
        assert queue.queue(queue.DELIVERIES).jobs == []

    [job] = queue.queue(queue.DELIVERIES).jobs
    assert (job.func_name, job.args) == ("app.jobs.delivery.drain", [scene.connection.id])


def test_a_connection_with_failures_is_woken_in_a_queue_of_its_own(scene):
    with transaction():
        db.session.execute(sa.update(Connection).values(failures=1))

    publish_event(scene.workspace.id, "task.created", {})

    assert queue.queue(queue.DELIVERIES).jobs == []
    assert len(queue.queue(queue.DELIVERIES_FAILING).jobs) == 1


def test_a_drain_that_runs_is_not_woken(scene):
    with transaction():
        lease.acquire(scene.connection.id, "elsewhere:1:1:x")

    publish_event(scene.workspace.id, "task.created", {})

    assert queue.queue(queue.DELIVERIES).jobs == []


def test_events_are_stored_when_redis_is_away(scene, rows, monkeypatch):
    def fail(*_args, **_options):
        raise redis.ConnectionError("away")

    monkeypatch.setattr(queue.redis_client(), "execute_command", fail)

    published = publish_event(scene.workspace.id, "task.created", {})

    assert published.deliveries == 1
    assert [row.state for row in rows()] == [DeliveryState.PENDING]
    assert db.session.scalar(sa.select(sa.func.count(Delivery.id))) == 1


def test_what_is_committed_is_told_although_nobody_can_be_woken(scene, rows, monkeypatch):
    def fail(*_args, **_options):
        raise sa.exc.OperationalError("SELECT", {}, Exception("away"))

    monkeypatch.setattr(dispatch, "find_idle", fail)

    published = publish_event(scene.workspace.id, "task.created", {})

    assert published.deliveries == 1
    assert [row.state for row in rows()] == [DeliveryState.PENDING]
