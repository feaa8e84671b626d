"""Holes: what is done about numbers that did not come (§6). Pure: arguments decide everything.

    seen ── 30 s ──► asked ── 5 min ──► asked ── 1 h ──► asked ──► lost, once that replay has ended
    in an old epoch: asked once; lost, once that replay has ended

A hole that is larger than one replay may be is asked for piece by piece. Nothing is asked and nothing given
up while a replay that we asked for is under way; the caller sees to that.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from app.protocol.ranges import Range

#: Waits before the first, second and third request, ms.
DELAYS_MS = (30_000, 300_000, 3_600_000)

#: Most numbers that one request covers.
MAX_ASKED = 10_000

#: Holes that were asked for in vain so far, beyond which no further one is: a peer that speaks of numbers
#: without end, and sends none of them, shall not make us ask without end.
MAX_UNFILLED = 100

#: Holes so near to each other are asked for together: what lies between is one batch at most.
_NEAR = 100


class Hole(NamedTuple):
    """Numbers that did not come, how often they were asked for, and when something is to be done (ms)."""

    first: int
    last: int
    asked: int
    due: int


class Plan(NamedTuple):
    """What is to be done now: numbers to ask for, numbers to give up, and all holes after that."""

    holes: list[Hole]
    ask: Range | None
    lost: list[Range]


def revise(known: Sequence[Hole], missing: Iterable[Range], born: int) -> list[Hole]:
    """The holes as they are now: those known as far as they are still open, and new ones.

    missing: all numbers that did not come, ascending. born: when the new ones appeared, ms.
    """
    found: list[Hole] = []
    old = iter(known)
    hole = next(old, None)
    for first, last in missing:
        start = first
        while hole is not None and hole.first <= last:
            if hole.last >= start:
                if hole.first > start:
                    found.append(Hole(start, hole.first - 1, 0, born + DELAYS_MS[0]))
                    start = hole.first
                found.append(hole._replace(first=start, last=min(hole.last, last)))
                start = min(hole.last, last) + 1
            if hole.last > last:
                break
            hole = next(old, None)
        if start <= last:
            found.append(Hole(start, last, 0, born + DELAYS_MS[0]))
    return _joined(found)


def plan(holes: Sequence[Hole], now: int, *, is_old: bool) -> Plan:
    """What to do about the holes of one stream while no replay is under way; is_old: in an earlier epoch."""
    attempts = 1 if is_old else len(DELAYS_MS)
    given_up = [hole for hole in holes if hole.asked >= attempts and (is_old or hole.due <= now)]
    left = [hole for hole in holes if hole not in given_up]
    unfilled = sum(hole.asked > 0 for hole in left)
    ask = _next_request(
        [hole for hole in left if hole.due <= now and (hole.asked or unfilled < MAX_UNFILLED)]
    )
    if ask is not None:
        left = _joined(piece for hole in left for piece in _after_asking(hole, ask, now))
    return Plan(left, ask, [(hole.first, hole.last) for hole in given_up])


def _next_request(due: Sequence[Hole]) -> Range | None:
    """The lowest due holes, as far as they lie together, in one range of at most MAX_ASKED numbers."""
    if not due:
        return None
    first = due[0].first
    end = first
    for hole in due:
        if hole.first > end + _NEAR or hole.first >= first + MAX_ASKED:
            break
        end = min(hole.last, first + MAX_ASKED - 1)
    return first, end


def _after_asking(hole: Hole, asked: Range, now: int) -> list[Hole]:
    """The hole, parted where the request ends; what was asked for waits for its next turn."""
    first, last = max(hole.first, asked[0]), min(hole.last, asked[1])
    if first > last:
        return [hole]
    times = hole.asked + 1
    due = now + (DELAYS_MS[times] if times < len(DELAYS_MS) else 0)
    parts = [
        hole._replace(last=first - 1),
        Hole(first, last, times, due),
        hole._replace(first=last + 1),
    ]
    return [part for part in parts if part.first <= part.last]


def _joined(holes: Iterable[Hole]) -> list[Hole]:
    """Neighbours of which the same is known, as one."""
    found: list[Hole] = []
    for hole in holes:
        if found and found[-1].last + 1 == hole.first and found[-1][2:] == hole[2:]:
            found[-1] = found[-1]._replace(last=hole.last)
        else:
            found.append(hole)
    return found
