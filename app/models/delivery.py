"""Deliveries: one event on its way to one connection."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column
from app.protocol.states import DeliveryState


class Delivery(Model):
    """State, number in the stream, and when it is due. `held` is not kept: the connection tells it."""

    __tablename__ = "delivery"
    __table_args__ = (
        sa.UniqueConstraint("event_id", "connection_id"),
        #: What a drain takes next: numbered ones by number, then new ones by id.
        sa.Index(None, "connection_id", "state", "sequence", "id"),
        sa.Index(None, "connection_id", "id"),
        sa.Index(None, "workspace_id", "id"),
        sa.Index(None, "workspace_id", "state", "id"),
        sa.Index(None, "workspace_id", "event_type", "id"),
        #: Tells whether an old attempt is still spoken of.
        sa.Index(None, "attempt_id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    event_id: Mapped[int] = mapped_column(sa.ForeignKey("event.id"))
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"))
    event_type: Mapped[str] = mapped_column(sa.String(255))
    state: Mapped[DeliveryState] = mapped_column(state_column(DeliveryState))
    #: Given when it is first taken up, kept through retries of the same epoch.
    stream_id: Mapped[int | None] = mapped_column(sa.ForeignKey("stream.id"))
    sequence: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: Requests that carried it.
    attempts: Mapped[int] = mapped_column(default=0)
    #: Times that the peer refused this entry as retryable, for its own back-off.
    refusals: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: `auto`, or `manual` after somebody asked to send it again.
    trigger: Mapped[str] = mapped_column(sa.String(8), default="auto")
    #: The latest request that carried it.
    attempt_id: Mapped[int | None] = mapped_column(sa.ForeignKey("attempt.id"))
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_detail: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: When it was acknowledged, ms.
    delivered_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: When it became dead or withdrawn, ms; None while it is open or delivered.
    ended_at: Mapped[int | None] = mapped_column(sa.BigInteger)
