"""Calls about one connection that need no other instance."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.database import db
from app.federation import controls
from app.models import ControlOut
from tests.exchange import Scene
from tests.web.api.conftest import Caller


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"fromSequence": 5, "toSequence": 3}, "/toSequence"),
        ({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}, "/until"),
    ],
)
def test_a_replay_of_a_range_that_ends_before_it_begins_is_refused_and_not_sent(
    caller: Caller, scene: Scene, body: dict[str, Any], pointer: str
) -> None:
    count = sa.select(sa.func.count()).select_from(ControlOut)
    before = db.session.scalar(count)

    answer = caller.post(f"/connections/{scene.connection.public_id}/replay", body)

    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.get_json()["errors"]] == [pointer]
    assert db.session.scalar(count) == before


def test_the_answer_to_a_replay_says_what_was_asked(
    caller: Caller, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "WAIT_S", 0.0)
    body = {
        "fromSequence": 3,
        "toSequence": 5,
        "since": "2026-01-01T00:00:00Z",
        "eventTypes": ["task.*"],
    }

    answer = caller.post(f"/connections/{scene.connection.public_id}/replay", body)

    shown = answer.get_json()
    assert answer.status_code == 202
    assert {name: shown[name] for name in ("fromSequence", "toSequence", "until", "eventTypes")} == {
        "fromSequence": 3,
        "toSequence": 5,
        "until": None,
        "eventTypes": ["task.*"],
    }
    assert shown["since"].startswith("2026-01-01T00:00:00")
    assert (shown["connectionId"], shown["direction"]) == (scene.connection.public_id, "incoming")
    assert (shown["status"], shown["count"], shown["finishedAt"]) == ("requested", 0, None)
    assert shown["requestedBy"].startswith("token tdg_")


def test_a_replay_without_a_body_asks_for_everything(
    caller: Caller, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "WAIT_S", 0.0)

    answer = caller.post(f"/connections/{scene.connection.public_id}/replay", {})

    assert answer.status_code == 202
    assert answer.get_json()["fromSequence"] is None
