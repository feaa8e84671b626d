"""Events pages: the list and its query, the publish form, and what became of an event."""

import pytest

from app.models import Role
from app.outbox.publish import publish_event
from tests.exchange import Scene, make_scene, subscribe
from tests.web.console.conftest import Console


@pytest.fixture
def scene(console: Console) -> Scene:
    """A workspace with an active connection, of which the visitor is the owner."""
    made = make_scene()
    console._made["default"] = made.workspace
    console.sign_in(Role.OWNER, made.workspace)
    return made


def test_an_empty_log_says_what_to_do(console: Console, scene: Scene) -> None:
    page = console.page("events")

    assert "No events yet" in page.text
    assert page.link("Publish a first event").endswith("/events/publish")


def test_events_are_listed(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {"order": {"id": "A-1"}})

    page = console.page("events")

    [row] = page.rows("#events table")
    assert row[2] == "task.created"
    for tab in ("", "/payload", "/signature", "/raw"):
        assert console.page(f"events/{published.message_id}{tab}").status == 200
    assert console.page("events/publish").status == 200
