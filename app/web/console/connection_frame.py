"""What all pages of one connection share: its row, its next step, its tabs."""

from typing import Any, NamedTuple
from uuid import UUID

from flask import Blueprint, Response

from app.models import Connection, Workspace
from app.reports import handshake
from app.reports.connections import connection_row
from app.reports.our_keys import WORDS
from app.reports.peers import WAITING_CAP, PeerRow, peer_rows
from app.web.console.view import render

bp = Blueprint("connections", __name__)

ONE = "/w/<workspace>/connections/<uuid:connection_id>"


class Tab(NamedTuple):
    """One tab: its name, which is also the end of its address, and its word."""

    name: str
    word: str


TABS = (
    Tab("summary", "Summary"),
    Tab("verify", "Verify"),
    Tab("subscriptions", "Subscriptions"),
    Tab("events", "Events"),
    Tab("deliveries", "Deliveries"),
    Tab("stream", "Stream"),
    Tab("keys", "Keys"),
    Tab("settings", "Settings"),
    Tab("history", "History"),
)


def one(workspace: Workspace, connection_id: UUID) -> Connection:
    """The connection of this workspace. Raises NotFound."""
    return connection_row(workspace.id, str(connection_id))


def one_url(workspace: Workspace, public_id: str, tab: str = "") -> str:
    """The address of one of the connection's pages."""
    return f"/w/{workspace.slug}/connections/{public_id}" + (f"/{tab}" if tab else "")


def show(
    workspace: Workspace, connection: Connection, tab: str, status: int | None = None, /, **more: Any
) -> Response:
    """One tab of a connection."""
    [row] = peer_rows([connection])
    return render(
        f"console/connections/{tab}.html",
        status,
        title=row.name,
        active="connections",
        here=f"/w/{workspace.slug}",
        base=one_url(workspace, connection.public_id),
        c=connection,
        row=row,
        next=handshake.next_step(connection, row.waiting),
        kinds=WORDS,
        tab=tab,
        tabs=_tabs(workspace, connection, row),
        **more,
    )


def _tabs(workspace: Workspace, connection: Connection, row: PeerRow) -> list[tuple[str, str, str, Any]]:
    counts: dict[str, Any] = {
        "subscriptions": sum(handshake.subscription_counts(connection.id)),
        "deliveries": row.waiting if row.waiting <= WAITING_CAP else f"{WAITING_CAP:,}+",
    }
    return [
        (
            tab.name,
            tab.word,
            one_url(workspace, connection.public_id, "" if tab.name == "summary" else tab.name),
            counts.get(tab.name),
        )
        for tab in TABS
    ]
