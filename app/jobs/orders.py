"""Orders: what people do to queues and jobs. Each is written into the audit log.

A job carries ids and nothing else, so that it can be run again or removed without harm: what is to be done is
in the database, and the sweep finds it without any job.
"""

import contextlib
from collections.abc import Iterator

import redis
from rq.exceptions import InvalidJobOperation, NoSuchJobError

from app import queue
from app.access import audit
from app.database import transaction
from app.jobs import board
from app.jobs.board import JobShown, JobState
from app.protocol.errors import InvalidState, NotFound, Overloaded


def pause(queue_name: str) -> bool:
    """Let workers take no more jobs of a queue; those in hand are finished. False if it is paused already.

    Commits. Raises NotFound for no queue of ours, Overloaded while Redis is away.
    """
    name = check_queue(queue_name)
    with _redis():
        is_new = queue.pause(name, audit.current_actor().name)
    if is_new:
        _record("queue.pause", "queue", name)
    return is_new


def resume(queue_name: str) -> bool:
    """Let workers go on with a queue. False if it was not paused.

    Commits. Raises NotFound for no queue of ours, Overloaded while Redis is away.
    """
    name = check_queue(queue_name)
    with _redis():
        was_paused = queue.resume(name)
    if was_paused:
        _record("queue.resume", "queue", name)
    return was_paused


def run_now(job_id: str) -> JobShown:
    """Put a failed or scheduled job on its queue again.

    Safe to ask twice: the second one finds it neither failed nor scheduled. Commits. Raises NotFound,
    InvalidState, Overloaded.
    """
    with _redis():
        job = board.find(job_id)
        before = next((s for s in (JobState.FAILED, JobState.SCHEDULED) if board.is_in(job, s)), None)
        if before is None:
            raise InvalidState("This job is not failed any more, so nothing was done.")
        try:
            board.registry(job.origin, before).requeue(job)
        except InvalidJobOperation:
            raise InvalidState("Somebody else has just run this job again.") from None
        shown = board.shown(job, JobState.WAITING)
    _record("job.run", "job", job_id, name=shown.name, ids=list(shown.ids))
    return shown


def run_all_failed(queue_name: str) -> int:
    """Put all failed jobs of a queue on it again; how many. Commits. Raises NotFound, Overloaded."""
    name, number = check_queue(queue_name), 0
    with _redis():
        failed = board.registry(name, JobState.FAILED)
        for job_id in failed.get_job_ids():
            with contextlib.suppress(InvalidJobOperation, NoSuchJobError):
                failed.requeue(job_id)
                number += 1
    if number:
        _record("queue.run_failed", "queue", name, jobs=number)
    return number


def remove(job_id: str) -> JobShown:
    """Forget a job that nobody works on. Commits. Raises NotFound, InvalidState, Overloaded."""
    with _redis():
        found = board.get_job(job_id)
        if found.state is JobState.WORKING:
            raise InvalidState("A worker has this job in hand; it ends by itself within a minute.")
        with contextlib.suppress(NoSuchJobError):
            board.find(job_id).delete()
    _record("job.remove", "job", job_id, name=found.name, ids=list(found.ids), state=found.state.value)
    return found


def check_queue(name: str) -> str:
    """The name itself if it is one of our queues. Raises NotFound."""
    if name not in queue.QUEUES:
        raise NotFound("There is no such queue.")
    return name


@contextlib.contextmanager
def _redis() -> Iterator[None]:
    try:
        yield
    except redis.RedisError:
        raise Overloaded("Redis does not answer, so queues and jobs cannot be changed now.") from None


def _record(action: str, kind: str, object_id: str, **after: object) -> None:
    with transaction():
        audit.record(action, kind, object_id, after=after or None)
