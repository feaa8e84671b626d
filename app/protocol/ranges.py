"""Ranges: the arithmetic of what came of a stream (§6).

A coverage says which numbers of 1, 2, 3 ... are accounted for: all up to `contiguous`, and the `ranges`
beyond it, ascending, inclusive, apart from each other and from `contiguous`.
"""

from collections.abc import Iterable
from typing import NamedTuple

#: First and last number, both included.
Range = tuple[int, int]


class Coverage(NamedTuple):
    """What is accounted for: 1 ... contiguous, and the ranges beyond."""

    contiguous: int
    ranges: tuple[Range, ...]

    @property
    def highest(self) -> int:
        """The largest number that is accounted for, 0 if none."""
        return self.ranges[-1][1] if self.ranges else self.contiguous


#: Nothing came yet.
NOTHING = Coverage(0, ())


def cover(coverage: Coverage, more: Iterable[Range]) -> Coverage:
    """The coverage with more ranges in it, in any order and overlapping as they like.

    cover((2, [(5, 6)]), [(3, 3), (7, 9)]) is (3, [(5, 9)]).
    """
    contiguous = coverage.contiguous
    merged: list[Range] = []
    for first, last in sorted((*coverage.ranges, *more)):
        if not merged and first <= contiguous + 1:
            contiguous = max(contiguous, last)
        elif merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return Coverage(contiguous, tuple(merged))


def holes(coverage: Coverage, head: int) -> list[Range]:
    """The numbers up to `head` that are not accounted for, as ranges."""
    found: list[Range] = []
    start = coverage.contiguous + 1
    for first, last in coverage.ranges:
        if start <= min(first - 1, head):
            found.append((start, min(first - 1, head)))
        start = last + 1
    if start <= head:
        found.append((start, head))
    return found
