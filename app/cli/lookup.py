"""From what people type to rows: slugs, whole ids, or as much of an id as is unique."""

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute

from app.access import workspaces
from app.cli.output import Exit, Failure
from app.database import db
from app.models import Connection, Event, Subscription, Token, Workspace
from app.protocol.errors import NotFound
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
    """Public id of the one connection whose id begins so."""
    return _unique(
        workspace, given, Connection.public_id, Connection.workspace_id, "connection", is_visible()
    )


def subscription_id(workspace: Workspace, given: str) -> str:
    """Public id of the one subscription whose id begins so."""
    return _unique(workspace, given, Subscription.public_id, Subscription.workspace_id, "subscription")


def token_id(workspace: Workspace, given: str) -> str:
    """Public id of the one token whose id begins so."""
    return _unique(workspace, given, Token.public_id, Token.workspace_id, "token")


def message_id(workspace: Workspace, given: str) -> str:
    """messageId of the one event, ours or a peer's, whose messageId begins so."""
    return _unique(workspace, given, Event.message_id, Event.workspace_id, "event")


def _unique(
    workspace: Workspace,
    given: str,
    column: InstrumentedAttribute[str],
    owner: InstrumentedAttribute[int],
    noun: str,
    visible: sa.ColumnElement[bool] | None = None,
) -> str:
    begins = column == given if len(given) == 36 else column.startswith(given.lower(), autoescape=True)
    query = sa.select(column).distinct().where(owner == workspace.id, begins).limit(2)
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
