"""Subscriptions as they are shown: ours to peers' events, and peers' to ours."""

import orjson
import sqlalchemy as sa

from app.database import db
from app.models import Connection, Direction, Subscription
from app.protocol.errors import NotFound
from app.protocol.states import SubscriptionStatus
from app.reports.connections import row_number, workspace_public_id
from app.reports.details import SubscriptionDetails
from app.reports.paging import ListKey, Page, check_limit, cut, read_cursor, write_cursor
from app.reports.times import rfc3339

#: What is shown as `pending`: asked for and not decided, or not even answered yet.
PENDING = (SubscriptionStatus.REQUESTED, SubscriptionStatus.PENDING)


def get_event_subscriptions(
    workspace_id: int,
    *,
    connection_id: str | None = None,
    direction: str | None = None,
    status: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[SubscriptionDetails]:
    """The workspace's subscriptions, newest first.

    connection_id: public id; one that is not of this workspace matches nothing.
    direction: of the events; `incoming` are ours to a peer's events.
    status: as shown, `pending` with those that the peer has not answered yet.

    Raises InvalidCursor, InvalidRequest for a limit outside 1-200, ValueError for an unknown direction or
    status.
    """
    filters = {"connectionId": connection_id, "direction": direction, "status": status}
    key = ListKey("subscriptions", workspace_id, filters)
    after = read_cursor(key, cursor)
    query = _shown().where(Subscription.workspace_id == workspace_id)
    if connection_id is not None:
        query = query.where(Subscription.connection_id == row_number(workspace_id, connection_id))
    if direction is not None:
        query = query.where(Subscription.direction == Direction(direction))
    if status is not None:
        states = PENDING if status == "pending" else (SubscriptionStatus(status),)
        query = query.where(Subscription.status.in_(states))
    if after is not None:
        query = query.where(Subscription.id < after[0])
    query = query.order_by(Subscription.id.desc()).limit(check_limit(limit) + 1)
    rows, more = cut(db.session.execute(query).all(), limit)
    workspace = workspace_public_id(workspace_id) if rows else ""
    data = [_details(*row, workspace) for row in rows]
    return Page(data, write_cursor(key, [rows[-1][0].id]) if more else None, more)


def get_subscription_details(workspace_id: int, public_id: str) -> SubscriptionDetails:
    """One subscription. Raises NotFound."""
    row = db.session.execute(
        _shown().where(Subscription.workspace_id == workspace_id, Subscription.public_id == public_id)
    ).one_or_none()
    if row is None:
        raise NotFound("There is no such subscription in this workspace.")
    return _details(*row, workspace_public_id(workspace_id))


def subscription_details(subscription: Subscription) -> SubscriptionDetails:
    """How a subscription is shown."""
    return get_subscription_details(subscription.workspace_id, subscription.public_id)


def _shown() -> sa.Select[Subscription, str]:
    return (
        sa.select(Subscription, Connection.public_id)
        .join(Connection, Connection.id == Subscription.connection_id)
        .execution_options(populate_existing=True)
    )


def _details(subscription: Subscription, connection: str, workspace: str) -> SubscriptionDetails:
    status = SubscriptionStatus.PENDING if subscription.status in PENDING else subscription.status
    return SubscriptionDetails(
        id=subscription.public_id,
        workspaceId=workspace,
        connectionId=connection,
        eventType=subscription.event_type,
        direction=subscription.direction.value,
        filter=None,
        metadata=orjson.loads(subscription.details),
        status=status.value,  # type: ignore[typeddict-item]
        isActive=subscription.status is SubscriptionStatus.ACTIVE,
        leaseExpiresAt=rfc3339(subscription.lease_expires_at),
        createdAt=rfc3339(subscription.created_at),
        updatedAt=rfc3339(subscription.updated_at),
    )
