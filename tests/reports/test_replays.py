"""Replays as they are listed: newest first, by workspace, direction and status, with their progress."""

import uuid
from typing import Any

import pytest
from flask import Flask

from app.clock import now_ms
from app.database import db, transaction
from app.errors import InvalidCursor
from app.models import Direction, Replay, ReplayState
from app.protocol.errors import NotFound
from app.reports.replays import get_replay, list_replays
from tests.exchange import Scene, make_scene


@pytest.fixture
def scene(app: Flask) -> Scene:
    return make_scene()


def add(scene: Scene, **columns: Any) -> str:
    replay_id = str(uuid.uuid4())
    values = {
        "direction": Direction.INCOMING,
        "state": ReplayState.RUNNING,
        "requested_by": "somebody",
        "created_at": now_ms(),
        "updated_at": now_ms(),
    } | columns
    with transaction():
        db.session.add(
            Replay(
                workspace_id=scene.workspace.id,
                connection_id=scene.connection.id,
                replay_id=replay_id,
                **values,
            )
        )
    return replay_id


def test_replays_are_listed_newest_first_in_pages(scene: Scene) -> None:
    ids = [add(scene) for _ in range(3)]

    first = list_replays(scene.workspace.id, limit=2)
    second = list_replays(scene.workspace.id, limit=2, cursor=first.next_cursor)

    assert [row["replayId"] for row in first.data + second.data] == ids[::-1]
    assert (first.has_more, second.has_more, second.next_cursor) == (True, False, None)


def test_a_list_can_be_narrowed_and_shows_no_other_workspace(scene: Scene) -> None:
    asked = add(scene)
    served = add(scene, direction=Direction.OUTGOING, state=ReplayState.COMPLETE)
    other = make_scene()
    add(other)

    def ids(**chosen: str) -> list[str]:
        return [row["replayId"] for row in list_replays(scene.workspace.id, **chosen).data]

    assert ids(direction="outgoing") == [served]
    assert ids(status="running") == [asked]
    assert ids(connection_id=scene.connection.public_id) == [served, asked]
    assert ids(connection_id=other.connection.public_id) == []
    with pytest.raises(NotFound):
        get_replay(other.workspace.id, asked)


def test_a_cursor_of_another_list_is_refused(scene: Scene) -> None:
    for _ in range(2):
        add(scene)
    cursor = list_replays(scene.workspace.id, limit=1).next_cursor

    with pytest.raises(InvalidCursor):
        list_replays(scene.workspace.id, limit=1, cursor=cursor, status="running")


@pytest.mark.parametrize(
    ("columns", "progress"),
    [
        ({"state": ReplayState.COMPLETE}, 1.0),
        ({"from_sequence": 1, "to_sequence": 10, "count": 5}, 0.5),
        ({"from_sequence": 1, "to_sequence": 10, "since": 5, "count": 5}, None),
        (
            {"direction": Direction.OUTGOING, "first_sequence": 11, "last_sequence": 20, "done_to": 12},
            0.2,
        ),
    ],
)
def test_progress_is_told_where_it_is_known(
    scene: Scene, columns: dict[str, Any], progress: float | None
) -> None:
    replay_id = add(scene, **columns)

    assert get_replay(scene.workspace.id, replay_id)["progress"] == progress
