"""What the peer is told of numbers that will not come."""

import orjson
import pytest
import sqlalchemy as sa

from app.database import db, transaction
from app.federation import streams
from app.models import ControlOut, Direction
from app.outbox import deliver, gaps
from app.protocol.control import MAX_GAP, GapReason


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([], []),
        ([1, 2, 3, 7], [(1, 3), (7, 7)]),
        ([5], [(5, 5)]),
        (range(1, MAX_GAP + 2), [(1, MAX_GAP), (MAX_GAP + 1, MAX_GAP + 1)]),
    ],
)
def test_numbers_are_told_as_ranges_of_a_million_at_most(numbers, expected):
    assert gaps.runs(numbers) == expected


def test_what_is_erased_before_it_came_is_told_with_its_epoch(scene, publish):
    publish(3)
    deliver.drain(scene.connection.id)
    stream = streams.newest(scene.connection.id, Direction.OUTGOING)

    with transaction():
        gaps.tell(scene.connection.id, [(stream.id, 3), (stream.id, 1), (stream.id, 2)], GapReason.ERASED)

    [body] = db.session.scalars(sa.select(ControlOut.body).where(ControlOut.type == "gap"))
    assert orjson.loads(body)["payload"] == {
        "streamEpoch": stream.epoch,
        "fromSequence": 1,
        "toSequence": 3,
        "reason": "erased",
    }
