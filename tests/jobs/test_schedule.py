"""The scheduler: turns, failures, and life without Redis."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from flask import Flask

from app import create_app, queue
from app.config import Config
from app.jobs import schedule
from app.jobs.schedule import Periodic
from tests.conftest import MakeApp
from tests.engines import until

JOB = Periodic("app.jobs.maintenance.sweep", 2.0)


@pytest.fixture
def engine() -> str:
    """Turns are the same whatever the database is."""
    return "sqlite"


def fail() -> None:
    raise ValueError("this job fails")


def test_every_periodic_job_can_be_loaded() -> None:
    calls = [schedule.load(job.name) for job in schedule.PERIODIC]

    assert all(callable(call) for call in calls)
    assert all(job.every_s > 0 for job in schedule.PERIODIC)


def test_two_schedulers_share_the_turns(app: Flask) -> None:
    ran: list[str] = []

    answers = [schedule.run_once(JOB, lambda: ran.append("ran")) for _ in range(3)]

    assert answers == [True, False, False]
    assert ran == ["ran"]


def test_a_job_that_fails_is_logged_and_does_not_end_the_scheduler(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    assert not schedule.run_once(JOB, fail)

    [record] = [record for record in caplog.records if record.message == "schedule.failed"]
    assert record.exc_info is not None


def test_without_redis_every_turn_is_taken(tmp_path: Path) -> None:
    app = create_app(
        Config.from_env({"DATA_DIR": str(tmp_path), "REDIS_URL": f"unix://{tmp_path}/none.sock"})
    )
    ran: list[str] = []

    with app.app_context():
        answers = [schedule.run_once(JOB, lambda: ran.append("ran")) for _ in range(2)]

    assert answers == [True, True]
    assert ran == ["ran", "ran"]


def test_it_runs_until_it_is_asked_to_end(make_app: MakeApp) -> None:
    app = make_app()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            schedule.run(app, (Periodic("app.queue.beat", 0.02),))
            os._exit(0)
        os._exit(1)

    with app.app_context():
        until(
            lambda: queue.redis_client().zscore(
                "tidings:workers", f"{queue.worker_name().split(':')[0]}:{pid}"
            ),
            "it",
        )
    os.kill(pid, signal.SIGTERM)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
