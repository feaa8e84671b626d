"""Streams that come in: which numbers are accounted for, and what is missing.

One row per epoch and connection; the newest is the current one. Whoever changes a row holds the lock on its
connection, and does so inside `transaction()`.
"""

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db
from app.models import Direction, Stream, StreamGap
from app.protocol.canonical import loads
from app.protocol.errors import RateLimited
from app.protocol.messages import EPOCH_MIN_MS
from app.protocol.ranges import Coverage, Range, cover, holes

#: How far beyond `contiguous` a number may lie (§6).
MAX_AHEAD = 10_000

#: Most ranges beyond `contiguous` that are kept; gaps without end would grow the row without end.
MAX_RANGES = 10_000

#: Reason that `missing` gives for numbers that nobody has accounted for.
NOT_COME = "missing"


def current_stream(connection_id: int) -> Stream | None:
    """The newest incoming stream of the connection, None before the first event or heartbeat."""
    return db.session.scalar(
        sa.select(Stream)
        .where(Stream.connection_id == connection_id, Stream.direction == Direction.INCOMING)
        .order_by(Stream.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )


def stream_of_epoch(connection_id: int, epoch: str) -> Stream | None:
    """The incoming stream with this epoch, current or old."""
    return db.session.scalar(
        sa.select(Stream)
        .where(
            Stream.connection_id == connection_id,
            Stream.direction == Direction.INCOMING,
            Stream.epoch == epoch,
        )
        .execution_options(populate_existing=True)
    )


def open_stream(connection_id: int, epoch: str) -> Stream:
    """The incoming stream with this epoch, made if it is new.

    Raises RateLimited if the current epoch is younger than 10 s: a peer that restarts its counter faster
    than that would make us keep rows without end.
    """
    found = stream_of_epoch(connection_id, epoch)
    if found is not None:
        return found
    now = now_ms()
    last = current_stream(connection_id)
    if last is not None and now < last.created_at + EPOCH_MIN_MS:
        raise RateLimited("the last epoch began less than 10 s ago", retry_after_s=EPOCH_MIN_MS // 1000)
    stream = Stream(
        connection_id=connection_id,
        direction=Direction.INCOMING,
        epoch=epoch,
        head_sequence=0,
        contiguous=0,
        ranges="[]",
        created_at=now,
    )
    db.session.add(stream)
    db.session.flush()
    return stream


def coverage_of(stream: Stream) -> Coverage:
    """What is accounted for, as the pure value."""
    return Coverage(stream.contiguous, tuple((first, last) for first, last in loads(stream.ranges.encode())))


def fill(stream: Stream, from_sequence: int, to_sequence: int, reason: str | None = None) -> None:
    """Account for the numbers, both included: they came, or (with a reason) they never will.

    A reason is one of a `gap` (expired, refused, erased, withdrawn) or `lost`, and is kept with the numbers.
    """
    fill_ranges(stream, [(from_sequence, to_sequence)])
    if reason is not None:
        db.session.add(
            StreamGap(
                stream_id=stream.id,
                from_sequence=from_sequence,
                to_sequence=to_sequence,
                reason=reason,
                created_at=now_ms(),
            )
        )


def fill_ranges(stream: Stream, more: list[Range]) -> None:
    """Account for several ranges at once."""
    if not more:
        return
    covered = cover(coverage_of(stream), more)
    if len(covered.ranges) > MAX_RANGES:
        raise RateLimited("too many holes in the stream", retry_after_s=60)
    stream.contiguous = covered.contiguous
    stream.ranges = "[" + ",".join(f"[{first},{last}]" for first, last in covered.ranges) + "]"
    note_head(stream, covered.highest)


def note_head(stream: Stream, head_sequence: int) -> None:
    """Remember the highest number that the sender spoke of; a hole below it begins now if there was none."""
    stream.head_sequence = max(stream.head_sequence, head_sequence)
    if stream.contiguous >= stream.head_sequence:
        stream.hole_since = None
    elif stream.hole_since is None:
        stream.hole_since = now_ms()


def gap_told(connection_id: int, epoch: str, from_sequence: int, to_sequence: int, reason: str) -> None:
    """The peer says that it will not send these numbers, both included, of this epoch, and why."""
    fill(open_stream(connection_id, epoch), from_sequence, to_sequence, reason)


def head_told(connection_id: int, epoch: str, head_sequence: int, _oldest_sequence: int) -> None:
    """The peer says how far it has counted in this epoch, so that a lost tail is found too."""
    note_head(open_stream(connection_id, epoch), head_sequence)


def missing(stream: Stream) -> list[tuple[int, int, str]]:
    """(from, to, reason) of what did not come, ascending: holes as `missing`, told gaps by their reason."""
    found = [(first, last, NOT_COME) for first, last in holes(coverage_of(stream), stream.head_sequence)]
    gaps = db.session.execute(
        sa.select(StreamGap.from_sequence, StreamGap.to_sequence, StreamGap.reason).where(
            StreamGap.stream_id == stream.id
        )
    )
    return sorted([*found, *((gap.from_sequence, gap.to_sequence, gap.reason) for gap in gaps)])
