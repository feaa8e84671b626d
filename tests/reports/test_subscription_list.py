"""Subscriptions as their page shows them: what flowed, who made them, what one would bring or end."""

import uuid

import pytest

from app import clock
from app.access import audit
from app.database import transaction
from app.models import Direction
from app.protocol.errors import NotFound
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from app.reports import subscription_list
from app.reports.patterns import Overlap
from app.reports.subscription_list import (
    list_asked,
    list_subscriptions,
    preview,
    subscribable,
    withdrawn_by,
)
from tests.exchange import RemotePeer, Scene, connect, make_scene, subscribe
from tests.reports.rows import add_delivery, add_event

DAY_MS = 86_400_000


@pytest.fixture
def scene(app: object) -> Scene:
    """A workspace with an active connection, and another one like it."""
    other = make_scene()
    subscribe(other.connection, "task.*", Direction.INCOMING)
    subscribe(other.connection, "task.*", status=SubscriptionStatus.PENDING, granted_event_type=None)
    return make_scene()


def test_what_came_is_counted_by_pattern_and_time(scene: Scene) -> None:
    now = clock.now_ms()
    subscribe(scene.connection, "task.*", Direction.INCOMING)
    for n, event_type in enumerate(("task.made", "task.made", "note", "task.done")):
        at = now - (2 * DAY_MS if n == 0 else n * 1_000)
        add_event(scene.workspace.id, scene.connection, event_type=event_type, created_at=at)

    [row] = list_subscriptions(scene.workspace.id, Direction.INCOMING).rows

    assert (row.traffic.lately, row.traffic.is_capped, row.traffic.last_at) == (2, False, now - 1_000)


def test_what_they_got_is_counted_by_their_acks(scene: Scene) -> None:
    now = clock.now_ms()
    subscribe(scene.connection, "task.**", granted_event_type="task.made")
    for state, event_type in (
        (DeliveryState.DELIVERED, "task.made"),
        (DeliveryState.DELIVERED, "task.done"),
        (DeliveryState.PENDING, "task.made"),
    ):
        event = add_event(scene.workspace.id, event_type=event_type)
        at = now - 5_000 if state is DeliveryState.DELIVERED else None
        add_delivery(event, scene.connection, state=state, delivered_at=at)

    [row] = list_subscriptions(scene.workspace.id, Direction.OUTGOING).rows

    assert (row.pattern, row.granted) == ("task.**", "task.made")
    assert (row.traffic.lately, row.traffic.last_at) == (1, now - 5_000)


def test_a_count_that_ended_early_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_list, "_TRAFFIC_ROWS", 3)
    monkeypatch.setattr(subscription_list, "_FEWEST", 3)
    subscribe(scene.connection, "task.*", Direction.INCOMING)
    for _ in range(5):
        add_event(scene.workspace.id, scene.connection)

    [row] = list_subscriptions(scene.workspace.id, Direction.INCOMING).rows

    assert (row.traffic.lately, row.traffic.is_capped) == (3, True)


def test_the_audit_log_knows_who_made_ours(scene: Scene) -> None:
    ours = subscribe(scene.connection, "task.*", Direction.INCOMING)
    subscribe(scene.connection, "note", Direction.INCOMING)
    with transaction():
        audit.act_as(audit.Actor("user", str(uuid.uuid4()), "n.okafor@alder.example"))
        audit.record("subscription.create", "subscription", ours.public_id)
        audit.act_as_instance()

    rows = list_subscriptions(scene.workspace.id, Direction.INCOMING).rows

    assert [(row.pattern, row.created_by) for row in rows] == [
        ("note", ""),
        ("task.*", "n.okafor@alder.example"),
    ]


def test_rows_are_chosen_by_status_peer_and_pattern_and_paged(scene: Scene) -> None:
    for pattern, status in (
        ("a.made", SubscriptionStatus.ACTIVE),
        ("b.made", SubscriptionStatus.REQUESTED),
        ("c.made", SubscriptionStatus.REVOKED),
        ("d.done", SubscriptionStatus.ACTIVE),
    ):
        subscribe(scene.connection, pattern, Direction.INCOMING, status=status)

    def patterns(**filters: str) -> list[str]:
        found = list_subscriptions(scene.workspace.id, Direction.INCOMING, **filters)  # type: ignore[arg-type]
        return [row.pattern for row in found.rows]

    first = list_subscriptions(scene.workspace.id, Direction.INCOMING, limit=3)
    second = list_subscriptions(scene.workspace.id, Direction.INCOMING, limit=3, older=first.older)

    assert patterns(status="live") == ["d.done", "b.made", "a.made"]
    assert patterns(status="pending") == ["b.made"]
    assert patterns(status="revoked") == ["c.made"]
    assert patterns(pattern="MADE") == ["c.made", "b.made", "a.made"]
    assert patterns(peer="pee", status="active") == ["d.done", "a.made"]
    assert patterns(peer="%") == []
    assert [row.pattern for row in (*first.rows, *second.rows)] == ["d.done", "c.made", "b.made", "a.made"]
    assert second.older is None


def test_a_subscription_over_a_connection_that_does_not_send_is_held(scene: Scene) -> None:
    quiet = connect(scene.workspace, RemotePeer(), status=ConnectionStatus.SUSPENDED)
    subscribe(quiet, "task.*", Direction.INCOMING)

    [row] = list_subscriptions(scene.workspace.id, Direction.INCOMING).rows

    assert (row.state, row.state_words) == ("held", "held: suspended")


def test_who_asks_is_told_what_it_would_have_got(scene: Scene) -> None:
    asked = {"status": SubscriptionStatus.PENDING, "granted_event_type": None}
    first = subscribe(scene.connection, "task.*", **asked)
    second = subscribe(scene.connection, "**", **asked)
    subscribe(scene.connection, "note")
    for event_type in ("task.made", "task.made", "note"):
        add_event(scene.workspace.id, event_type=event_type)
    add_event(scene.workspace.id, scene.connection, event_type="task.made")

    rows = list_asked(scene.workspace.id)

    assert [(row.id, row.would_match) for row in rows] == [
        (first.public_id, (2, 3)),
        (second.public_id, (3, 3)),
    ]


def test_a_preview_counts_what_that_peer_sent(scene: Scene) -> None:
    now = clock.now_ms()
    other = connect(scene.workspace, RemotePeer())
    add_event(scene.workspace.id, other, event_type="task.made")
    for n, event_type in enumerate(("task.made", "note", "task.done", "task.made", "task.made")):
        add_event(
            scene.workspace.id, scene.connection, event_type=event_type, created_at=now - DAY_MS + n * 1_000
        )
    subscribe(scene.connection, "task.made", Direction.INCOMING)
    subscribe(scene.connection, "task.done", Direction.INCOMING, status=SubscriptionStatus.CANCELLED)

    seen = preview(scene.workspace.id, scene.connection.public_id, "task.*")

    assert (seen.matched, seen.of, seen.a_day) == (4, 5, 4)
    assert [sample.event_type for sample in seen.samples] == ["task.made", "task.made", "task.done"]
    assert seen.overlaps == [Overlap("task.made", "narrower")]
    assert not seen.is_broad
    assert preview(scene.workspace.id, other.public_id, "**").is_broad


def test_a_preview_over_another_workspaces_connection_is_not_found(scene: Scene) -> None:
    other = make_scene()

    with pytest.raises(NotFound):
        preview(scene.workspace.id, other.connection.public_id, "**")


def test_what_would_be_withdrawn_is_what_no_other_grant_covers(scene: Scene) -> None:
    wide = subscribe(scene.connection, "task.**")
    subscribe(scene.connection, "task.made")
    for state, event_type in (
        (DeliveryState.PENDING, "task.made"),
        (DeliveryState.PENDING, "task.done"),
        (DeliveryState.PENDING, "task.done"),
        (DeliveryState.DEAD, "task.done"),
    ):
        add_delivery(add_event(scene.workspace.id, event_type=event_type), scene.connection, state=state)

    assert withdrawn_by(scene.workspace.id, wide.public_id) == (2, False)


def test_only_active_connections_can_be_asked(scene: Scene) -> None:
    connect(scene.workspace, RemotePeer(), status=ConnectionStatus.SUSPENDED)

    found = subscribable(scene.workspace.id)

    assert [choice.connection_id for choice in found] == [scene.connection.public_id]
