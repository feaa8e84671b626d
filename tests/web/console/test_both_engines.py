"""Every page of the navigation with something on it, on each engine."""

import pytest

from app.config import settings
from app.federation.identity import ensure_identity
from app.models import Direction
from app.outbox.publish import NewEvent, publish_events
from tests.conftest import ENGINES
from tests.exchange import RemotePeer, connect, subscribe
from tests.web.console.conftest import Console

PAGES = [
    "",
    "events?q=type:task.** status:dead after:2h payload.n:1",
    "events?tail=1",
    "events/publish",
    "deliveries",
    "deliveries?status=dead",
    "dead-letters",
    "replay",
    "operations",
    "connections",
    "connections/new",
    "connections?tab=failing",
    "subscriptions",
    "subscriptions?direction=outgoing",
    "subscriptions/new",
    "tokens",
    "members",
    "/admin/jobs",
    "/admin/keys",
    "/admin/audit",
    "/admin/settings",
    "/admin/workspaces",
    "/status",
    "/account",
]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Here they are asked on both."""
    return str(request.param)


@pytest.mark.parametrize("role", ["owner", "viewer"])
def test_every_page_has_its_answer(console: Console, role: str) -> None:
    ensure_identity(settings())
    connection = connect(console.workspace, RemotePeer())
    subscribe(connection)
    subscribe(connection, "order.*", direction=Direction.INCOMING)
    publish_events(console.workspace.id, [NewEvent("task.created", {"n": n}) for n in range(3)])
    console.sign_in(role)

    statuses = {path: console.page(path).status for path in PAGES}

    refused = {path: status for path, status in statuses.items() if status != 200}
    acts = {"events/publish": 403, "connections/new": 403, "subscriptions/new": 403}
    assert refused == ({} if role == "owner" else acts)
