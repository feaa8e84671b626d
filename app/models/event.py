"""Events, ours and those of peers: the signed text itself, and what is needed to find it."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column
from app.models.connection import Direction


class EventStatus(StrEnum):
    """An outgoing event sums its deliveries up; an incoming one is always DELIVERED."""

    PENDING = "pending"  #: some delivery is open
    DELIVERED = "delivered"  #: all arrived; or, incoming: stored and acknowledged
    PARTIAL = "partial"  #: none is open, some arrived and some did not
    DEAD = "dead"  #: none is open and none arrived
    UNSUBSCRIBED = "unsubscribed"  #: nobody was subscribed, or all deliveries were withdrawn


class Event(Model):
    """One signed event."""

    __tablename__ = "event"
    __table_args__ = (
        #: A peer sends an event again when it lost our ack; the pair makes the second one a duplicate.
        #: For outgoing events connection_id is null and the index only finds them.
        sa.UniqueConstraint("message_id", "connection_id"),
        #: One event under one number of an incoming stream.
        sa.UniqueConstraint("stream_id", "sequence"),
        sa.Index(None, "workspace_id", "id"),
        sa.Index(None, "workspace_id", "direction", "id"),
        sa.Index(None, "workspace_id", "event_type", "id"),
        sa.Index(None, "workspace_id", "status", "id"),
        sa.Index(None, "connection_id", "id"),
        sa.Index(None, "workspace_id", "created_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    direction: Mapped[Direction] = mapped_column(state_column(Direction))
    #: Incoming: the connection that it came over. Outgoing: null, see its deliveries.
    connection_id: Mapped[int | None] = mapped_column(sa.ForeignKey("connection.id"))
    message_id: Mapped[str] = mapped_column(sa.String(36))
    event_type: Mapped[str] = mapped_column(sa.String(255))
    #: JCS (RFC 8785) of the message without `signature`: the signing input after its first two lines.
    body: Mapped[str] = mapped_column(sa.Text)
    signature: Mapped[str] = mapped_column(sa.Text)
    #: The member `proof` as it is sent, if the signature is shared with other events.
    proof: Mapped[str | None] = mapped_column(sa.Text)
    key_id: Mapped[str] = mapped_column(sa.String(64))
    #: Base64 SHA-256 of the signing input.
    digest: Mapped[str] = mapped_column(sa.String(44))
    #: `timestamp` of the message, ms.
    timestamp: Mapped[int] = mapped_column(sa.BigInteger)
    #: Incoming: epoch and number under which it came (null outside the stream).
    stream_id: Mapped[int | None] = mapped_column(sa.ForeignKey("stream.id"))
    sequence: Mapped[int | None] = mapped_column(sa.BigInteger)
    status: Mapped[EventStatus] = mapped_column(state_column(EventStatus))
    #: When it was published or stored here, ms.
    created_at: Mapped[int] = mapped_column(sa.BigInteger)


def event_named(workspace_id: int, message_id: str) -> sa.ColumnElement[bool]:
    """An event of the workspace by its messageId, of which a peer may have used one of ours too.

    The workspace is compared as a sum, which is in no index: offered both, SQLite goes through all events
    of the workspace, a million of them, instead of the one or two with this id.
    """
    return sa.and_(Event.message_id == message_id, Event.workspace_id + 0 == workspace_id)


class EventAlias(Model):
    """A further number under which an event came again: a sender that lost count gave it two."""

    __tablename__ = "event_alias"

    stream_id: Mapped[int] = mapped_column(sa.ForeignKey("stream.id"), primary_key=True)
    sequence: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    event_id: Mapped[int] = mapped_column(sa.ForeignKey("event.id", ondelete="CASCADE"), index=True)


class EventTrace(Model):
    """What stays of an incoming event whose text went by age: enough to know it if it comes again."""

    __tablename__ = "event_trace"
    __table_args__ = (sa.UniqueConstraint("stream_id", "sequence"), sa.Index(None, "gone_at"))

    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"), primary_key=True)
    message_id: Mapped[str] = mapped_column(sa.String(36), primary_key=True)
    #: As the columns of the same names of the event.
    digest: Mapped[str] = mapped_column(sa.String(44))
    key_id: Mapped[str] = mapped_column(sa.String(64))
    stream_id: Mapped[int | None] = mapped_column(sa.ForeignKey("stream.id"))
    sequence: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: When the event itself was deleted, ms.
    gone_at: Mapped[int] = mapped_column(sa.BigInteger)


class EventSignature(Model):
    """A further signature of an event of ours.

    What it had before its key was revoked, for receipts may speak of it; or its own beside a shared one, for
    a peer that does not take those.
    """

    __tablename__ = "event_signature"

    event_id: Mapped[int] = mapped_column(sa.ForeignKey("event.id", ondelete="CASCADE"), primary_key=True)
    key_id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    #: Whether it has a proof.
    is_shared: Mapped[bool] = mapped_column(primary_key=True)
    #: As the columns of the same names of the event.
    body: Mapped[str] = mapped_column(sa.Text)
    signature: Mapped[str] = mapped_column(sa.Text)
    proof: Mapped[str | None] = mapped_column(sa.Text)
    digest: Mapped[str] = mapped_column(sa.String(44))
