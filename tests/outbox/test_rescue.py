"""What nobody looks after is found: dead drains, lost wake-ups, due retries."""

import os
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from app import clock, queue
from app.database import db, transaction
from app.federation.leases import new_owner
from app.federation.lifecycle import lock
from app.models import Connection, Delivery
from app.outbox import lease, rescue
from app.outbox.deliver import drain
from app.protocol.states import ConnectionStatus, DeliveryState
from tests.exchange import problem_answer

DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def nothing_is_queued(scene):
    """Wake-ups are lost at the beginning of each test."""
    queue.redis_client().flushdb()


def jobs(name=queue.DELIVERIES):
    return [job.args for job in queue.queue(name).jobs]


def owner_that_died() -> str:
    """The name of a lease in a process of this host that has ended."""
    script = "from app.federation.leases import new_owner; print(new_owner())"
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_lease_of_a_process_that_died_is_freed_at_once(scene, publish, rows):
    publish(2)
    with transaction():
        lease.acquire(scene.connection.id, owner_that_died())
        db.session.execute(sa.update(Delivery).values(state=DeliveryState.SENDING))
    queue.redis_client().flushdb()

    woken = rescue.sweep()

    assert woken == 1
    assert jobs() == [[scene.connection.id]]
    assert scene.reload().drain_owner is None
    assert {row.state for row in rows()} == {DeliveryState.PENDING}


def test_the_lease_of_a_process_that_lives_is_left_alone(scene, publish):
    publish(1)
    queue.redis_client().flushdb()
    owner = new_owner()
    with transaction():
        lease.acquire(scene.connection.id, owner)

    woken = rescue.sweep()

    assert woken == 0
    assert scene.reload().drain_owner == owner


def test_a_pid_that_another_process_has_now_is_no_sign_of_life(scene):
    host, _, _, token = new_owner().rsplit(":", 3)
    with transaction():
        lease.acquire(scene.connection.id, f"{host}:{os.getpid()}:1:{token}")

    rescue.sweep()

    assert scene.reload().drain_owner is None


def test_a_lease_from_another_host_ends_with_its_time(scene, publish):
    publish(1)
    queue.redis_client().flushdb()
    with clock.frozen_at(clock.now_ms()) as now:
        with transaction():
            lease.acquire(scene.connection.id, "elsewhere:1:1:x")
        before = rescue.sweep()
        now.advance(lease.LEASE_MS + 1)

        after = rescue.sweep()

    assert (before, after) == (0, 1)


def test_a_lost_wake_up_is_found(scene, publish):
    publish(1)
    queue.redis_client().flushdb()

    rescue.sweep()

    assert jobs() == [[scene.connection.id]]


def test_a_retry_is_woken_when_it_is_due_and_apart_from_the_others(scene, publish):
    publish(1)
    scene.peer.answer = lambda batch: problem_answer(500, "internal_error")
    with clock.frozen_at(clock.now_ms()) as now:
        drain(scene.connection.id)
        queue.redis_client().flushdb()
        before = rescue.sweep()
        now.advance(6_001)

        after = rescue.sweep()

    assert (before, after) == (0, 1)
    assert jobs() == []
    assert jobs(queue.DELIVERIES_FAILING) == [[scene.connection.id]]


def test_deliveries_that_are_left_in_sending_are_found(scene, publish, rows):
    publish(1)
    queue.redis_client().flushdb()
    with transaction():
        db.session.execute(sa.update(Delivery).values(state=DeliveryState.SENDING))

    rescue.sweep()

    assert jobs() == [[scene.connection.id]]


def test_held_connections_are_left_alone(scene, publish):
    publish(1)
    queue.redis_client().flushdb()
    with transaction():
        db.session.execute(sa.update(Connection).values(status=ConnectionStatus.SUSPENDED))

    assert rescue.sweep() == 0


def test_a_sweep_without_redis_still_frees_leases(scene, publish, monkeypatch):
    publish(1)
    with transaction():
        lease.acquire(scene.connection.id, owner_that_died())

    with monkeypatch.context() as without:
        without.setattr(queue, "redis_client", _away)
        rescue.sweep()

    assert scene.reload().drain_owner is None


def _away():
    raise queue.redis.ConnectionError("away")


def test_what_is_published_while_the_last_answer_is_recorded_is_not_forgotten(scene, publish, rows):
    """The publisher sees the lease and wakes nobody; the drain looks again."""
    publish(1)

    def publish_meanwhile(batch):
        scene.peer.answer = None
        publish(1)
        return scene.peer.accept(batch)

    scene.peer.answer = publish_meanwhile

    drain(scene.connection.id)

    assert {row.state for row in rows()} == {DeliveryState.DELIVERED}


def test_a_drain_that_lost_its_lease_still_records_what_arrived(scene, publish, rows):
    publish(1)

    def lose(batch):
        with transaction():
            db.session.execute(sa.update(Connection).values(drain_owner="elsewhere:1:1:x"))
        return scene.peer.accept(batch)

    scene.peer.answer = lose

    drain(scene.connection.id)

    assert [row.state for row in rows()] == [DeliveryState.DELIVERED]
    assert scene.reload().drain_owner == "elsewhere:1:1:x"


def test_a_drain_that_lost_its_lease_records_no_failure(scene, publish, rows):
    publish(1)

    def lose(batch):
        with transaction():
            db.session.execute(sa.update(Connection).values(drain_owner="elsewhere:1:1:x"))
        return problem_answer(500, "internal_error")

    scene.peer.answer = lose

    drain(scene.connection.id)

    assert scene.reload().failures == 0


def test_many_drains_at_once_send_everything_once_and_in_order(scene, publish, app):
    with transaction():
        scene.connection.peer.max_batch_events = 7
    for _ in range(6):
        publish(10)

    connection_id = scene.connection.id

    def run():
        with app.app_context():
            drain(connection_id)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drain(connection_id)

    sequences = [number for batch in scene.peer.sent() for number in batch]
    assert sequences == list(range(1, 61))


@pytest.mark.parametrize(
    "held",
    [
        {"hold_code": "access_denied"},
        {"key_review": True},
        {"paused_outgoing": True},
        {"status": ConnectionStatus.SUSPENDED, "suspended_by_peer": True},
        {"failures": 9, "network_failures": 9, "breaker_opened_at": 1},
    ],
    ids=lambda held: next(iter(held)),
)
def test_age_ends_what_is_held_too(scene, publish, rows, held):
    with clock.frozen_at(clock.now_ms()) as now:
        publish(2)
        now.advance(6 * DAY_MS)
        publish(1)
        now.advance(DAY_MS + 1)
        with transaction():
            connection = lock(scene.connection.id)
            for name, value in held.items():
                setattr(connection, name, value)
            if "failures" in held:
                connection.retry_at = now.now_ms + 3_600_000

        rescue.sweep()

    assert [(row.state.value, row.error_code) for row in rows()] == [
        ("dead", "expired"),
        ("dead", "expired"),
        ("pending", None),
    ]


def test_a_wait_from_a_clock_that_was_ahead_is_over(scene, publish):
    publish(1)
    queue.redis_client().flushdb()
    with transaction():
        db.session.execute(sa.update(Connection).values(retry_at=clock.now_ms() + DAY_MS, failures=1))

    assert rescue.sweep() == 1


def test_a_lease_from_a_clock_that_was_ahead_is_freed(scene, publish):
    publish(1)
    queue.redis_client().flushdb()
    with clock.frozen_at(clock.now_ms() + DAY_MS), transaction():
        lease.acquire(scene.connection.id, "elsewhere:1:1:x")

    assert rescue.sweep() == 1
    assert scene.reload().drain_owner is None


def test_a_job_that_went_down_with_its_worker_is_made_again_at_once(scene, publish):
    publish(1)
    rescue.sweep()
    # Taken by a worker that dies before it lowers the flag.
    queue.queue(queue.DELIVERIES).empty()

    rescue.sweep()

    assert jobs() == [[scene.connection.id]]


def test_a_job_that_waits_is_not_made_twice(scene, publish):
    publish(1)
    rescue.sweep()

    rescue.sweep()

    assert jobs() == [[scene.connection.id]]
