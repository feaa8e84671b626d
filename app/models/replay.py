"""Replays: what we asked peers to send again, and what they asked of us."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column
from app.models.connection import Direction


class ReplayState(StrEnum):
    """Where a replay stands."""

    WAITING = "waiting"  #: ours, for another one over the same connection to end; nothing is said yet
    REQUESTED = "requested"  #: we asked, and no answer came yet
    RUNNING = "running"  #: accepted; the events are on their way
    COMPLETE = "complete"  #: `replay.complete` was sent, or came
    REFUSED = "refused"  #: the publisher said no; `error_code` says why
    FAILED = "failed"  #: ended without a word: the connection ended, or nothing came for long


#: Not ended yet.
OPEN_REPLAY = (ReplayState.WAITING, ReplayState.REQUESTED, ReplayState.RUNNING)


class Replay(Model):
    """One replay. INCOMING: we asked, its events come to us. OUTGOING: the peer asked, and we serve it."""

    __tablename__ = "replay"
    __table_args__ = (
        sa.UniqueConstraint("connection_id", "direction", "replay_id"),
        sa.Index(None, "connection_id", "direction", "state"),
        #: What a sweep looks for, in either direction.
        sa.Index(None, "direction", "state", "due_at"),
        sa.Index(None, "workspace_id", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"))
    direction: Mapped[Direction] = mapped_column(state_column(Direction))
    #: `replayId` of the protocol, minted by the subscriber.
    replay_id: Mapped[str] = mapped_column(sa.String(36))
    state: Mapped[ReplayState] = mapped_column(state_column(ReplayState))
    #: Who asked: `holes` (by itself), `token tdg_…`, `command line`, an address of a user, or `peer`.
    requested_by: Mapped[str] = mapped_column(sa.String(255))

    # What was asked, as on the wire; None where nothing was said. Times are Unix ms.
    stream_epoch: Mapped[str | None] = mapped_column(sa.String(36))
    from_sequence: Mapped[int | None] = mapped_column(sa.BigInteger)
    to_sequence: Mapped[int | None] = mapped_column(sa.BigInteger)
    since: Mapped[int | None] = mapped_column(sa.BigInteger)
    until: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: JSON list of patterns.
    event_types: Mapped[str | None] = mapped_column(sa.Text)

    # Progress
    #: OUTGOING: the stream that is read, the first and the last number, the last number that is done, and up
    #: to where gaps were told.
    stream_id: Mapped[int | None] = mapped_column(sa.ForeignKey("stream.id"))
    first_sequence: Mapped[int | None] = mapped_column(sa.BigInteger)
    last_sequence: Mapped[int | None] = mapped_column(sa.BigInteger)
    done_to: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    gaps_told_to: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: OUTGOING: events that the peer acknowledged. INCOMING: events that came, new or not.
    count: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Of `count`: those that the receiver did not have.
    stored: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Events that the receiver refused for good.
    refused: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: OUTGOING: when the next batch may go. INCOMING: when we give up waiting, or WAITING: ask. Unix ms.
    due_at: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: OUTGOING: refusals of the entry that is next, in a row.
    failures: Mapped[int] = mapped_column(default=0)
    #: OUTGOING: answers in a row that asked for a wait and did not say how long.
    untold_waits: Mapped[int] = mapped_column(default=0, server_default="0")
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_detail: Mapped[str | None] = mapped_column(sa.Text)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    updated_at: Mapped[int] = mapped_column(sa.BigInteger)
    finished_at: Mapped[int | None] = mapped_column(sa.BigInteger)
