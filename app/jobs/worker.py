"""The worker: takes jobs off the queues and calls them, one at a time, in its own process.

RQ's SimpleWorker without a fork per job (13 ms against 3). What is added to it: each job runs in an app
context of its own, queues can be paused one by one, a sign of life that comes back after a wiped Redis, and
no end at a Redis that went away: the loop in `run` begins anew until somebody asks the process to stop.
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
from rq.worker import SimpleWorker, WorkerStatus

from app import queue
from app.config import Config
from app.jobs import aside
from app.jobs.signs import Tally

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
#: How often a worker that leaves out a paused queue looks whether it goes on, in seconds.
LOOK_AGAIN_S = 1

#: How long jobs that wait aside for a peer may take to end, in seconds: a request has 15, and is recorded.
GRACE_S = 20.0

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
    #: What this process got done.
    tally: Tally
    _beaten_at = float("-inf")
    #: Names of the paused queues, as last seen.
    _paused: frozenset[str] = frozenset()

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

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job of a queue that is not paused; timeout None: or None if there is none now.

        A worker waits for all its queues at once and may be given a job of one that was paused meanwhile:
        it looks at the pauses when it has one, and puts it back.
        """
        is_burst = timeout is None
        self._see_pauses()
        while True:
            step = None if is_burst else LOOK_AGAIN_S if self._paused else timeout
            # Without an end to its patience RQ would wait for the same queues for ever.
            taken = super().dequeue_job_and_maintain_ttl(step, step) if self._ordered_queues else None
            if taken is None and is_burst:
                return None
            if taken is None and not self._ordered_queues:
                self._rest()
            self._see_pauses()
            if taken is not None:
                job, origin = taken
                if origin.name not in self._paused:
                    return taken
                origin.push_job_id(job.id, at_front=True)

    def _see_pauses(self) -> None:
        # Where Redis does not tell there are no jobs either; what was last known stands.
        with contextlib.suppress(redis.RedisError):
            self._paused = frozenset(queue.paused(self.connection))
        wanted = [each for each in self.queues if each.name not in self._paused]
        # Of a single queue RQ takes jobs in another way, and tidies up after it only where the worker never
        # had more than one; so a single one that is left is named twice.
        self._ordered_queues = wanted * 2 if len(wanted) == 1 < len(self.queues) else wanted

    def _rest(self) -> None:
        """All queues are paused: wait a moment, and give signs of life."""
        if self.get_state() != WorkerStatus.SUSPENDED:
            self.set_state(WorkerStatus.SUSPENDED)
        self.heartbeat()
        if self.should_run_maintenance_tasks:
            self.run_maintenance_tasks()
        if self.asked.wait(LOOK_AGAIN_S):
            raise StopRequested

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """Do the job with a fresh `current_app` and database session."""
        with self.app.app_context():
            is_done = super().perform_job(job, queue, execution)
        self.tally.note(queue.name, is_done=is_done)
        return is_done

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
    """Work until SIGTERM or SIGINT; the job in hand, and those that wait for a peer, are finished first.

    If Redis goes away or is wiped, the worker waits for it and registers again.
    """
    asked = threading.Event()
    _listen(asked)
    tally = Tally()
    threading.Thread(target=_beat, args=(app, os.getppid(), tally, queues), daemon=True, name="beat").start()
    away = Absence()
    logging.getLogger("rq.worker").addFilter(_is_news)
    while not asked.is_set():
        try:
            worker = make(app, config, queues, asked)
            worker.away, worker.tally = away, tally
            worker.work(logging_level="WARNING")
        except redis.RedisError as error:
            away.note(error)
        _listen(asked)
        asked.wait(RECONNECT_WITHIN_S)
    if not aside.finish(GRACE_S):
        log.warning("worker.left_aside", extra={"jobs": aside.count()})
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
    worker.app, worker.asked, worker.away, worker.tally = app, asked, Absence(), Tally()
    return worker


def _beat(app: Flask, parent: int, tally: Tally, queues: Sequence[str]) -> None:
    """Give signs of life; end with the parent where the system does not see to that."""
    while True:
        with app.app_context(), contextlib.suppress(redis.RedisError):
            queue.beat()
            tally.tell(queue.redis_client(), queue.worker_name(), queues)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(BEAT_EVERY_S)
