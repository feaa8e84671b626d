"""The page of queues, workers and jobs, on a real Valkey."""

import time
from collections.abc import Callable

import pytest
import redis
import sqlalchemy as sa
from flask import Flask

from app import queue
from app.database import db
from app.jobs import board, signs
from app.jobs.board import JobState
from app.models import AuditEntry
from tests.web.console.conftest import Console
from tests.web.console.lanes import another_workspace, make_lane

#: A job that fails: there is no such queue.
FAILS = "app.queue.queue"


def a_worker(name: str = "host:4121", version: str | None = None) -> None:
    """A worker that gave a sign of life just now, on another host."""
    client = queue.redis_client()
    client.zadd("tidings:workers", {name: time.time()})
    signs.Tally().tell(client, name, (queue.DELIVERIES, queue.CONTROLS))
    if version is not None:
        client.set(f"tidings:worker:{name}", f'["{version}",["deliveries"],8412,1]')


def failed_job(app: Flask, work: Callable[[Flask], bool]) -> str:
    """The id of a job that failed."""
    queue.enqueue(FAILS, "no such queue")  # type: ignore[arg-type]
    work(app)
    return board.list_jobs(JobState.FAILED)[0][0].id


def audit_actions() -> list[str]:
    """What the audit log says, in order."""
    return list(db.session.scalars(sa.select(AuditEntry.action).order_by(AuditEntry.id)))


def test_without_a_worker_the_page_says_how_to_start_one(console: Console) -> None:
    console.sign_in("viewer")

    page = console.page("/admin/jobs")

    assert "No worker is running, so nothing is sent" in page.text
    assert "flask worker" in page.text
    assert "systemctl start tidings.target" in page.text


def test_a_worker_is_shown_with_its_queues_and_a_version_that_differs(console: Console) -> None:
    console.sign_in("viewer")
    a_worker(version="9.9.9")

    page = console.page("/admin/jobs")

    [row] = page.rows("#workers")
    assert row[0] == "host:4121"
    assert row[1] == "deliveries"
    assert row[6] == "8,412"
    assert row[8].startswith("9.9.9 this console:")
    assert "No worker is running" not in page.text


def test_a_queue_is_paused_and_resumed_once_however_often_it_is_posted(console: Console) -> None:
    console.sign_in("admin")
    a_worker()

    first = console.follow(console.post("/admin/jobs/queues/deliveries/pause"))
    second = console.follow(console.post("/admin/jobs/queues/deliveries/pause"))

    assert "deliveries is paused." in first.text
    assert "deliveries was paused already." in second.text
    assert "Redis alone knows of a pause" in second.text
    assert console.user is not None
    assert f"ago by {console.user.email}" in second.rows("#queues")[0][1]
    third = console.follow(console.post("/admin/jobs/queues/deliveries/resume"))
    assert "deliveries goes on." in third.text
    assert audit_actions() == ["queue.pause", "queue.resume"]


def test_who_may_not_act_sees_the_role_that_it_takes(console: Console) -> None:
    console.sign_in("operator")
    a_worker()

    page = console.page("/admin/jobs")
    answer = console.post("/admin/jobs/queues/deliveries/pause")

    assert page.is_disabled("Pause")
    assert "needs the role admin" in page.text
    assert answer.status_code == 403
    assert queue.paused(queue.redis_client()) == {}


def test_a_job_is_shown_with_its_connection_and_no_arguments(console: Console, app: Flask) -> None:
    console.sign_in("viewer")
    lane = make_lane(console.workspace)
    queue.wake_drain(lane.connection.id)

    page = console.page("/admin/jobs", state="waiting")

    [row] = page.rows("#job-list")
    assert row[0] == "Send events"
    assert row[1] == f"{lane.name}: deliveries"
    assert page.link(lane.name) == f"/w/default/deliveries?connection={lane.connection.public_id}"


def test_a_failed_job_shows_its_exception_and_runs_again_once(
    console: Console, app: Flask, work: Callable[[Flask], bool]
) -> None:
    console.sign_in("admin")
    a_worker()
    job_id = failed_job(app, work)

    page = console.page("/admin/jobs", state="failed")
    first = console.follow(console.post(f"/admin/jobs/{job_id}/run"))
    second = console.follow(console.post(f"/admin/jobs/{job_id}/run"))

    assert "KeyError: 'no such queue'" in page.rows("#job-list")[0][7]
    assert "is on its queue again" in first.text
    assert "nothing was done" in second.text
    assert queue.length(queue.MAINTENANCE) == 1
    assert audit_actions() == ["job.run"]


def test_removing_a_job_asks_first_and_does_it_once(
    console: Console, app: Flask, work: Callable[[Flask], bool]
) -> None:
    console.sign_in("admin")
    job_id = failed_job(app, work)
    path = f"/admin/jobs/{job_id}/remove"

    asked = console.page(path)
    done = console.follow(console.post(path, asked.fields()))
    again = console.follow(console.post(path, asked.fields()))

    assert asked.title.startswith("Remove the job")
    assert "is removed" in done.text
    assert "There is no such job any more" in again.text
    assert board.list_jobs(JobState.FAILED)[0] == []
    assert audit_actions() == ["job.remove"]


def test_all_failed_jobs_of_a_queue_run_again(
    console: Console, app: Flask, work: Callable[[Flask], bool]
) -> None:
    console.sign_in("admin")
    failed_job(app, work)

    page = console.follow(console.post("/admin/jobs/queues/maintenance/run-failed"))

    assert "1 failed jobs of maintenance run again." in page.text
    assert queue.length(queue.MAINTENANCE) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin/jobs?state=nonsense", 400),
        ("/admin/jobs?skip=-7", 200),
        ("/admin/jobs?skip=ten", 200),
        ("/admin/jobs?state=failed&skip=99999999999999999999", 200),
        ("/admin/jobs/0b9c1f4e-0000-4000-8000-000000000404/remove", 404),
        ("/admin/jobs/not-an-id/remove", 404),
    ],
)
def test_addresses_that_make_no_sense_are_answered_in_words(console: Console, path: str, status: int) -> None:
    console.sign_in("admin")

    page = console.page(path)

    assert page.status == status


def test_a_queue_that_is_none_of_ours_is_not_found(console: Console) -> None:
    console.sign_in("admin")

    answer = console.post("/admin/jobs/queues/rq:workers/pause")

    assert answer.status_code == 404


def test_while_redis_is_away_the_page_shows_what_waits_in_the_database(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.sign_in("admin")
    lane = make_lane(console.workspace)
    lane.publish(3)
    a_worker()
    console.page("/admin/jobs")
    monkeypatch.setattr(queue, "redis_client", lambda: redis.Redis(unix_socket_path="/nowhere/at/all.sock"))

    page = console.page("/admin/jobs")
    posted = console.post("/admin/jobs/queues/deliveries/pause")

    assert "Redis does not answer. Nothing is lost" in page.text
    assert page.rows("#backlog")[0][:3] == [f"{lane.name} default", "active", "3"]
    assert page.rows("#workers")[0][2] == "silent"
    assert page.is_disabled("Pause")
    assert posted.status_code == 503


def test_what_waits_for_other_workspaces_is_not_shown(console: Console) -> None:
    console.sign_in("owner")
    other = make_lane(another_workspace(), "Others")
    other.publish(1)
    queue.wake_drain(other.connection.id)

    page = console.page("/admin/jobs")

    assert other.name not in page.text
    assert page.rows("#job-list")[0][1] == "another workspace"
    assert "Nothing waits." in page.text


def test_hostile_text_in_a_peers_name_stays_text(console: Console) -> None:
    console.sign_in("viewer")
    lane = make_lane(console.workspace, "<img src=x onerror=alert(1)>")
    lane.publish(1)

    page = console.page("/admin/jobs")

    assert page.all("main img") == []
    assert "<img src=x onerror=alert(1)>" in page.text
