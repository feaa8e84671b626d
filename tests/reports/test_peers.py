"""Connections as a table of peers, the story of one, and who has our newest key: on both engines."""

import pytest
import sqlalchemy as sa

from app.clock import now_ms
from app.config import settings
from app.database import db, transaction
from app.federation import controls, lifecycle, rotation, trust
from app.federation.identity import ensure_identity
from app.models import Connection, Direction, Stream
from app.protocol.control import ControlType, Verification
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reports import handshake, our_keys, peers
from tests.exchange import RemotePeer, Scene, connect, make_scene, subscribe
from tests.reports.rows import add_delivery, add_event


@pytest.fixture
def scene(app: object) -> Scene:
    """A workspace with one connection."""
    ensure_identity(settings())
    return make_scene()


def _states(scene: Scene, show: str = "all") -> list[str]:
    return [row.shown.state for row in peers.list_peers(scene.workspace.id, show).data]


def _set(connection: Connection, **columns: object) -> Connection:
    with transaction():
        row = db.session.get_one(Connection, connection.id)
        for name, value in columns.items():
            setattr(row, name, value)
    return row


def test_peers_come_in_the_order_in_which_they_need_somebody(scene: Scene) -> None:
    connect(scene.workspace, RemotePeer(), status=ConnectionStatus.DISCONNECTED)
    connect(scene.workspace, RemotePeer(), hold_code="too_large")
    connect(scene.workspace, RemotePeer(), paused_incoming=True)
    connect(scene.workspace, RemotePeer(), status=ConnectionStatus.PENDING)
    connect(scene.workspace, RemotePeer(), status=ConnectionStatus.PENDING, checked_at=None)

    assert _states(scene) == ["pending", "failed", "paused", "active", "disconnected"]
    assert _states(scene, "live") == ["pending", "failed", "paused", "active"]
    assert peers.tab_counts(scene.workspace.id) == {
        "all": 5, "in": 1, "out": 0, "active": 2, "failing": 1, "suspended": 0, "closed": 1,
    }  # fmt: skip


def test_pages_of_peers_go_on_where_the_one_before_ended(scene: Scene) -> None:
    for failures in (1, 1, 0, 0):
        connect(scene.workspace, RemotePeer(), failures=failures)

    seen, cursor = [], None
    while True:
        page = peers.list_peers(scene.workspace.id, limit=2, cursor=cursor)
        seen += [row.connection.id for row in page.data]
        cursor = page.next_cursor
        if not page.has_more:
            break

    assert len(seen) == len(set(seen)) == 5
    assert seen == [row.connection.id for row in peers.list_peers(scene.workspace.id).data]


def test_more_peers_take_no_more_statements(scene: Scene) -> None:
    asked: list[str] = []

    @sa.event.listens_for(db.engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, *_more: object) -> None:
        asked.append(statement)

    peers.list_peers(scene.workspace.id)
    few = len(asked)
    for _ in range(5):
        connect(scene.workspace, RemotePeer(), failures=1)
    asked.clear()
    peers.list_peers(scene.workspace.id)
    sa.event.remove(db.engine, "before_cursor_execute", note)

    # Days that were seen before are not looked at again, which takes the two of today apart.
    assert len([text for text in asked if text.startswith(("SELECT", "WITH"))]) <= few + 6


def test_a_row_counts_what_waits_and_what_is_missing(scene: Scene) -> None:
    for state in (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.DELIVERED):
        add_delivery(add_event(scene.workspace.id), scene.connection, state=state)
    with transaction():
        db.session.add(
            Stream(
                connection_id=scene.connection.id,
                direction=Direction.INCOMING,
                epoch="e",
                head_sequence=9,
                contiguous=6,
                hole_since=now_ms(),
                created_at=now_ms(),
            )
        )

    [row] = peers.list_peers(scene.workspace.id).data

    assert (row.waiting, row.missing) == (2, 3)


@pytest.mark.parametrize(
    ("columns", "tone", "actions"),
    [
        ({"key_review": True}, "bad", ("keys",)),
        ({"denied_since": 1}, "bad", ("ping",)),
        ({"wait_code": "clock_skew", "retry_at": 2**50}, "warn", ("retry", "ping")),
        ({"wait_code": "overloaded", "retry_at": 2**50}, "wait", ("retry",)),
        ({"hold_code": "access_denied"}, "bad", ("retry", "ping")),
        ({"breaker_opened_at": 1, "failures": 5}, "warn", ("retry", "ping")),
        ({"failures": 1}, "warn", ("retry", "ping")),
        ({"paused_outgoing": True}, "hold", ("unpause",)),
        ({}, "warn", ("compare", "ping")),
        ({"verified_at": 1}, "wait", ("subscribe", "ping")),
        ({"status": ConnectionStatus.SUSPENDED, "suspended_by_me": True}, "hold", ("resume",)),
        ({"status": ConnectionStatus.SUSPENDED, "suspended_by_peer": True}, "hold", ("ping",)),
        ({"status": ConnectionStatus.PENDING}, "wait", ("accept", "reject")),
        ({"status": ConnectionStatus.REQUESTED}, "wait", ("withdraw",)),
        ({"status": ConnectionStatus.EXPIRED}, "hold", ("again",)),
    ],
)
def test_there_is_one_next_step_whatever_the_state(
    scene: Scene, columns: dict[str, object], tone: str, actions: tuple[str, ...]
) -> None:
    connection = _set(scene.connection, **columns)

    step = handshake.next_step(connection, 0)

    assert (step.tone, step.actions) == (tone, actions)


def test_a_connection_in_use_needs_nothing(scene: Scene) -> None:
    connection = _set(scene.connection, verified_at=1)
    subscribe(connection, "task.*")

    assert handshake.next_step(connection, 0).tone == "ok"


def test_the_history_goes_on_before_the_last_entry_and_leaves_heartbeats_out(scene: Scene) -> None:
    with transaction():
        connection = lifecycle.lock(scene.connection.id)
        for _ in range(3):
            controls.queue_control(connection, ControlType.VERIFICATION, Verification("s"))
    for reason in ("a", "b", "c"):
        trust.mark_verified(scene.connection.id, "ann", reason)

    first, older = handshake.history(scene.connection, limit=4)
    rest, _ = handshake.history(scene.connection, older, limit=4)

    assert [entry.what for entry in first[:3]] == ["connection.mark_verified"] * 3
    assert first[3].words == "We sent a test ping"
    assert {entry.ref for entry in first}.isdisjoint({entry.ref for entry in rest if entry.ref})


def test_the_story_begins_with_the_request_and_ends_with_the_first_ack(scene: Scene) -> None:
    words = [(step.word, step.tone) for step in handshake.steps(scene.connection)]
    event = add_event(scene.workspace.id, scene.connection)

    after = handshake.steps(scene.connection)

    assert words[-2:] == [("First event", "todo"), ("First ack", "todo")]
    assert [(step.word, step.at) for step in after[-2:]] == [
        ("First event", event.created_at),
        ("First ack", event.created_at),
    ]


def test_who_lacks_the_next_key_is_named_to_members_alone(scene: Scene) -> None:
    other = make_scene()
    key = rotation.announce()

    seen = our_keys.rotation([scene.workspace.id])

    assert seen is not None
    assert (seen.newest.key_id, seen.lacking, seen.hidden) == (key.key_id, 2, 1)
    assert [holder.connection_id for holder in seen.stragglers] == [scene.connection.public_id]
    assert other.connection.public_id not in [holder.connection_id for holder in seen.holders]
