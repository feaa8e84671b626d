"""The proof of the drills finds what it is there to find."""

import json
from typing import cast

import pytest

from drills.drill import Tally
from drills.proof import Book, Stored, Subscriber, compare

ACCEPTED = ["m-0", "m-1", "m-2", "m-3"]


def body(message_id: str, **other: object) -> str:
    return json.dumps({"keyId": "k", "messageId": message_id, "payload": {}} | other)


def stored(*message_ids: str, **other: object) -> list[Stored]:
    return [Stored(name, body(name, **other), 1, number) for number, name in enumerate(message_ids, 1)]


class Shelf:
    """A book with these events in it."""

    def __init__(self, rows: list[Stored]) -> None:
        self.rows = rows

    def incoming(self, _event_type: str, _connection_id: str) -> list[Stored]:
        return self.rows


def found(*books: list[Stored], by_number: bool = False) -> Tally:
    subscribers = [Subscriber(cast(Book, Shelf(rows)), "c") for rows in books]
    kept = {name: body(name) for name in ACCEPTED}
    return compare("drill.x", ACCEPTED, kept, subscribers, by_number=by_number)


@pytest.mark.parametrize(
    "rows, expected",
    [
        (stored(*ACCEPTED), Tally(accepted=4)),
        (stored(*ACCEPTED, keyId="another"), Tally(accepted=4)),
        (stored("m-0", "m-1", "m-3"), Tally(accepted=4, lost=1)),
        (stored("m-0", "m-1", "m-2") + stored("m-3", payload={"n": 1}), Tally(accepted=4, lost=1)),
        (stored(*ACCEPTED, "m-3"), Tally(accepted=4, doubled=1)),
        (stored(*ACCEPTED, "m-never-accepted"), Tally(accepted=4, doubled=1)),
        (stored("m-0", "m-2", "m-1", "m-3"), Tally(accepted=4, out_of_order=1)),
        ([], Tally(accepted=4, lost=4)),
    ],
)
def test_what_is_stored_is_held_against_what_was_accepted(rows: list[Stored], expected: Tally) -> None:
    tally = found(rows)

    assert tally == expected
    assert tally.is_clean == (expected == Tally(accepted=4))


def test_every_subscriber_has_to_have_everything() -> None:
    tally = found(stored(*ACCEPTED), stored("m-0", "m-1"))

    assert tally == Tally(accepted=8, lost=2)


def test_what_was_stored_later_under_its_own_number_is_in_order_by_number_alone() -> None:
    first, second, third, fourth = stored(*ACCEPTED)
    repeated_later = [first, third, fourth, second]

    assert found(repeated_later).out_of_order == 1
    assert found(repeated_later, by_number=True).is_clean
