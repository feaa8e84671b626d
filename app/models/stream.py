"""Streams: the counters of what was sent over a connection, and of what came."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column
from app.models.connection import Direction


class Stream(Model):
    """One epoch of one direction of a connection. The newest row of a pair is the current one."""

    __tablename__ = "stream"
    __table_args__ = (
        sa.UniqueConstraint("connection_id", "direction", "epoch"),
        sa.Index(None, "connection_id", "direction", "id"),
        #: Whose holes are to be looked at, and who is owed a heartbeat.
        sa.Index(None, "direction", "due_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"))
    direction: Mapped[Direction] = mapped_column(state_column(Direction))
    epoch: Mapped[str] = mapped_column(sa.String(36))
    #: OUTGOING: the last number given. INCOMING: the highest number seen or told by a heartbeat.
    head_sequence: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: INCOMING: each of 1 ... n came or is accounted for. OUTGOING: the peer's own word for that.
    contiguous: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: INCOMING: what came beyond, JSON [[from, to], ...] ascending, inclusive.
    ranges: Mapped[str] = mapped_column(sa.Text, default="[]")
    #: INCOMING: since when there is a hole, None while there is none.
    hole_since: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: INCOMING: when the holes are to be looked at, None while there is none. OUTGOING: when a heartbeat is
    #: due unless events went meanwhile, None in an old epoch. Unix ms.
    due_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: INCOMING: what was done about each hole, JSON [[from, to, asked, due], ...] (`app.inbox.holes`).
    holes: Mapped[str] = mapped_column(sa.Text, default="[]", server_default="[]")
    #: OUTGOING: when the peer last said that it has less than it had said before: it came back from a backup.
    went_back_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)


class StreamGap(Model):
    """Numbers that will not come, and why: told by the sender, or given up by us."""

    __tablename__ = "stream_gap"
    __table_args__ = (sa.Index(None, "stream_id", "from_sequence"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    stream_id: Mapped[int] = mapped_column(sa.ForeignKey("stream.id"))
    from_sequence: Mapped[int] = mapped_column(sa.BigInteger)
    #: Inclusive.
    to_sequence: Mapped[int] = mapped_column(sa.BigInteger)
    #: expired, refused, erased, withdrawn, or lost.
    reason: Mapped[str] = mapped_column(sa.String(16))
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
