"""Subscriptions, of both directions: which event types flow over a connection."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column
from app.models.connection import Direction
from app.protocol.states import SubscriptionStatus


class Subscription(Model):
    """INCOMING: we subscribe to the peer's events. OUTGOING: the peer subscribes to ours."""

    __tablename__ = "subscription"
    __table_args__ = (
        #: The subscriber mints `wire_subscription_id`; the two directions do not share it.
        sa.UniqueConstraint("connection_id", "direction", "wire_subscription_id"),
        sa.Index(None, "workspace_id", "direction", "status", "id"),
        sa.Index(None, "workspace_id", "id"),
        sa.Index(None, "status", "lease_expires_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"))
    direction: Mapped[Direction] = mapped_column(state_column(Direction))
    wire_subscription_id: Mapped[str] = mapped_column(sa.String(36))
    #: The pattern that was asked for.
    event_type: Mapped[str] = mapped_column(sa.String(255))
    #: The pattern that was granted; a subset of the one asked for. None until then.
    granted_event_type: Mapped[str | None] = mapped_column(sa.String(255))
    status: Mapped[SubscriptionStatus] = mapped_column(state_column(SubscriptionStatus))
    #: Lease asked for, seconds.
    lease_seconds: Mapped[int] = mapped_column(sa.BigInteger)
    lease_expires_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: When the subscriber asks again, half-way through the lease.
    renew_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: Until when what a cancelled subscription matches is still taken (15 s after the cancel was answered).
    accepts_until: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: The peer's reason for a rejection or revocation; remote text.
    reason: Mapped[str | None] = mapped_column(sa.Text)
    #: OUTGOING: when the peer last refused an event that this grant covers as not subscribed, ms.
    stale_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: The subscriber's own notes, JSON object; never sent.
    details: Mapped[str] = mapped_column(sa.Text, default="{}")
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    updated_at: Mapped[int] = mapped_column(sa.BigInteger)
