"""What people do to queues and jobs, with real jobs on Valkey."""

from collections.abc import Callable

import pytest
import redis
import sqlalchemy as sa
from flask import Flask

from app import queue
from app.database import db
from app.jobs import board, orders
from app.jobs.board import JobState
from app.models import AuditEntry
from app.protocol.errors import InvalidState, NotFound, Overloaded
from tests.jobs.test_board import FAILS, SIGNAL, failed_job, looked


@pytest.fixture
def engine() -> str:
    """Queues are the same whatever the database is."""
    return "sqlite"


def test_a_failed_job_runs_again_once_however_often_it_is_asked(
    app: Flask, work: Callable[[Flask], bool]
) -> None:
    job = failed_job(work, app)

    orders.run_now(job.id)

    with pytest.raises(InvalidState):
        orders.run_now(job.id)
    assert queue.length(queue.MAINTENANCE) == 1
    assert looked().count(JobState.FAILED) == 0


def test_all_failed_jobs_of_a_queue_run_again(app: Flask, work: Callable[[Flask], bool]) -> None:
    for _ in range(2):
        queue.enqueue(FAILS, "no such queue")  # type: ignore[arg-type]
    work(app)

    number = orders.run_all_failed(queue.MAINTENANCE)

    assert number == 2
    assert queue.length(queue.MAINTENANCE) == 2
    assert orders.run_all_failed(queue.MAINTENANCE) == 0


def test_a_failed_job_that_was_removed_is_gone(app: Flask, work: Callable[[Flask], bool]) -> None:
    job = failed_job(work, app)

    orders.remove(job.id)

    assert board.list_jobs(JobState.FAILED) == ([], False)
    with pytest.raises(NotFound):
        orders.remove(job.id)


def test_a_waiting_job_that_was_removed_is_never_done(app: Flask, work: Callable[[Flask], bool]) -> None:
    queue.enqueue(SIGNAL, "done")  # type: ignore[arg-type]
    [job], _ = board.list_jobs(JobState.WAITING)

    orders.remove(job.id)

    assert not work(app)


def test_every_order_is_written_down_and_only_if_it_did_something(
    app: Flask, work: Callable[[Flask], bool]
) -> None:
    job = failed_job(work, app)

    orders.pause(queue.CONTROLS)
    orders.pause(queue.CONTROLS)
    orders.resume(queue.CONTROLS)
    orders.resume(queue.CONTROLS)
    orders.remove(job.id)
    orders.run_all_failed(queue.MAINTENANCE)

    entries = db.session.execute(sa.select(AuditEntry.action, AuditEntry.object_id).order_by(AuditEntry.id))
    assert [tuple(entry) for entry in entries] == [
        ("queue.pause", queue.CONTROLS),
        ("queue.resume", queue.CONTROLS),
        ("job.remove", job.id),
    ]


def test_while_redis_is_away_an_order_is_refused_and_nothing_is_written_down(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "redis_client", lambda: redis.Redis(unix_socket_path="/nowhere/at/all.sock"))

    with pytest.raises(Overloaded):
        orders.pause(queue.CONTROLS)

    assert db.session.scalar(sa.select(AuditEntry.id)) is None
