"""Control messages: those we send, in order, and the answers we gave to those that came."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column


class ControlState(StrEnum):
    """Where an outgoing control message stands."""

    WAITING = "waiting"  #: not answered yet; goes again after network errors and 5xx
    HELD = "held"  #: refused for now; issued anew with another number when it is due, if it is still wanted
    ANSWERED = "answered"  #: a verified ControlAck came
    REFUSED = "refused"  #: a problem document came; never sent again
    GIVEN_UP = "given_up"  #: too old, or of no use any more


class ControlOut(Model):
    """One control message of ours. At most one per connection is in flight, in order of the number."""

    __tablename__ = "control_out"
    __table_args__ = (
        sa.UniqueConstraint("connection_id", "control_sequence"),
        sa.Index(None, "connection_id", "state", "control_sequence"),
        sa.Index(None, "state", "next_attempt_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"))
    message_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    type: Mapped[str] = mapped_column(sa.String(64))
    control_sequence: Mapped[int] = mapped_column(sa.BigInteger)
    #: JCS without the signature.
    body: Mapped[str] = mapped_column(sa.Text)
    signature: Mapped[str] = mapped_column(sa.Text)
    key_id: Mapped[str] = mapped_column(sa.String(64))
    state: Mapped[ControlState] = mapped_column(state_column(ControlState))
    attempts: Mapped[int] = mapped_column(default=0)
    #: Answers that asked for a wait (429, 503) and did not say how long; they are no attempts.
    untold_waits: Mapped[int] = mapped_column(default=0, server_default="0")
    next_attempt_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: HTTP status of the last answer, None if none came.
    status_code: Mapped[int | None]
    #: `status` of the ControlAck.
    answer_status: Mapped[str | None] = mapped_column(sa.String(32))
    #: The whole answer as text, at most 16 KiB.
    answer: Mapped[str | None] = mapped_column(sa.Text)
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_detail: Mapped[str | None] = mapped_column(sa.Text)
    #: Round trip of the last attempt, ms.
    duration_ms: Mapped[int | None]
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    answered_at: Mapped[int | None] = mapped_column(sa.BigInteger)


class ControlReceived(Model):
    """What we answered to a verified control message, for 8 days: a repeat gets the same answer."""

    __tablename__ = "control_received"
    __table_args__ = (
        sa.UniqueConstraint("connection_id", "message_id"),
        sa.Index(None, "received_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id", ondelete="CASCADE"))
    message_id: Mapped[str] = mapped_column(sa.String(36))
    type: Mapped[str] = mapped_column(sa.String(64))
    #: Base64 SHA-256 of the signing input: another one under the same id is a conflict.
    digest: Mapped[str] = mapped_column(sa.String(44))
    control_sequence: Mapped[int] = mapped_column(sa.BigInteger)
    status_code: Mapped[int]
    answer: Mapped[str] = mapped_column(sa.Text)
    received_at: Mapped[int] = mapped_column(sa.BigInteger)
