"""Jobs in words, and what waits in the database."""

import pytest
from flask import Flask

from app import queue
from app.access import workspaces
from app.clock import now_ms
from app.jobs import maintenance, schedule
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reports import jobs
from app.reports.jobs import Call
from tests.web.console.lanes import Lane, another_workspace, make_lane

DRAIN = "app.jobs.delivery.drain"


@pytest.fixture
def lane(app: Flask) -> Lane:
    """A connection of the default workspace."""
    return make_lane(workspaces.ensure_default())


def test_what_waits_is_counted_by_connection_the_longest_waiting_first(lane: Lane) -> None:
    other = make_lane(lane.workspace, "Cobalt Works", "order.*")
    first, later, sending, _ = lane.publish(4)
    lane.change([first], created_at=1_000)
    lane.change([later], next_attempt_at=now_ms() + 60_000)
    lane.change([sending], state=DeliveryState.SENDING)
    other.publish(2, "order.placed")
    other.set(status=ConnectionStatus.SUSPENDED)
    quiet = make_lane(lane.workspace, "Quiet", "nothing")

    mine, theirs = jobs.backlog([lane.workspace.id])

    assert (mine.receiver.name, mine.due, mine.later, mine.held, mine.sending) == (lane.name, 4, 1, 0, 1)
    assert mine.oldest == 1_000
    assert (theirs.receiver.name, theirs.due, theirs.later, theirs.held) == ("Cobalt Works", 0, 0, 2)
    assert quiet.name not in (mine.receiver.name, theirs.receiver.name)


def test_what_waits_with_a_failing_connection_is_due_later(lane: Lane) -> None:
    lane.publish(3)
    lane.set(failures=2, retry_at=now_ms() + 60_000)

    [row] = jobs.backlog([lane.workspace.id])

    assert (row.due, row.later, row.receiver.condition) == (0, 3, "failing")


def test_counts_end_at_their_cap(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "COUNT_CAP", 2)
    lane.publish(3)

    [row] = jobs.backlog([lane.workspace.id])

    assert row.due == 2


def test_what_waits_in_other_workspaces_is_not_told(lane: Lane) -> None:
    make_lane(another_workspace()).publish(1)

    assert jobs.backlog([lane.workspace.id]) == []
    assert jobs.backlog([]) == []


def test_a_job_is_named_with_the_connection_or_peer_that_it_is_for(lane: Lane) -> None:
    drain = Call(DRAIN, (lane.connection.id,))
    assert lane.connection.peer_id is not None
    read = Call("app.jobs.maintenance.refresh_peer", (lane.connection.peer_id,))
    sweep = Call("app.jobs.maintenance.sweep", ())
    unknown = Call("somebody.elses.job", (7,))

    words = jobs.in_words([lane.workspace.id], [drain, read, sweep, unknown])

    assert words[drain].title == "Send events"
    assert words[drain].receiver is not None
    assert words[drain].receiver.name == lane.name
    assert words[read].receiver == words[drain].receiver
    assert (words[sweep].receiver, words[sweep].is_of_others) == (None, False)
    assert (words[unknown].title, words[unknown].receiver) == ("somebody.elses.job", None)


def test_every_job_of_ours_has_words() -> None:
    constants = [value for value in vars(queue).values() if type(value) is str]
    queued = {value for value in constants if value.startswith("app.jobs.")}
    names = queued | {job.name for job in schedule.PERIODIC} | {maintenance.REFRESH_PEER}

    assert names <= set(jobs.KINDS)
    assert len(names) >= 8


def test_a_job_for_another_workspace_does_not_say_for_whom(lane: Lane) -> None:
    other = make_lane(another_workspace())
    call = Call(DRAIN, (other.connection.id,))

    words = jobs.in_words([lane.workspace.id], [call])

    assert (words[call].receiver, words[call].is_of_others) == (None, True)
