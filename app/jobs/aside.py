"""Aside: a job that waits for somebody else's server gives up its place at the worker.

A peer may take 15 s to answer, or to not answer at all. Twenty of them that begin to hang at once would keep
two workers busy for minutes with nothing to do. So whatever may call a peer runs in a thread of the worker's,
and when it waits outside for longer than a moment, the worker goes on with the next job; the thread ends it.

    worker   job ──────┬─► next job ──► next job
    thread   claim send└─ ─ ─ waits ─ ─ ─ ─► record

Who works on a connection is told by its lease in the database, which the thread holds like any worker. Their
number is bounded: when all places are taken, the worker waits as it would have without them.
"""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from flask import current_app

from app.clock import monotonic
from app.log import request_id
from app.transport import waiting

log = logging.getLogger(__name__)

#: Jobs of one process that may wait aside.
PLACES = 32
#: As long as this a call outside is waited for, in seconds: most answers come sooner.
PATIENCE_S = 0.02

_places = threading.BoundedSemaphore(PLACES)
#: Of these, what jobs that anybody can cause may take: they must not keep known peers from theirs.
_places_of_strangers = threading.BoundedSemaphore(PLACES // 2)
_aside: set[threading.Thread] = set()


class _Run:
    """One job in a thread of its own."""

    def __init__(self, job: Callable[..., object], args: tuple[Any, ...], *, is_strange: bool) -> None:
        self._app = current_app._get_current_object()  # type: ignore[attr-defined]
        self._job, self._args, self._is_strange = job, args, is_strange
        self._name = request_id.get()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._is_aside = False
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._do, name=f"{job.__name__} {args}", daemon=True)

    def _do(self) -> None:
        request_id.set(self._name)
        try:
            with self._app.app_context():
                self._job(*self._args)
        except BaseException as error:
            self._error = error
        with self._lock:
            self._over.set()
            if self._is_aside:
                self._leave()

    def _leave(self) -> None:
        _aside.discard(self.thread)
        self._give_back()
        if self._error is not None:
            extra = {"job": self._job.__name__, "ids": self._args}
            log.error("job.failed_aside", exc_info=self._error, extra=extra)

    def wait(self) -> None:
        """Wait until the job is over, and raise what it raised; or until it waits aside."""
        self.thread.start()
        while not self._over.wait(PATIENCE_S):
            if waiting.for_s(self.thread) >= PATIENCE_S and self._step_aside():
                return
        if self._error is not None:
            raise self._error

    def _step_aside(self) -> bool:
        """Whether there was a place, and the job was not over in this very moment."""
        if not self._take_place():
            return False
        with self._lock:
            if self._over.is_set():
                self._give_back()
                return False
            self._is_aside = True
            _aside.add(self.thread)
            return True

    def _take_place(self) -> bool:
        if self._is_strange and not _places_of_strangers.acquire(blocking=False):
            return False
        if _places.acquire(blocking=False):
            return True
        if self._is_strange:
            _places_of_strangers.release()
        return False

    def _give_back(self) -> None:
        _places.release()
        if self._is_strange:
            _places_of_strangers.release()


def may_wait(job: Callable[..., object]) -> Callable[..., None]:
    """Make a job that calls peers one that gives up its place while it waits for them."""
    return _aside_while_waiting(job, is_strange=False)


def strangers_may_wait(job: Callable[..., object]) -> Callable[..., None]:
    """The same for a job that anybody can cause: all of them together get half of the places."""
    return _aside_while_waiting(job, is_strange=True)


def _aside_while_waiting(job: Callable[..., object], *, is_strange: bool) -> Callable[..., None]:
    @functools.wraps(job)
    def run(*args: Any) -> None:
        _Run(job, args, is_strange=is_strange).wait()

    return run


def count() -> int:
    """How many jobs of this process wait aside now."""
    return len(_aside)


def finish(within_s: float) -> bool:
    """Wait until no job is aside any more. False if some are still."""
    until = monotonic() + within_s
    for thread in list(_aside):
        thread.join(max(0.0, until - monotonic()))
    return not _aside
