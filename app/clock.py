"""The one clock for wall time, and the seam by which tests and drills move it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_offset_ms = 0
_frozen: "FrozenClock | None" = None


class FrozenClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def advance(self, ms: int) -> None:
        """Move the clock on by so many ms."""
        self.now_ms += ms


def now_ms() -> int:
    """Unix time in ms, with the offset of this process."""
    if _frozen is not None:
        return _frozen.now_ms
    return time.time_ns() // 1_000_000 + _offset_ms


def monotonic() -> float:
    """Seconds for measuring durations; never moved, never frozen."""
    return time.monotonic()


def set_offset_ms(offset_ms: int) -> None:
    """Let the clock of this process be wrong by so many ms, for drills (CLOCK_OFFSET_MS)."""
    global _offset_ms
    _offset_ms = offset_ms


@contextmanager
def frozen_at(ms: int) -> Iterator[FrozenClock]:
    """Stop the clock of this process at a Unix time in ms, for tests."""
    global _frozen
    before, _frozen = _frozen, FrozenClock(ms)
    try:
        yield _frozen
    finally:
        _frozen = before
