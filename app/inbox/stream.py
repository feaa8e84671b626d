"""Streams that come in: which numbers are accounted for, and what is missing.

One row per epoch and connection; the newest is the current one. Whoever changes a row holds the lock on its
connection, and does so inside `transaction()`.
"""

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db
from app.federation import streams
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

_DAY_MS = 86_400_000

#: Reason of a gap that we declared ourselves: asked for three times in vain.
LOST = "lost"


def stream_of_epoch(connection_id: int, epoch: str) -> Stream | None:
    """The incoming stream with this epoch, current or old."""
    return streams.of_epoch(connection_id, Direction.INCOMING, epoch)


def open_stream(connection_id: int, epoch: str) -> Stream:
    """The incoming stream with this epoch, made if it is new.

    Raises RateLimited if the current epoch is younger than 10 s: a peer that restarts its counter faster
    than that would make us keep rows without end.
    """
    found = stream_of_epoch(connection_id, epoch)
    if found is not None:
        return found
    now = now_ms()
    last = streams.newest(connection_id, Direction.INCOMING)
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


def came(stream: Stream, numbers: Sequence[int]) -> None:
    """Account for numbers whose events are here now; those that had been given up are so no more."""
    coverage = coverage_of(stream)
    # Only what was accounted for before can be in a gap; in the ordinary way that is nothing.
    if numbers and numbers[0] <= coverage.highest:
        _reopen(stream, [(number, number) for number in numbers])
    fill_ranges(stream, [(number, number) for number in numbers])


def account(stream: Stream, from_sequence: int, to_sequence: int, reason: str) -> None:
    """Account for numbers, both included, that will not come: told by a `gap`, or given up by us (LOST).

    What is here already, or was given up for another reason than LOST, keeps that.
    """
    told = (from_sequence, to_sequence)
    unknown = _within(holes(coverage_of(stream), to_sequence), told)
    if reason != LOST:
        unknown += _reopen(stream, [told], LOST)
    fill_ranges(stream, [told])
    _note_gaps(stream, unknown, reason)


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
        stream.hole_since = stream.due_at = None
        return
    now = now_ms()
    if stream.hole_since is None:
        stream.hole_since = now
    if stream.due_at is None:
        stream.due_at = now


def gap_told(connection_id: int, epoch: str, from_sequence: int, to_sequence: int, reason: str) -> None:
    """The peer says that it will not send these numbers, both included, of this epoch, and why."""
    account(open_stream(connection_id, epoch), from_sequence, to_sequence, reason)


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


def _within(ranges: Iterable[Range], bounds: Range) -> list[Range]:
    """The parts of the ranges that lie within the bounds."""
    cut = ((max(first, bounds[0]), min(last, bounds[1])) for first, last in ranges)
    return [(first, last) for first, last in cut if first <= last]


def _note_gaps(stream: Stream, ranges: Iterable[Range], reason: str) -> None:
    """Keep gaps. Neighbours of the same reason are one."""
    now = now_ms()
    for first, last in ranges:
        gaps = sa.select(StreamGap).where(StreamGap.stream_id == stream.id)
        before = gaps.where(StreamGap.from_sequence < first).order_by(StreamGap.from_sequence.desc())
        after = gaps.where(StreamGap.from_sequence > last).order_by(StreamGap.from_sequence)
        gap = StreamGap(
            stream_id=stream.id, from_sequence=first, to_sequence=last, reason=reason, created_at=now
        )
        for neighbour in (db.session.scalar(query.limit(1)) for query in (before, after)):
            if neighbour is not None and _are_one(gap, neighbour):
                gap.from_sequence = min(gap.from_sequence, neighbour.from_sequence)
                gap.to_sequence = max(gap.to_sequence, neighbour.to_sequence)
                db.session.delete(neighbour)
        db.session.add(gap)
        db.session.flush()


def _are_one(gap: StreamGap, other: StreamGap) -> bool:
    """Whether the two lie side by side and say the same. When numbers were lost is shown by the day."""
    is_beside = gap.to_sequence + 1 == other.from_sequence or other.to_sequence + 1 == gap.from_sequence
    same_day = gap.created_at // _DAY_MS == other.created_at // _DAY_MS
    return is_beside and gap.reason == other.reason and (gap.reason != LOST or same_day)


def _reopen(stream: Stream, ranges: Sequence[Range], reason: str | None = None) -> list[Range]:
    """Take these numbers, ascending, out of the gaps of the reason (of any, if None); those that were in."""
    query = sa.select(StreamGap).where(
        StreamGap.stream_id == stream.id,
        StreamGap.from_sequence <= ranges[-1][1],
        StreamGap.to_sequence >= ranges[0][0],
    )
    if reason is not None:
        query = query.where(StreamGap.reason == reason)
    taken: list[Range] = []
    for gap in db.session.scalars(query).all():
        bounds = (gap.from_sequence, gap.to_sequence)
        inside = _within(ranges, bounds)
        if not inside:
            continue
        taken += inside
        rest = holes(cover(Coverage(bounds[0] - 1, ()), inside), bounds[1])
        db.session.delete(gap)
        _note_gaps(stream, rest, gap.reason)
    return taken
