"""Dead letters by peer and reason."""

import pytest
from flask import Flask

from app.access import workspaces
from app.reports import dead_list
from tests.web.console.lanes import Lane, another_workspace, make_lane


@pytest.fixture
def lane(app: Flask) -> Lane:
    """A connection of the default workspace."""
    return make_lane(workspaces.ensure_default())


def test_groups_tell_how_many_of_which_types_and_when(lane: Lane) -> None:
    other = make_lane(lane.workspace, "Cobalt Works", "order.*")
    lane.change(lane.kill(2, event_type="task.created"), ended_at=1_000)
    lane.change(lane.kill(1, event_type="task.moved", detail="the last word"), ended_at=3_000)
    lane.kill(1, error="expired")
    other.kill(1, error="expired", event_type="order.placed")

    found = dead_list.group_dead(lane.workspace.id)

    first = found.groups[0]
    assert (first.receiver.name, first.error, first.count) == (lane.name, "payload_invalid", 3)
    assert (first.first_at, first.last_at, first.detail) == (1_000, 3_000, "the last word")
    assert sorted(first.types) == ["task.created", "task.moved"]
    assert [(group.receiver.name, group.error) for group in found.groups[1:]] == [
        (lane.name, "expired"),
        ("Cobalt Works", "expired"),
    ]
    assert (found.total, found.is_cut_short) == (5, False)


def test_dead_letters_of_others_are_left_out(lane: Lane) -> None:
    make_lane(another_workspace()).kill(2)

    assert dead_list.group_dead(lane.workspace.id).groups == []


def test_an_unknown_error_gets_advice_too() -> None:
    assert dead_list.advice("something_new") == dead_list.advice("another_one") != ""


def test_only_the_newest_are_grouped(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_list, "BOUND", 2)
    lane.kill(1, error="expired")
    lane.kill(2)

    found = dead_list.group_dead(lane.workspace.id)

    assert [(group.error, group.count) for group in found.groups] == [("payload_invalid", 2)]
    assert found.is_cut_short
