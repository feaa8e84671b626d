"""Calls about one connection that are refused before anything is sent."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.database import db
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
