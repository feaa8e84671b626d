"""Gaps: telling the peer which numbers it need not wait for."""

from collections.abc import Iterable

import sqlalchemy as sa

from app.database import db
from app.federation.controls import queue_control
from app.federation.lifecycle import lock
from app.models import Stream
from app.protocol.control import MAX_GAP, ControlType, Gap, GapReason


def tell(connection_id: int, numbers: Iterable[tuple[int, int]], reason: GapReason) -> None:
    """Announce that these (stream id, sequence) will not come, and why.

    Called inside `transaction()`; the messages go after the commit.
    """
    by_stream: dict[int, list[int]] = {}
    for stream_id, sequence in numbers:
        by_stream.setdefault(stream_id, []).append(sequence)
    if not by_stream:
        return
    connection = lock(connection_id)
    for stream_id, sequences in by_stream.items():
        epoch = db.session.execute(sa.select(Stream.epoch).where(Stream.id == stream_id)).scalar_one()
        for first, last in runs(sorted(sequences)):
            queue_control(connection, ControlType.GAP, Gap(epoch, first, last, reason))


def tell_range(connection_id: int, epoch: str, first: int, last: int, reason: GapReason) -> None:
    """Announce that the numbers from `first` to `last` of an epoch will not come, and why.

    Called inside `transaction()`; the messages go after the commit.
    """
    connection = lock(connection_id)
    for start in range(first, last + 1, MAX_GAP):
        queue_control(connection, ControlType.GAP, Gap(epoch, start, min(last, start + MAX_GAP - 1), reason))


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges, both ends included: 1, 2, 3, 7 are (1, 3) and (7, 7)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1 and number - found[-1][0] < MAX_GAP:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
