"""Subscriptions pages: both directions, the form with its preview, and what an admin decides."""

import pytest

from app.models import Direction, Role
from app.protocol.states import SubscriptionStatus
from tests.exchange import Scene, make_scene, subscribe
from tests.reports.rows import add_event
from tests.web.console.conftest import Console


@pytest.fixture
def scene(console: Console) -> Scene:
    """A workspace with an active connection, of which the visitor is the owner."""
    made = make_scene()
    console._made["default"] = made.workspace
    console.sign_in(Role.OWNER, made.workspace)
    return made


def test_both_directions_are_shown(console: Console, scene: Scene) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING)
    subscribe(scene.connection, "order.*", Direction.OUTGOING)
    subscribe(
        scene.connection, "note.*", Direction.OUTGOING, status=SubscriptionStatus.PENDING, granted_event_type=None
    )

    incoming = console.page("subscriptions")
    outgoing = console.page("subscriptions", direction="outgoing")

    assert [row[1] for row in incoming.rows("#subs table")] == ["task.*"]
    assert [row[1] for row in outgoing.rows("#subs table")] == ["note.*", "order.*"]
    assert [row[1] for row in incoming.rows("#asked table")] == ["note.*"]


def test_the_form_previews(console: Console, scene: Scene) -> None:
    add_event(scene.workspace.id, scene.connection)

    page = console.page("subscriptions/new", connection=scene.connection.public_id, event_type="task.*")

    assert "1 of the last 1 event" in page.text
    for verb in ("reject", "revoke"):
        one = subscribe(scene.connection, "x.*")
        assert console.page(f"subscriptions/{one.public_id}/{verb}").status == 200
    ours = subscribe(scene.connection, "x.*", Direction.INCOMING)
    assert console.page(f"subscriptions/{ours.public_id}/cancel").status == 200
