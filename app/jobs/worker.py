"""The worker: takes jobs off the queues and calls them, one at a time, in its own process.

RQ's SimpleWorker without a fork per job (13 ms against 3). What is added to it: each job runs in an app
context of its own, a sign of life that comes back after a wiped Redis, and no end at a Redis that went away:
the loop in `run` begins anew until somebody asks the process to stop.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType

import redis
from flask import Flask
from redis.client import Pipeline
from rq import Queue, worker_registration
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker

from app import queue
from app.config import Config

log = logging.getLogger(__name__)

#: Seconds between two signs of life.
BEAT_EVERY_S = 3.0
#: How long RQ's own record of a worker outlives it; by default a killed one is seen for 7 minutes.
WORKER_TTL_S = 30
RQ_BEAT_EVERY_S = 1.0
MAINTENANCE_EVERY_S = 10
JOB_MONITORING_EVERY_S = 5
#: How often a Redis that stays away is spoken of, in seconds.
SAY_AGAIN_S = 60.0
#: Longest pause between two attempts to reach Redis, in seconds; RQ's default is 60.
RECONNECT_WITHIN_S = 1

#: Queues of an ordinary worker, first come first.
ORDINARY = (queue.DELIVERIES, queue.CONTROLS, queue.MAINTENANCE)
#: Queues of the one worker that may be held up by peers that hang, and by whomever strangers name.
FAILING = (queue.DELIVERIES_FAILING, queue.STRANGERS)


class Absence:
    """Says that Redis is away: once when it goes, then at most once a minute, and once when it is back."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._said_at = float("-inf")

    def note(self, error: redis.RedisError) -> None:
        """An attempt failed."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._said_at >= SAY_AGAIN_S:
            self._said_at = now
            extra = {"error": str(error), "away_s": round(now - self._since)}
            log.warning("worker.redis_away", extra=extra)

    def end(self) -> None:
        """An attempt passed."""
        if self._since is not None:
            log.warning("worker.redis_back", extra={"away_s": round(time.monotonic() - self._since)})
            self._since, self._said_at = None, float("-inf")


class Worker(SimpleWorker):
    """RQ's worker in this process, with an app context for each job."""

    max_connection_wait_time = RECONNECT_WITHIN_S
    app: Flask
    away: Absence
    #: Set when the process was asked to end; RQ itself forgets it while the worker is idle.
    asked: threading.Event
    _beaten_at = float("-inf")

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """End after the job in hand, or at once if there is none."""
        self.asked.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's own sign of life, at most once a second: it gives three for each job, nine commands in all."""
        if timeout is None and pipeline is None and time.monotonic() - self._beaten_at < RQ_BEAT_EVERY_S:
            return
        self._beaten_at = time.monotonic()
        try:
            super().heartbeat(timeout, pipeline)
        except redis.RedisError as error:
            # RQ itself waits and tries again; only the first of these would be news.
            self.away.note(error)
            raise
        if pipeline is None:
            self.away.end()

    def check_for_suspension(self, burst: bool) -> None:
        """Before each job: end if that was asked for before RQ's own handlers were there."""
        if self.asked.is_set():
            raise StopRequested
        super().check_for_suspension(burst)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Do the job with a fresh `current_app` and database session."""
        with self.app.app_context():
            return super().perform_job(job, queue, execution)

    def subscribe(self) -> None:
        """Take no commands from Redis: a thread and a connection less, and a second less at the end."""

    def run_maintenance_tasks(self) -> None:
        """RQ's own, and register again if Redis was wiped: RQ does that at the start alone."""
        if not self.connection.sismember(worker_registration.REDIS_WORKER_KEYS, self.key):
            # A heartbeat after the wipe left a record without the rest, which RQ would take for another's.
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        super().run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def clean_group_registries(self) -> None:
        """We use no groups of jobs."""


def run(app: Flask, config: Config, queues: Sequence[str]) -> None:
    """Work until SIGTERM or SIGINT; the job in hand is finished first.

    If Redis goes away or is wiped, the worker waits for it and registers again.
    """
    asked = threading.Event()
    _listen(asked)
    threading.Thread(target=_beat, args=(app, os.getppid()), daemon=True, name="beat").start()
    away = Absence()
    logging.getLogger("rq.worker").addFilter(_is_news)
    while not asked.is_set():
        try:
            worker = make(app, config, queues, asked)
            worker.away = away
            worker.work(logging_level="WARNING")
        except redis.RedisError as error:
            away.note(error)
        _listen(asked)
        asked.wait(RECONNECT_WITHIN_S)
    with app.app_context(), contextlib.suppress(redis.RedisError):
        queue.farewell()


def _is_news(record: logging.LogRecord) -> bool:
    """Whether RQ says something that `Absence` does not: it speaks of a Redis that is away each second."""
    return "could not connect to Redis" not in str(record.msg)


def _listen(asked: threading.Event) -> None:
    """Remember a wish for the end while no RQ worker, which has handlers of its own, is there to hear it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: asked.set())


def make(app: Flask, config: Config, queues: Sequence[str], asked: threading.Event) -> Worker:
    """A worker with a client of its own, since RQ changes the client's timeouts. Raises redis.RedisError."""
    worker = Worker(
        list(queues),
        connection=queue.connect(config),
        serializer=JSONSerializer,
        name=f"{queue.worker_name()}:{time.time_ns() // 1_000_000}",
        worker_ttl=WORKER_TTL_S,
        maintenance_interval=MAINTENANCE_EVERY_S,
        job_monitoring_interval=JOB_MONITORING_EVERY_S,
        default_result_ttl=0,
        log_job_description=False,
    )
    worker.app, worker.asked, worker.away = app, asked, Absence()
    return worker


def _beat(app: Flask, parent: int) -> None:
    """Give signs of life; end with the parent where the system does not see to that."""
    while True:
        with app.app_context(), contextlib.suppress(redis.RedisError):
            queue.beat()
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(BEAT_EVERY_S)
