"""The board: queues, workers and jobs as they stand now.

Reads RQ's own keys and those of `signs`, and changes nothing; a look costs a few dozen round trips whatever
is in there. What people do about it is in `orders`.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeAlias, cast

import redis
from flask import current_app
from rq import worker_registration
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.registry import BaseRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from app import queue
from app.config import settings
from app.jobs import schedule, signs
from app.protocol.errors import NotFound, invalid

#: Jobs shown of one state at a time.
PAGE = 50
#: And of each state where all are shown together.
SOME = 15
#: Of an exception's text this much is kept for the page, characters.
MAX_TRACE = 16_384

#: Under which name an app keeps what it saw last.
_MEMORY = "tidings-board"


class JobState(StrEnum):
    """Where a job stands."""

    WORKING = "working"  #: a worker has it
    WAITING = "waiting"  #: in its queue
    SCHEDULED = "scheduled"  #: put on its queue at a later time
    FAILED = "failed"  #: ended with an exception; kept for queue.FAILURE_TTL_S


#: How many jobs of a queue are in a state.
Sizes: TypeAlias = dict[tuple[str, JobState], int]


@dataclass(frozen=True, slots=True)
class JobShown:
    """One job. Times are Unix ms."""

    id: str
    #: Dotted name of the function.
    name: str
    ids: tuple[int, ...]
    queue: str
    state: JobState
    #: Working: since when; waiting: enqueued; scheduled: due; failed: when it failed.
    at: int | None
    enqueued_at: int | None
    #: host:pid of who does it, or did it last.
    worker: str | None
    #: Failures that are remembered, at most 10.
    failures: int = 0
    #: The exception's last line, and all of its text.
    error: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class QueueShown:
    """One queue."""

    name: str
    paused: queue.Pause | None
    waiting: int
    started: int
    scheduled: int
    failed: int
    #: When the job that waits longest was enqueued, Unix ms.
    oldest: int | None
    #: Jobs ended in each of the last 60 whole minutes, the oldest first.
    pace: tuple[int, ...]

    @property
    def per_minute(self) -> int:
        """Jobs ended in the last whole minute."""
        return self.pace[-1] if self.pace else 0


@dataclass(frozen=True, slots=True)
class WorkerShown:
    """One worker. Times are Unix ms."""

    #: host:pid
    name: str
    queues: tuple[str, ...]
    #: busy, idle, suspended, started; None if RQ does not know the worker (yet).
    state: str | None
    job: JobShown | None
    #: The last sign of life.
    beat_at: int
    is_live: bool
    version: str | None
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A job that the scheduler does by the clock."""

    name: str
    every_s: float


@dataclass(frozen=True, slots=True)
class Board:
    """Queues and workers at one moment."""

    #: Unix ms.
    read_at: int
    queues: tuple[QueueShown, ...]
    #: Those that live first.
    workers: tuple[WorkerShown, ...]

    @property
    def live(self) -> tuple[WorkerShown, ...]:
        """The workers that are alive."""
        return tuple(worker for worker in self.workers if worker.is_live)

    def count(self, state: JobState) -> int:
        """Jobs in this state, over all queues."""
        column = "started" if state is JobState.WORKING else state.value
        return sum(getattr(each, column) for each in self.queues)


@dataclass(frozen=True, slots=True)
class Away:
    """Redis does not answer."""

    #: Unix ms: when this process first noticed.
    since: int
    error: str
    #: Where it was looked for, without a password.
    url: str


class Seen(NamedTuple):
    """What there is to see."""

    #: As it is now, or, while Redis is away, as it was when this process saw it last, if it ever did.
    board: Board | None
    jobs: tuple[JobShown, ...]
    has_more: bool
    away: Away | None


class _Memory:
    """What an app's process saw last."""

    board: Board | None = None
    away: Away | None = None


def look(state: JobState | None = None, skip: int = 0) -> Seen:
    """Queues, workers, and a page of jobs: of one state after the first `skip`, or some of each state.

    While Redis is away: the board that this process saw last, no jobs, and what is wrong.
    """
    memory = cast(_Memory, current_app.extensions.setdefault(_MEMORY, _Memory()))
    try:
        memory.board, memory.away = _read(), None
        jobs, has_more = _some_of_each() if state is None else list_jobs(state, skip)
    except redis.RedisError as error:
        since = memory.away.since if memory.away else _now_ms()
        memory.away = Away(since, " ".join(str(error).split())[:200], _plain_url())
        return Seen(memory.board, (), False, memory.away)
    return Seen(memory.board, tuple(jobs), has_more, None)


def _some_of_each() -> tuple[list[JobShown], bool]:
    sizes = _sizes()
    order = (JobState.WORKING, JobState.FAILED, JobState.WAITING, JobState.SCHEDULED)
    found = [_list(state, 0, SOME, sizes) for state in order]
    return [job for jobs, _ in found for job in jobs], any(has_more for _, has_more in found)


def turns() -> tuple[Turn, ...]:
    """What the scheduler does by the clock."""
    return tuple(Turn(job.name, job.every_s) for job in schedule.PERIODIC)


def list_jobs(state: JobState, skip: int = 0) -> tuple[list[JobShown], bool]:
    """PAGE jobs of a state after the first `skip`, and whether there are more. Raises queue.Unavailable.

    Waiting: the next one first; otherwise the newest first. Queue by queue, in the order of QUEUES.
    """
    return _list(state, skip, PAGE, _sizes())


def _list(state: JobState, skip: int, most: int, sizes: Sizes) -> tuple[list[JobShown], bool]:
    found: list[tuple[str, str]] = []
    wanted, left = most + 1, skip
    for name in queue.QUEUES:
        size = sizes[name, state]
        if left >= size:
            left -= size
            continue
        found += [(name, job_id) for job_id in _ids(name, state, left, left + wanted - 1)]
        left, wanted = 0, most + 1 - len(found)
        if wanted <= 0:
            break
    return _fetch(found[:most], state), len(found) > most


def get_job(job_id: str) -> JobShown:
    """One job. Raises NotFound, queue.Unavailable."""
    job = find(job_id)
    for state in JobState:
        if is_in(job, state):
            return shown(job, state)
    raise NotFound("This job is done: nothing is kept of it.")


def find(job_id: str) -> Job:
    """RQ's own job of one of QUEUES. Raises NotFound, queue.Unavailable."""
    try:
        job = Job.fetch(job_id, connection=queue.redis_client(), serializer=JSONSerializer)
    except NoSuchJobError:
        raise NotFound("There is no such job any more.") from None
    if job.origin not in queue.QUEUES:
        raise NotFound("There is no such job here.")
    return job


def is_in(job: Job, state: JobState) -> bool:
    """Whether the job is in that state. Raises queue.Unavailable."""
    if state is JobState.WAITING:
        return queue.queue(job.origin).get_job_position(job) is not None
    if state is JobState.WORKING:
        # Its members are called job:execution.
        return job.id in registry(job.origin, state).get_job_ids(cleanup=False)
    return job in registry(job.origin, state)


def registry(name: str, state: JobState) -> BaseRegistry:
    """Where RQ keeps the jobs of a queue that are in this state; not for WAITING ones."""
    kind: type[BaseRegistry] = {
        JobState.WORKING: StartedJobRegistry,
        JobState.SCHEDULED: ScheduledJobRegistry,
        JobState.FAILED: FailedJobRegistry,
    }[state]
    return kind(name, connection=queue.redis_client(), serializer=JSONSerializer)


def read_state(text: str) -> JobState:
    """The state of that name. Raises InvalidRequest at /state."""
    try:
        return JobState(text)
    except ValueError:
        raise invalid("/state", f"must be one of {', '.join(JobState)}", "choice") from None


def _read() -> Board:
    client = queue.redis_client()
    paused, pace = queue.paused(client), signs.read_pace(client, queue.QUEUES)
    sizes = _sizes()
    queues = tuple(_queue(name, paused.get(name), pace[name], sizes) for name in queue.QUEUES)
    return Board(_now_ms(), queues, _workers(client))


def _queue(name: str, pause: queue.Pause | None, pace: tuple[int, ...], sizes: Sizes) -> QueueShown:
    oldest = None
    if sizes[name, JobState.WAITING]:
        [first] = Job.fetch_many(
            queue.queue(name).get_job_ids(0, 1)[:1] or [""], queue.redis_client(), JSONSerializer
        )
        oldest = _ms(first.enqueued_at) if first else None
    return QueueShown(
        name,
        pause,
        sizes[name, JobState.WAITING],
        sizes[name, JobState.WORKING],
        sizes[name, JobState.SCHEDULED],
        sizes[name, JobState.FAILED],
        oldest,
        pace,
    )


def _workers(client: redis.Redis) -> tuple[WorkerShown, ...]:
    beats = queue.heartbeats()
    about = signs.read_about(client, list(beats))
    records = _records(client)
    jobs = _jobs_by_id(record.get("current_job") for record in records.values())
    found = [
        _worker(name, at, about.get(name), records.get(name, {}), jobs) for name, at in sorted(beats.items())
    ]
    return tuple(sorted(found, key=lambda worker: not worker.is_live))


def _worker(
    name: str,
    beat_at: float,
    about: signs.About | None,
    record: dict[str, str],
    jobs: dict[str, JobShown],
) -> WorkerShown:
    live = queue.is_live(name, beat_at)
    queues = about.queues if about else tuple(filter(None, record.get("queues", "").split(",")))
    return WorkerShown(
        name=name,
        queues=queues,
        state=record.get("state") if live else None,
        job=jobs.get(record.get("current_job", "")) if live else None,
        beat_at=int(beat_at * 1000),
        is_live=live,
        version=about.version if about else None,
        done=about.done if about else 0,
        failed=about.failed if about else 0,
    )


def _records(client: redis.Redis) -> dict[str, dict[str, str]]:
    """RQ's own record of each worker, by host:pid; the newest where a process registered again."""
    keys = sorted(worker_registration.get_keys(connection=client))
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.hgetall(key)
    read = cast(list[dict[bytes, bytes]], pipeline.execute())
    return {
        # Our workers are called host:pid:milliseconds.
        key.removeprefix("rq:worker:").rpartition(":")[0]: {
            field.decode(): value.decode("utf-8", "replace") for field, value in record.items()
        }
        for key, record in zip(keys, read, strict=True)
        if record
    }


def _jobs_by_id(ids: Iterable[str | None]) -> dict[str, JobShown]:
    wanted = [job_id for job_id in ids if job_id]
    found = Job.fetch_many(wanted, queue.redis_client(), JSONSerializer) if wanted else []
    return {job.id: shown(job, JobState.WORKING) for job in found if job is not None}


def _sizes() -> Sizes:
    """All of them in one round trip, and without the tidying that RQ does when it counts."""
    asked = [(name, state) for name in queue.QUEUES for state in JobState]
    pipeline = queue.redis_client().pipeline(transaction=False)
    for name, state in asked:
        if state is JobState.WAITING:
            pipeline.llen(queue.queue(name).key)
        else:
            pipeline.zcard(registry(name, state).key)
    return dict(zip(asked, cast(list[int], pipeline.execute()), strict=True))


def _ids(name: str, state: JobState, start: int, end: int) -> list[str]:
    if state is JobState.WAITING:
        return queue.queue(name).get_job_ids(start, end - start + 1)
    newest_first = state is not JobState.SCHEDULED
    return registry(name, state).get_job_ids(start, end, desc=newest_first, cleanup=False)


def _fetch(found: Sequence[tuple[str, str]], state: JobState) -> list[JobShown]:
    jobs = Job.fetch_many([job_id for _, job_id in found], queue.redis_client(), JSONSerializer)
    return [shown(job, state) for job in jobs if job is not None]


def shown(job: Job, state: JobState) -> JobShown:
    """The job in that state as people see it. Raises queue.Unavailable."""
    name, ids = _call(job)
    results = job.results() if state is JobState.FAILED else []
    trace = next((result.exc_string for result in results if result.exc_string), None) or ""
    at = {
        JobState.WORKING: job.started_at,
        JobState.WAITING: job.enqueued_at,
        JobState.FAILED: job.ended_at,
    }.get(state)
    if state is JobState.SCHEDULED:
        at = registry(job.origin, state).get_expiration_time(job)
    return JobShown(
        id=job.id,
        name=name,
        ids=ids,
        queue=job.origin,
        state=state,
        at=_ms(at),
        enqueued_at=_ms(job.enqueued_at),
        worker=job.worker_name.rpartition(":")[0] if job.worker_name else None,
        failures=len(results),
        error=(trace.strip().splitlines() or [""])[-1][:500],
        trace=trace[-MAX_TRACE:],
    )


def _call(job: Job) -> tuple[str, tuple[int, ...]]:
    """What a job calls, and with which ids. One that cannot be read is named as such."""
    try:
        name, args = job.func_name, job.args
    except Exception:  # whatever stands there was put there by somebody else
        return "unreadable", ()
    return str(name), tuple(each for each in args if type(each) is int)


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


def _now_ms() -> int:
    """This machine's time: RQ's own times, beside which it is shown, are of it as well."""
    return int(time.time() * 1000)


def _plain_url() -> str:
    """REDIS_URL without name and password."""
    scheme, _, rest = queue.redis_url(settings()).partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
