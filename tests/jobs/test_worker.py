"""The worker, as a process of its own on a real Valkey."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from app import queue
from app.jobs import aside, worker
from app.transport import waiting
from tests.conftest import MakeApp
from tests.engines import until


@pytest.fixture
def engine() -> str:
    """A worker is the same whatever the database is."""
    return "sqlite"


@pytest.fixture
def app(make_app: MakeApp) -> Iterator[Flask]:
    """An app with its context pushed; its database is not looked at."""
    made = make_app(DATABASE_URL="sqlite:////nowhere/at/all.db")
    with made.app_context():
        yield made


@pytest.fixture
def running(app: Flask) -> Iterator[int]:
    """Pid of a worker that has said that it lives."""
    with process(lambda: worker.run(app, app.extensions["tidings"], worker.ORDINARY)) as pid:
        until(queue.live_workers, "the worker")
        yield pid


@contextlib.contextmanager
def process(run: Callable[[], None]) -> Iterator[int]:
    """A process that does `run`; killed at the end if it still lives."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            run()
            code = 0
        os._exit(code)
    yield pid
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def end(pid: int) -> int:
    """Ask the process to end, and wait; its exit code."""
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_job_runs_as_soon_as_it_is_there(app: Flask, running: int) -> None:
    began = time.monotonic()

    queue.enqueue("app.queue.signal", "done")  # type: ignore[arg-type]

    assert queue.wait_for("done", 5)
    # Far below the second that a worker that polls would take.
    assert time.monotonic() - began < 0.9


def test_a_job_that_fails_can_be_looked_at(app: Flask, running: int) -> None:
    queue.enqueue("app.queue.queue", "no such queue")  # type: ignore[arg-type]

    failed = FailedJobRegistry(queue.MAINTENANCE, connection=queue.redis_client(), serializer=JSONSerializer)
    until(lambda: failed.get_job_ids(), "the failed job")

    assert queue.enqueue("app.queue.signal", "after")  # type: ignore[arg-type]
    assert queue.wait_for("after", 5)


def test_an_idle_worker_ends_at_once_and_says_farewell(app: Flask, running: int) -> None:
    assert end(running) == 0
    assert queue.live_workers() == []


def test_the_job_in_hand_is_finished_first(app: Flask, running: int) -> None:
    queue.enqueue("app.queue.wait_for", "go", 20)  # type: ignore[arg-type]
    rq_queue = queue.queue(queue.MAINTENANCE)
    until(lambda: rq_queue.started_job_registry.get_job_ids(), "the start of the job")

    os.kill(running, signal.SIGTERM)
    queue.signal("go")

    assert os.waitstatus_to_exitcode(os.waitpid(running, 0)[1]) == 0
    # Finished, and kept nothing: neither started nor failed nor waiting.
    assert rq_queue.started_job_registry.get_job_ids() == []
    assert rq_queue.failed_job_registry.get_job_ids() == []
    assert rq_queue.get_job_ids() == []


def test_a_worker_outlives_a_wiped_redis(app: Flask, running: int) -> None:
    queue.redis_client().flushall()

    queue.enqueue("app.queue.signal", "done")  # type: ignore[arg-type]

    assert queue.wait_for("done", 5)
    until(queue.live_workers, "the next sign of life", 10)


def test_each_job_has_an_app_context_of_its_own(app: Flask, work: Callable[[Flask], bool]) -> None:
    queue.enqueue("app.queue.beat")

    assert work(app)
    # The job found `current_app` and its Redis.
    assert queue.live_workers() == [queue.worker_name()]


def test_a_worker_ends_with_a_parent_that_died(app: Flask) -> None:
    read_end, write_end = os.pipe()

    def parent() -> None:
        child = os.fork()
        if child == 0:
            worker.run(app, app.extensions["tidings"], worker.FAILING)
            os._exit(0)
        os.write(write_end, str(child).encode())
        until(queue.live_workers, "the worker")

    with process(parent) as pid:
        os.waitpid(pid, 0)
    orphan = int(os.read(read_end, 20))
    os.close(read_end)
    os.close(write_end)

    until(lambda: queue.live_workers() == [], f"the end of {orphan}", 15)


def test_the_absence_of_redis_is_one_line_and_its_return_another(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(worker.time, "monotonic", lambda: now)
    absence = worker.Absence()

    for _ in range(70):
        absence.note(redis.ConnectionError("refused"))
        now += 1
    absence.end()
    absence.end()

    assert [record.message for record in caplog.records] == [
        "worker.redis_away",
        "worker.redis_away",
        "worker.redis_back",
    ]


def wait_outside(name: str, seconds: float) -> None:
    """A job that is outside, as a call to a peer that hangs, until somebody signals."""
    with waiting.outside():
        queue.wait_for(name, seconds)
    queue.signal(f"{name} is over")


hang = aside.may_wait(wait_outside)


def test_jobs_that_wait_aside_are_finished_before_the_end(app: Flask, running: int) -> None:
    for name in ("a", "b"):
        queue.enqueue("tests.jobs.test_worker.hang", name, 20)  # type: ignore[arg-type]
    # Both are begun by the one worker, or this would not be done before they end.
    queue.enqueue("app.queue.signal", "third")  # type: ignore[arg-type]
    assert queue.wait_for("third", 10)

    os.kill(running, signal.SIGTERM)
    queue.signal("a")
    queue.signal("b")

    assert os.waitstatus_to_exitcode(os.waitpid(running, 0)[1]) == 0
    assert queue.wait_for("a is over", 0.1)
    assert queue.wait_for("b is over", 0.1)
