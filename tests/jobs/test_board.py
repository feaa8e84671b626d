"""What people see of queues, workers and jobs, and what they do about them, with real workers on Valkey."""

import os
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis
from flask import Flask

from app import queue
from app.config import VERSION
from app.jobs import board, signs, worker
from app.jobs.board import JobState
from app.protocol.errors import NotFound
from tests.conftest import MakeApp
from tests.engines import until
from tests.jobs.test_worker import end, process

#: A job that lives in this package and needs no database.
SIGNAL = "app.queue.signal"
#: A job that fails: there is no such queue.
FAILS = "app.queue.queue"


@pytest.fixture
def engine() -> str:
    """Queues are the same whatever the database is."""
    return "sqlite"


@pytest.fixture
def app(make_app: MakeApp) -> Iterator[Flask]:
    """An app with its context pushed; its database is not looked at."""
    made = make_app(DATABASE_URL="sqlite:////nowhere/at/all.db")
    with made.app_context():
        yield made


@pytest.fixture
def start(app: Flask) -> Iterator[Callable[..., int]]:
    """start(*queues): pid of a worker on these queues that has said that it lives."""
    with_processes = []

    def begin(*queues: str) -> int:
        made = process(lambda: worker.run(app, app.extensions["tidings"], queues or worker.ORDINARY))
        pid = made.__enter__()
        with_processes.append(made)
        until(lambda: f":{pid}" in str(queue.live_workers()), "the worker")
        return pid

    yield begin
    for made in with_processes:
        made.__exit__(None, None, None)


def failed_job(work: Callable[[Flask], bool], app: Flask) -> board.JobShown:
    """A job that failed."""
    queue.enqueue(FAILS, "no such queue")  # type: ignore[arg-type]
    work(app)
    [job], _ = board.list_jobs(JobState.FAILED)
    return job


def test_a_worker_takes_nothing_from_a_paused_queue_and_goes_on_with_the_others(
    app: Flask, start: Callable[..., int]
) -> None:
    queue.pause(queue.MAINTENANCE, "an admin")
    start()

    queue.enqueue(SIGNAL, "maintenance")  # type: ignore[arg-type]
    queue.queue(queue.CONTROLS).enqueue(SIGNAL, "controls")

    assert queue.wait_for("controls", 5)
    assert [job.name for job in board.list_jobs(JobState.WAITING)[0]] == [SIGNAL]


def test_a_worker_that_waits_already_puts_back_what_was_paused_meanwhile(
    app: Flask, start: Callable[..., int]
) -> None:
    start()
    queue.queue(queue.CONTROLS).enqueue(SIGNAL, "it waits for jobs")
    assert queue.wait_for("it waits for jobs", 5)

    queue.pause(queue.MAINTENANCE, "an admin")
    queue.enqueue(SIGNAL, "maintenance")  # type: ignore[arg-type]

    assert not queue.wait_for("maintenance", 0.5)
    assert queue.length(queue.MAINTENANCE) == 1


def test_a_queue_goes_on_soon_after_its_pause_ends(app: Flask, start: Callable[..., int]) -> None:
    queue.pause(queue.MAINTENANCE, "an admin")
    start()
    queue.enqueue(SIGNAL, "maintenance")  # type: ignore[arg-type]

    queue.resume(queue.MAINTENANCE)

    assert queue.wait_for("maintenance", 2.0 * worker.LOOK_AGAIN_S + 1)


def test_a_worker_whose_queues_are_all_paused_rests_and_ends_when_asked(
    app: Flask, start: Callable[..., int]
) -> None:
    queue.pause(queue.DELIVERIES_FAILING, "an admin")
    queue.pause(queue.STRANGERS, "an admin")
    pid = start(*worker.FAILING)
    until(lambda: board.look().board.workers[0].state == "suspended", "the rest")  # type: ignore[union-attr]

    code = end(pid)

    assert code == 0


def test_the_one_queue_that_is_left_keeps_no_job_aside(app: Flask, start: Callable[..., int]) -> None:
    queue.pause(queue.STRANGERS, "an admin")
    start(*worker.FAILING)

    queue.queue(queue.DELIVERIES_FAILING).enqueue(SIGNAL, "done")

    assert queue.wait_for("done", 5)
    assert not queue.redis_client().exists(queue.queue(queue.DELIVERIES_FAILING).intermediate_queue_key)


def test_a_wiped_redis_ends_every_pause(app: Flask, start: Callable[..., int]) -> None:
    queue.pause(queue.MAINTENANCE, "an admin")
    start()

    queue.redis_client().flushdb()
    queue.enqueue(SIGNAL, "maintenance")  # type: ignore[arg-type]

    assert queue.wait_for("maintenance", 2.0 * worker.LOOK_AGAIN_S + 1)


def test_nothing_is_put_on_a_paused_queue_for_due_deliveries(app: Flask) -> None:
    queue.pause(queue.DELIVERIES, "an admin")

    queue.wake_drain(7)

    assert queue.length(queue.DELIVERIES) == 0


def test_a_pause_says_since_when_and_who(app: Flask) -> None:
    before = int(time.time() * 1000)

    was_new = queue.pause(queue.CONTROLS, "ada@example.org")
    again = queue.pause(queue.CONTROLS, "bob@example.org")

    shown = {each.name: each.paused for each in looked().queues}
    pause = shown[queue.CONTROLS]
    assert (was_new, again) == (True, False)
    assert pause is not None
    assert pause.by == "ada@example.org"
    assert pause.since >= before
    assert shown[queue.DELIVERIES] is None


def test_the_board_shows_a_worker_with_its_queues_its_version_and_what_it_did(
    app: Flask, start: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "BEAT_EVERY_S", 0.05)
    pid = start()

    queue.enqueue(SIGNAL, "done")  # type: ignore[arg-type]
    assert queue.wait_for("done", 5)
    until(lambda: looked().workers[0].done == 1, "its word")

    [shown] = looked().workers
    assert shown.name.endswith(f":{pid}")
    assert shown.is_live
    assert shown.queues == worker.ORDINARY
    assert shown.version == VERSION
    assert (shown.done, shown.failed) == (1, 0)


def test_a_worker_that_was_killed_is_shown_as_gone(app: Flask, start: Callable[..., int]) -> None:
    pid = start()

    os.kill(pid, 9)
    os.waitpid(pid, 0)

    [shown] = looked().workers
    assert not shown.is_live
    assert looked().live == ()


def test_jobs_that_ended_count_in_the_pace_of_their_queue(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = signs.Tally()
    monkeypatch.setattr(time, "time", lambda: 60_000_000.0)
    for is_done in (True, True, False):
        tally.note(queue.DELIVERIES, is_done=is_done)
    tally.tell(queue.redis_client(), "host:1", (queue.DELIVERIES,))
    tally.tell(queue.redis_client(), "host:1", (queue.DELIVERIES,))

    monkeypatch.setattr(time, "time", lambda: 60_000_060.0)
    pace = signs.read_pace(queue.redis_client(), queue.QUEUES)

    assert pace[queue.DELIVERIES][-1] == 3
    assert sum(pace[queue.DELIVERIES]) == 3
    assert sum(pace[queue.CONTROLS]) == 0
    assert signs.read_about(queue.redis_client(), ["host:1"])["host:1"][2:] == (2, 1)


def test_what_could_not_be_told_is_told_later(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = signs.Tally()
    tally.note(queue.DELIVERIES, is_done=True)
    away = redis.Redis(unix_socket_path="/nowhere/at/all.sock")

    with pytest.raises(redis.RedisError):
        tally.tell(away, "host:1", ())
    monkeypatch.setattr(time, "time", lambda: 60_000_000.0)
    tally.tell(queue.redis_client(), "host:1", ())

    monkeypatch.setattr(time, "time", lambda: 60_000_060.0)
    assert signs.read_pace(queue.redis_client(), queue.QUEUES)[queue.DELIVERIES][-1] == 1


def test_a_waiting_job_is_shown_with_its_ids_and_the_age_of_the_oldest(app: Flask) -> None:
    queue.wake_drain(7)

    [job], has_more = board.list_jobs(JobState.WAITING)

    [shown] = [each for each in looked().queues if each.name == queue.DELIVERIES]
    assert (job.name, job.ids, job.queue, has_more) == (queue.DRAIN, (7,), queue.DELIVERIES, False)
    assert shown.waiting == 1
    assert shown.oldest == job.enqueued_at


def test_jobs_come_in_pages_over_all_queues(app: Flask) -> None:
    for number in range(board.PAGE):
        queue.wake_drain(number)
    for number in range(3):
        queue.wake_controls(number)

    first, has_more = board.list_jobs(JobState.WAITING)
    second, has_even_more = board.list_jobs(JobState.WAITING, skip=board.PAGE)

    assert [job.ids[0] for job in first] == list(range(board.PAGE))
    assert [(job.queue, job.ids[0]) for job in second] == [(queue.CONTROLS, n) for n in range(3)]
    assert (has_more, has_even_more) == (True, False)


def test_a_failed_job_is_shown_with_its_exception(app: Flask, work: Callable[[Flask], bool]) -> None:
    job = failed_job(work, app)

    assert (job.state, job.failures) == (JobState.FAILED, 1)
    assert job.error == "KeyError: 'no such queue'"
    assert "Traceback" in job.trace
    assert looked().count(JobState.FAILED) == 1


def test_a_job_that_was_never_there_is_not_found(app: Flask) -> None:
    with pytest.raises(NotFound):
        board.get_job(str(uuid.uuid4()))


def test_while_redis_is_away_the_board_is_the_last_one_and_says_so(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = looked()
    monkeypatch.setattr(queue, "redis_client", lambda: redis.Redis(unix_socket_path="/nowhere/at/all.sock"))

    seen, _, _, away = board.look()

    assert seen == before
    assert away is not None
    assert "at/all.sock" in away.error
    monkeypatch.undo()
    assert board.look().away is None


def test_where_redis_is_looked_for_is_told_without_its_password(make_app: MakeApp) -> None:
    app = make_app(
        REDIS_URL="redis://reader:s3cret@127.0.0.1:1/0", DATABASE_URL="sqlite:////nowhere/at/all.db"
    )

    with app.app_context():
        seen, _, _, away = board.look()

    assert seen is None
    assert away is not None
    assert away.url == "redis://127.0.0.1:1/0"
    assert "s3cret" not in away.error


def looked() -> board.Board:
    """The board while Redis answers."""
    seen, _, _, away = board.look()
    assert seen is not None
    assert away is None
    return seen
