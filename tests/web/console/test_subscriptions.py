"""Subscriptions pages: both directions, the form with its preview, and what an admin decides."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.config import settings
from app.database import db, transaction
from app.federation import controls
from app.federation.identity import ensure_identity
from app.models import (
    AuditEntry,
    Connection,
    ControlOut,
    Delivery,
    Direction,
    Role,
    Stream,
    Subscription,
)
from app.outbox.publish import publish_event
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from tests.exchange import RemotePeer, Scene, connect, make_scene, subscribe
from tests.reports.rows import add_event
from tests.web.console.conftest import Console

HOSTILE = '"><script>alert(1)</script>\u202e'


@pytest.fixture
def scene(console: Console, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The default workspace with an active connection to a peer that answers late; an admin is there."""
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    ensure_identity(settings())
    peer = RemotePeer()
    made = Scene(console.workspace, connect(console.workspace, peer), peer)
    with transaction():
        db.session.add(
            Stream(
                connection_id=made.connection.id,
                direction=Direction.OUTGOING,
                epoch="c8d3a1de-6f0c-4b2e-9a52-0a8b6d4a1c11",
                created_at=0,
            )
        )
    console.sign_in(Role.ADMIN)
    return made


def asked(scene: Scene, pattern: str = "task.*") -> Subscription:
    return subscribe(scene.connection, pattern, status=SubscriptionStatus.PENDING, granted_event_type=None)


def statuses() -> list[SubscriptionStatus]:
    db.session.expire_all()
    return list(db.session.scalars(sa.select(Subscription.status).order_by(Subscription.id)))


def audited() -> list[str]:
    return list(db.session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.id)))


# The list


def test_both_directions_have_a_page(console: Console, scene: Scene) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING)
    subscribe(scene.connection, "order.*", Direction.OUTGOING)

    incoming = console.page("subscriptions")
    outgoing = console.page(incoming.link("They receive"))

    assert [row[:2] for row in incoming.rows("#subs table")] == [["Peer", "task.*"]]
    assert [row[:2] for row in outgoing.rows("#subs table")] == [["Peer", "order.*"]]
    assert incoming.one("#subs td a.id")["href"] == "/w/default/events?q=type%3Atask.%2A%20direction%3Ain"


def test_an_empty_list_says_what_a_subscription_is(console: Console, scene: Scene) -> None:
    incoming = console.page("subscriptions")
    outgoing = console.page("subscriptions", direction="outgoing")

    assert incoming.link("Subscribe to a peer's events") == "/w/default/subscriptions/new"
    assert "Nobody subscribes to your events yet" in outgoing.text


def test_filters_that_match_nothing_are_named(console: Console, scene: Scene) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING)

    page = console.page("subscriptions", direction="incoming", pattern=HOSTILE)

    assert "No subscriptions match" in page.text
    assert page.link("Clear filters") == "/w/default/subscriptions?direction=incoming"


def test_what_ended_is_shown_when_asked_for(console: Console, scene: Scene) -> None:
    subscribe(
        scene.connection, "task.*", Direction.INCOMING, status=SubscriptionStatus.REVOKED, reason=HOSTILE
    )

    live = console.page("subscriptions")
    page = console.page(live.link("Show all"))

    [row] = page.rows("#subs table")
    assert row[4].startswith("revoked")
    assert "\u202e" not in page.text
    assert page.all("main script") == []


def test_what_peers_ask_for_stands_first_with_what_they_would_get(console: Console, scene: Scene) -> None:
    asked(scene)
    for event_type in ("task.made", "note"):
        add_event(scene.workspace.id, event_type=event_type)

    page = console.page("subscriptions")

    assert "1 waits for your approval" in page.text
    [row] = page.rows("#asked table")
    assert row[1] == "task.*"
    assert row[3] == "1 of our last 2 events"


def test_a_viewer_sees_which_role_decides(console: Console, scene: Scene) -> None:
    one = asked(scene)
    ours = subscribe(scene.connection, "note", Direction.INCOMING)
    console.sign_in(Role.OPERATOR)

    page = console.page("subscriptions")
    answers = [
        console.get("subscriptions/new"),
        console.post("subscriptions/new"),
        console.post(f"subscriptions/{one.public_id}/approve"),
        console.post(f"subscriptions/{one.public_id}/reject"),
        console.post(f"subscriptions/{ours.public_id}/cancel"),
    ]

    for words in ("New subscription", "Approve", "Reject…", "Cancel…"):
        assert page.is_disabled(words)
    assert [answer.status_code for answer in answers] == [403] * 5
    assert statuses() == [SubscriptionStatus.PENDING, SubscriptionStatus.ACTIVE]


# The form


def test_the_form_shows_what_a_pattern_would_bring(console: Console, scene: Scene) -> None:
    for n in range(5):
        add_event(scene.workspace.id, scene.connection, event_type="task.made" if n else "note")
    subscribe(scene.connection, "task.made", Direction.INCOMING)

    page = console.page("subscriptions/new", connection=scene.connection.public_id, event_type="task.*")

    assert page.texts(".big-number") == ["4 of the last 5 events"]
    assert len(page.rows("#samples table")) == 3
    assert "It includes task.made" in page.text
    assert statuses() == [SubscriptionStatus.ACTIVE]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("task.*", "You have this one already"),
        ("task.made", "All of it arrives already"),
        ("**", "everything"),
    ],
)
def test_the_form_warns(console: Console, scene: Scene, pattern: str, words: str) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING)

    page = console.page("subscriptions/new", event_type=pattern)

    assert words in page.text


def test_types_that_were_seen_are_suggested_by_group(console: Console, scene: Scene) -> None:
    for event_type in ("task.made", "task.done", "note"):
        add_event(scene.workspace.id, scene.connection, event_type=event_type)

    page = console.page("subscriptions/new")

    options = [tag["value"] for tag in page.all("datalist option")]
    assert options == ["note", "task.**", "task.done", "task.made"]
    assert page.link("task.**").endswith("event_type=task.%2A%2A")


def test_a_pattern_that_is_none_is_marked_and_kept(console: Console, scene: Scene) -> None:
    fields = {"connection": scene.connection.public_id, "event_type": "order.**.placed"}

    pages = [console.page("subscriptions/new", **fields), console.post_page("subscriptions/new", fields)]

    for page in pages:
        assert page.status == 422
        assert page.one("#event_type")["value"] == "order.**.placed"
        assert page.one("#event_type")["aria-describedby"].startswith("event_type-error")
        assert page.one("pre.pointer").get_text() == "order.**.placed\n      ^^"
        assert "** may stand only at the end" in page.one(".error-summary").get_text()
    assert statuses() == []


def test_a_peer_is_asked(console: Console, scene: Scene) -> None:
    fields = {"connection": scene.connection.public_id, "event_type": " task.* "}

    page = console.follow(console.post("subscriptions/new", fields))

    assert "Asked for task.*; no answer yet" in page.text
    [row] = page.rows("#subs table")
    assert row[1] == "task.*"
    assert console.user is not None
    assert row[6].startswith(console.user.email)
    assert db.session.scalars(sa.select(ControlOut.type)).all() == ["subscription.request"]


def test_asking_twice_asks_once(console: Console, scene: Scene) -> None:
    fields = {"connection": scene.connection.public_id, "event_type": "task.*"}
    console.post("subscriptions/new", fields)

    page = console.post_page("subscriptions/new", fields)

    assert page.status == 422
    assert "is subscribed to, or asked for" in page.one(".error-summary").get_text()
    assert len(statuses()) == 1


@pytest.mark.parametrize("connection", ["", "nonsense", "another workspace's"])
def test_only_a_connection_that_is_listed_can_be_asked(
    console: Console, scene: Scene, connection: str
) -> None:
    if connection.startswith("another"):
        connection = make_scene().connection.public_id

    page = console.post_page("subscriptions/new", connection=connection or "x", event_type="task.*")
    shown = console.page("subscriptions/new", connection=connection or "x", event_type="task.*")

    assert page.status == 422
    assert statuses() == []
    assert shown.all(".big-number") == []


def test_without_an_active_connection_there_is_nobody_to_ask(console: Console, scene: Scene) -> None:
    with transaction():
        db.session.execute(sa.update(Connection).values(status=ConnectionStatus.SUSPENDED))

    page = console.page("subscriptions/new")

    assert page.link("Connect to a peer") == "/w/default/connections/new"


# Decisions


def test_an_admin_approves_and_only_once(console: Console, scene: Scene) -> None:
    one = asked(scene)

    done = console.follow(console.post(f"subscriptions/{one.public_id}/approve"))
    again = console.follow(console.post(f"subscriptions/{one.public_id}/approve"))

    assert "Peer receives task.* from now on." in done.text
    assert "Nothing was changed." in again.text
    assert "It is active." in again.text
    assert statuses() == [SubscriptionStatus.ACTIVE]
    assert audited() == ["subscription.approve"]


def test_an_admin_rejects_with_a_reason(console: Console, scene: Scene) -> None:
    one = asked(scene)
    question = console.page(f"subscriptions/{one.public_id}/reject")

    done = console.follow(
        console.post(f"subscriptions/{one.public_id}/reject", question.fields() | {"reason": "not for you"})
    )

    assert question.title == "Reject task.* for Peer?"
    assert "was told that task.* is not granted" in done.text
    assert statuses() == [SubscriptionStatus.REJECTED]
    assert db.session.scalars(sa.select(Subscription.reason)).one() == "not for you"
    assert "not for you" in db.session.scalars(sa.select(ControlOut.body)).one()


def test_taking_a_grant_back_says_what_is_withdrawn(console: Console, scene: Scene) -> None:
    one = subscribe(scene.connection, "task.*")
    publish_event(scene.workspace.id, "task.made", {})
    question = console.page(f"subscriptions/{one.public_id}/revoke")

    done = console.follow(console.post(f"subscriptions/{one.public_id}/revoke", question.fields()))

    assert ["1", "deliveries that wait", "withdrawn, never sent"] in question.rows("#effects table")
    assert "does not receive task.* any more" in done.text
    assert statuses() == [SubscriptionStatus.REVOKED]
    assert db.session.scalars(sa.select(Delivery.state)).all() == [DeliveryState.WITHDRAWN]


def test_an_admin_cancels_and_a_second_time_changes_nothing(console: Console, scene: Scene) -> None:
    ours = subscribe(scene.connection, "task.*", Direction.INCOMING)
    question = console.page(f"subscriptions/{ours.public_id}/cancel")

    done = console.follow(console.post(f"subscriptions/{ours.public_id}/cancel", question.fields()))
    again = console.follow(console.post(f"subscriptions/{ours.public_id}/cancel", question.fields()))

    assert "task.* from Peer is cancelled." in done.text
    assert "It is cancelled." in again.text
    assert audited() == ["subscription.cancel"]


def test_a_reason_that_is_too_long_is_kept_and_said(console: Console, scene: Scene) -> None:
    one = asked(scene)

    page = console.post_page(f"subscriptions/{one.public_id}/reject", reason="x" * 1_001)

    assert page.status == 422
    assert page.one("textarea").get_text().strip() == "x" * 1_001
    assert statuses() == [SubscriptionStatus.PENDING]


@pytest.mark.parametrize("verb", ["approve", "reject", "revoke", "cancel"])
def test_a_subscription_of_another_workspace_is_not_found(console: Console, scene: Scene, verb: str) -> None:
    other = make_scene()
    theirs = subscribe(
        other.connection, "task.*", Direction.INCOMING if verb == "cancel" else Direction.OUTGOING
    )

    answer = console.post(f"subscriptions/{theirs.public_id}/{verb}")

    assert answer.status_code == 404
    assert statuses() == [SubscriptionStatus.ACTIVE]


@pytest.mark.parametrize(
    ("verb", "direction"), [("approve", Direction.INCOMING), ("cancel", Direction.OUTGOING)]
)
def test_each_side_decides_its_own_part(
    console: Console, scene: Scene, verb: str, direction: Direction
) -> None:
    one = subscribe(scene.connection, "task.*", direction)

    answer = console.post(f"subscriptions/{one.public_id}/{verb}")

    assert answer.status_code == 404
    assert statuses() == [SubscriptionStatus.ACTIVE]


def test_a_hostile_name_is_shown_as_text(console: Console, scene: Scene) -> None:
    with transaction():
        row = db.session.get_one(Connection, scene.connection.id)
        assert row.peer is not None
        row.peer.name = HOSTILE * 20
    one = asked(scene)
    places: list[tuple[str, dict[str, Any]]] = [
        ("subscriptions", {}),
        ("subscriptions/new", {"event_type": "**"}),
        (f"subscriptions/{one.public_id}/reject", {}),
    ]

    pages = [console.page(path, **query) for path, query in places]

    for page in pages:
        assert page.all("main script") == []
        assert "\u202e" not in page.text
