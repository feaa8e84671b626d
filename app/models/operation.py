"""Operations: sets of deliveries that are sent again or given up, worked off piece by piece."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column


class OperationKind(StrEnum):
    """What is done to each delivery of the set."""

    RETRY = "retry"  #: it is sent again
    DISCARD = "discard"  #: it is given up for good


class OperationState(StrEnum):
    """Where an operation stands."""

    RUNNING = "running"  #: a worker does it, or will within seconds
    PAUSED = "paused"  #: a person stopped it; it can go on
    DONE = "done"  #: nothing of the set is left
    CANCELLED = "cancelled"  #: a person ended it; what was done stays done


class Operation(Model):
    """One set, frozen when it was asked for, and how far it has been worked off."""

    __tablename__ = "operation"
    __table_args__ = (sa.Index(None, "workspace_id", "id"), sa.Index(None, "state", "id"))

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    kind: Mapped[OperationKind] = mapped_column(state_column(OperationKind))
    #: JSON of the filter, {"status", "connectionId"?, "eventType"?, "error"?, "ids"?}.
    filter: Mapped[str] = mapped_column(sa.Text)
    #: Why they are discarded.
    reason: Mapped[str | None] = mapped_column(sa.Text)
    #: At most so many are taken, None: all.
    max_items: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: The set ends at this row number: what is made later is not part of it.
    snapshot_id: Mapped[int] = mapped_column(sa.BigInteger)
    #: All of the set up to this row number have had their turn.
    cursor_id: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Size of the set at the start.
    total: Mapped[int] = mapped_column(sa.BigInteger)
    done: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Passed over: there was no connection to send it over, or it had left the set before its turn.
    skipped: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    state: Mapped[OperationState] = mapped_column(state_column(OperationState))
    #: Who works on it now, and until when he may.
    owner: Mapped[str | None] = mapped_column(sa.String(128))
    lease_until: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Who asked for it, in words: a person's address, a token's prefix, or the command line.
    started_by: Mapped[str] = mapped_column(sa.String(320))
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    updated_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: When it was done or cancelled, ms.
    finished_at: Mapped[int | None] = mapped_column(sa.BigInteger)
