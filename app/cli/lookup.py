"""From what people type to rows: slugs, beginnings of ids, URLs of instances, patterns, `last`."""

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from app.access import workspaces
from app.cli.output import Exit, Failure
from app.database import db
from app.models import Connection, Event, Peer, Subscription, Token, Workspace
from app.protocol.errors import NotFound
from app.protocol.states import ENDED, LIVE_SUBSCRIPTION
from app.reports.connections import is_visible


def workspace_named(slug: str) -> Workspace:
    """The workspace with this slug. Ends the command if there is none."""
    try:
        return workspaces.by_slug(slug)
    except NotFound:
        known = ", ".join(workspace.slug for workspace in workspaces.list_workspaces())
        step = f"There are: {known}." if known else "Run `flask init` first."
        raise Failure(f"There is no workspace {slug}. {step}", Exit.NOT_FOUND) from None


def connection_id(workspace: Workspace, given: str) -> str:
    """Public id of the one connection whose id begins so; or, for a URL, of the one with that instance.

    Of several with one instance the one that has not ended is meant.
    """
    if "://" in given:
        return _connection_with(workspace, given.rstrip("/"))
    return _unique(
        workspace, given, Connection.public_id, Connection.workspace_id, "connection", is_visible()
    )


def subscription_id(workspace: Workspace, given: str) -> str:
    """Public id of the one subscription whose id begins so, or of the one live one to this pattern."""
    live = Subscription.status.in_(LIVE_SUBSCRIPTION)
    query = sa.select(Subscription.public_id).where(
        Subscription.workspace_id == workspace.id, Subscription.event_type == given, live
    )
    found = db.session.scalars(query.limit(2)).all()
    if len(found) == 1:
        return found[0]
    if found:
        raise Failure(
            f"Several subscriptions are to {given}. `flask subscription list` shows their ids.", Exit.USAGE
        )
    return _unique(workspace, given, Subscription.public_id, Subscription.workspace_id, "subscription")


def token_id(workspace: Workspace, given: str) -> str:
    """Public id of the one token whose id begins so."""
    return _unique(workspace, given, Token.public_id, Token.workspace_id, "token")


def message_id(workspace: Workspace, given: str) -> str:
    """messageId of the one event, ours or a peer's, whose messageId begins so; of the newest for `last`."""
    if given == "last":
        query = sa.select(Event.message_id).where(Event.workspace_id == workspace.id)
        newest = db.session.scalar(query.order_by(Event.id.desc()).limit(1))
        if newest is not None:
            return newest
    return _unique(workspace, given, Event.message_id, Event.workspace_id, "event")


def _connection_with(workspace: Workspace, base_url: str) -> str:
    """The connection with the instance at a URL."""
    rows = db.session.execute(
        sa.select(Connection.public_id, Connection.status)
        .outerjoin(Peer, Peer.id == Connection.peer_id)
        .where(Connection.workspace_id == workspace.id, is_visible())
        .where(sa.func.coalesce(Peer.base_url, Connection.claimed_base_url) == base_url)
        .order_by(Connection.id.desc())
    ).all()
    going = [row for row in rows if row.status not in ENDED]
    if len(going) > 1:
        raise Failure(
            f"Several connections are with {base_url}. `flask connection list` shows their ids.", Exit.USAGE
        )
    for row in going or rows:
        return str(row.public_id)
    raise Failure(
        f"Workspace {workspace.slug} has no connection with {base_url}. `flask connection list` shows what "
        "there is; --workspace chooses another workspace.",
        Exit.NOT_FOUND,
    )


def _unique(
    workspace: Workspace,
    given: str,
    column: InstrumentedAttribute[str],
    owner: InstrumentedAttribute[int],
    noun: str,
    visible: sa.ColumnElement[bool] | None = None,
) -> str:
    begins = column == given if len(given) == 36 else column.startswith(given.lower(), autoescape=True)
    # As a sum the workspace is in no index, and the id's own is used: see `event_named`.
    query = sa.select(column).distinct().where(owner + 0 == workspace.id, begins).limit(2)
    if visible is not None:
        query = query.where(visible)
    found = db.session.scalars(query).all()
    if not found:
        raise Failure(
            f"Workspace {workspace.slug} has no {noun} {given}. `flask {noun} list` shows what there is; "
            "--workspace chooses another workspace.",
            Exit.NOT_FOUND,
        )
    if len(found) > 1:
        raise Failure(f"Several {noun}s begin with {given}. Type more of the id.", Exit.USAGE)
    return found[0]
