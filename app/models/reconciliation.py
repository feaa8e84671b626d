"""Reconciliations: comparisons of what was sent with what was stored, and what they found."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column
from app.models.connection import Direction


class ReconciliationState(StrEnum):
    """Where a comparison stands."""

    RUNNING = "running"  #: a question is on its way
    DONE = "done"  #: all of the window was compared
    FAILED = "failed"  #: no answer that could be used came; `error_code` says why


class Reconciliation(Model):
    """One comparison that we asked for. OUTGOING: of the stream that we send."""

    __tablename__ = "reconciliation"
    __table_args__ = (
        sa.Index(None, "connection_id", "direction", "id"),
        sa.Index(None, "state", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    #: `reconciliationId` of the protocol.
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"))
    direction: Mapped[Direction] = mapped_column(state_column(Direction))
    stream_id: Mapped[int] = mapped_column(sa.ForeignKey("stream.id"))
    state: Mapped[ReconciliationState] = mapped_column(state_column(ReconciliationState))
    #: `schedule`, or whoever asked, in words.
    asked_by: Mapped[str] = mapped_column(sa.String(320))
    #: The window, both ends included; empty if the second is the smaller one.
    from_sequence: Mapped[int] = mapped_column(sa.BigInteger)
    to_sequence: Mapped[int] = mapped_column(sa.BigInteger)
    #: JSON [[from, to], ...]: ranges that are still to be asked about.
    todo: Mapped[str] = mapped_column(sa.Text)
    #: Questions that were answered.
    rounds: Mapped[int] = mapped_column(default=0)
    #: Numbers of the window that were compared.
    compared: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Differences found, and those of them that were mended.
    found: Mapped[int] = mapped_column(default=0)
    repaired: Mapped[int] = mapped_column(default=0)
    #: JSON [{"sequence", "messageId", "kind", "repair"}, ...].
    differences: Mapped[str] = mapped_column(sa.Text, default="[]")
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_detail: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    updated_at: Mapped[int] = mapped_column(sa.BigInteger)
    finished_at: Mapped[int | None] = mapped_column(sa.BigInteger)
