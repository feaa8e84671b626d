"""Wake-ups, signals, nonces and signs of life, on a real Valkey, and what is left of them without one."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
from flask import Flask
from rq.job import Job

from app import create_app, embedded, queue
from app.config import Config
from app.protocol.errors import Overloaded
from app.protocol.http_signature import NONCE_TTL_S
from tests.conftest import MakeApp
from tests.engines import until


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app; its database is not looked at."""
    return make_app(DATABASE_URL="sqlite:////nowhere/at/all.db")


@pytest.fixture
def engine() -> str:
    """The queue is the same whatever the database is."""
    return "sqlite"


@pytest.fixture
def without_redis(tmp_path: Path) -> Flask:
    """An app whose Redis is not there."""
    return create_app(
        Config.from_env({"DATA_DIR": str(tmp_path), "REDIS_URL": f"unix://{tmp_path}/none.sock"})
    )


def waiting(name: str) -> list[Job]:
    return list(queue.queue(name).jobs)


def test_a_drain_is_one_job_until_it_starts(app: Flask) -> None:
    with app.app_context():
        queue.wake_drain(7)
        queue.wake_drain(7)
        queue.wake_drain(8)

        jobs = waiting(queue.DELIVERIES)

        assert [(job.func_name, job.args) for job in jobs] == [(queue.DRAIN, [7]), (queue.DRAIN, [8])]


def test_a_wake_up_after_the_start_is_a_new_job(app: Flask) -> None:
    with app.app_context():
        queue.wake_drain(7)
        queue.drain_started(7)
        queue.wake_drain(7)

        assert len(waiting(queue.DELIVERIES)) == 2


def test_connections_that_fail_have_a_queue_of_their_own(app: Flask) -> None:
    with app.app_context():
        queue.wake_drain(7, failing=True)

        assert [job.args for job in waiting(queue.DELIVERIES_FAILING)] == [[7]]
        assert waiting(queue.DELIVERIES) == []


def test_controls_and_drains_of_one_connection_wake_apart(app: Flask) -> None:
    with app.app_context():
        queue.wake_drain(7)
        queue.wake_controls(7)
        queue.controls_started(7)
        queue.wake_controls(7)
        queue.wake_drain(7)

        assert len(waiting(queue.CONTROLS)) == 2
        assert len(waiting(queue.DELIVERIES)) == 1


def test_a_job_keeps_no_result_and_a_failure_for_hours(app: Flask) -> None:
    with app.app_context():
        assert queue.enqueue("app.jobs.maintenance.check_request", 3)

        [job] = waiting(queue.STRANGERS)

        assert (job.timeout, job.result_ttl, job.failure_ttl) == (60, 0, 6 * 3600)


def test_a_signal_ends_the_wait_for_it(app: Flask) -> None:
    def send() -> None:
        with app.app_context():
            queue.signal("answer:1")

    with app.app_context():
        thread = threading.Thread(target=send)
        thread.start()

        assert queue.wait_for("answer:1", 5)
        thread.join()


def test_a_signal_before_the_wait_is_not_lost(app: Flask) -> None:
    with app.app_context():
        queue.signal("answer:1")

        assert queue.wait_for("answer:1", 0.5)
        assert not queue.wait_for("answer:1", 0.01)


def test_a_nonce_is_new_once_for_each_instance(app: Flask) -> None:
    with app.app_context():
        answers = [queue.first_use_of_nonce(instance, "n" * 16) for instance in ("a", "a", "b")]

        assert answers == [True, False, True]
        assert 600 < queue.redis_client().ttl(f"tidings:nonce:a:{'n' * 16}") <= NONCE_TTL_S


def test_a_worker_is_alive_from_its_first_sign_to_its_farewell(app: Flask) -> None:
    with app.app_context():
        queue.beat()
        beating = queue.live_workers()
        queue.farewell()

        assert beating == [queue.worker_name()]
        assert queue.live_workers() == []


def test_a_worker_of_this_host_whose_process_is_gone_is_dead(app: Flask) -> None:
    pid = os.fork()
    if pid == 0:
        with app.app_context():
            queue.beat()
        os._exit(0)
    os.waitpid(pid, 0)

    with app.app_context():
        assert queue.redis_client().zcard("tidings:workers") == 1
        assert queue.live_workers() == []


def test_without_redis_wake_ups_are_forgone_and_waits_end_at_once(without_redis: Flask) -> None:
    with without_redis.app_context():
        queue.wake_drain(7)
        queue.wake_controls(7)
        queue.signal("answer:1")

        assert not queue.enqueue("app.jobs.maintenance.check_request", 3)
        assert not queue.wait_for("answer:1", 30)
        assert not queue.is_reachable()


def test_without_redis_no_nonce_is_believed(without_redis: Flask) -> None:
    with without_redis.app_context(), pytest.raises(Overloaded):
        queue.first_use_of_nonce("a", "n" * 16)


def test_a_redis_that_comes_back_is_used_again(tmp_path: Path) -> None:
    app = create_app(Config.from_env({"DATA_DIR": str(tmp_path)}))
    with app.app_context():
        assert not queue.enqueue("app.jobs.maintenance.check_request", 3)

        server = subprocess.Popen(embedded.command(tmp_path))
        until(lambda: queue.enqueue("app.jobs.maintenance.check_request", 3), "the queue")

        assert len(waiting(queue.STRANGERS)) == 1
        queue.redis_client().close()
    server.kill()
    server.wait()


def test_the_embedded_server_is_found_by_the_data_folder(tmp_path: Path) -> None:
    config = Config.from_env({"DATA_DIR": str(tmp_path)})

    assert queue.redis_url(config) == f"unix://{tmp_path}/valkey/valkey.sock"


def test_sentinel_is_asked_for_the_master(tmp_path: Path) -> None:
    config = Config.from_env(
        {"DATA_DIR": str(tmp_path), "REDIS_URL": "sentinel://:p%40ss@a.example,b.example:7/main/3"}
    )

    client = queue.connect(config)

    options = client.connection_pool.connection_kwargs
    assert (options["db"], options["password"]) == (3, "p@ss")
    assert client.connection_pool.service_name == "main"
    sentinels = client.connection_pool.sentinel_manager.sentinels
    assert [s.connection_pool.connection_kwargs["port"] for s in sentinels] == [26379, 7]


def test_a_redis_that_is_away_is_spoken_of_once_a_minute(
    without_redis: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_PAUSE_S", 0.0)

    with without_redis.app_context():
        for number in range(5):
            queue.signal(f"signal {number}")
        with pytest.raises(Overloaded):
            queue.first_use_of_nonce("an instance", "nonce")

    assert [record.message for record in caplog.records] == ["queue.signal_failed"]
