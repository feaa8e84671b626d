"""The scheduler: does what is due by the clock. One process; a second one does no harm.

It calls the periodic jobs itself instead of putting them on a queue, so that the sweep, which finds what a
lost Redis forgot, does not depend on Redis. A job that fails is logged and tried again at its next time.
Where Redis is there, `SET NX EX` sees to it that two schedulers share the work instead of doubling it.
"""

import importlib
import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, cast

import redis
from flask import Flask

from app import queue
from app.database import db

log = logging.getLogger(__name__)


class Periodic(NamedTuple):
    """A job without arguments, safe to run twice, and how often it runs."""

    name: str
    every_s: float


#: Every job that runs by the clock.
PERIODIC: tuple[Periodic, ...] = (
    Periodic("app.jobs.maintenance.sweep", 2.0),
    Periodic("app.jobs.retention.start", 60.0),
    Periodic("app.jobs.reconciliation.begin_due", 60.0),
)


def run(app: Flask, periodic: tuple[Periodic, ...] = PERIODIC) -> None:
    """Run the jobs at their times until SIGTERM or SIGINT; the job in hand is finished first."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    calls = {job: load(job.name) for job in periodic}
    due = {job: time.monotonic() for job in periodic}
    while not stop.is_set():
        job = min(due, key=lambda candidate: due[candidate])
        if stop.wait(max(0.0, due[job] - time.monotonic())):
            return
        # A little chance, so that instances on one machine do not sweep in step.
        due[job] = time.monotonic() + job.every_s * random.uniform(0.95, 1.05)  # noqa: S311
        with app.app_context():
            run_once(job, calls[job])


def run_once(job: Periodic, call: Callable[[], object]) -> bool:
    """Run the job unless another scheduler has just done so. True if it ran to its end."""
    if not _is_ours(job):
        return False
    try:
        call()
    except Exception:
        # Whatever it was, the next run may pass; a scheduler that ended would leave everything undone.
        log.exception("schedule.failed", extra={"job": job.name})
        return False
    finally:
        db.session.remove()
    return True


def _is_ours(job: Periodic) -> bool:
    """Whether nobody else took this turn; without Redis everybody takes it."""
    key = f"tidings:turn:{job.name}"
    try:
        return bool(queue.redis_client().set(key, queue.worker_name(), nx=True, px=int(job.every_s * 900)))
    except redis.RedisError:
        return True


def load(name: str) -> Callable[[], object]:
    """The function of that dotted name."""
    module, _, function = name.rpartition(".")
    return cast(Callable[[], object], getattr(importlib.import_module(module), function))
