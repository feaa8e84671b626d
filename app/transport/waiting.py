"""Waiting: which threads of this process are outside, in a call to somebody else's server, and since when."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.clock import monotonic

_since: dict[int, float] = {}


@contextmanager
def outside() -> Iterator[None]:
    """Around a call to somebody else's server."""
    thread = threading.get_ident()
    _since[thread] = monotonic()
    try:
        yield
    finally:
        del _since[thread]


def for_s(thread: threading.Thread) -> float:
    """For how many seconds the thread has been outside; 0 if it is not."""
    since = _since.get(thread.ident or 0)
    return 0.0 if since is None else monotonic() - since
