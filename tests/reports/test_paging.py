"""Cursors: opaque, signed, and bound to one list."""

import pytest
from flask import Flask

from app.errors import InvalidCursor, InvalidRequest
from app.reports.paging import ListKey, check_limit, cut, read_cursor, write_cursor

KEY = ListKey("events", 1, {"direction": "incoming", "status": None})


def test_a_cursor_carries_its_place(app: Flask) -> None:
    cursor = write_cursor(KEY, [7, 2**60])

    assert read_cursor(KEY, cursor, 2) == (7, 2**60)
    assert read_cursor(KEY, None) is None


def test_a_filter_that_is_not_given_does_not_count(app: Flask) -> None:
    cursor = write_cursor(KEY, [7])

    assert read_cursor(ListKey("events", 1, {"direction": "incoming"}), cursor) == (7,)


@pytest.mark.parametrize(
    "other",
    [
        ListKey("deliveries", 1, KEY.filters),
        ListKey("events", 2, KEY.filters),
        ListKey("events", 1, {"direction": "outgoing"}),
        ListKey("events", 1, {}),
    ],
)
def test_a_cursor_means_nothing_elsewhere(app: Flask, other: ListKey) -> None:
    cursor = write_cursor(KEY, [7])

    with pytest.raises(InvalidCursor):
        read_cursor(other, cursor)


@pytest.mark.parametrize("text", ["", "a", "====", "ünicode", "AAAA", "A" * 400])
def test_made_up_text_is_no_cursor(app: Flask, text: str) -> None:
    with pytest.raises(InvalidCursor):
        read_cursor(KEY, text)


def test_each_changed_character_is_noticed(app: Flask) -> None:
    cursor = write_cursor(KEY, [7])
    changed = [
        cursor[:n] + ("A" if cursor[n] != "A" else "B") + cursor[n + 1 :] for n in range(len(cursor) - 1)
    ]

    for text in changed:
        with pytest.raises(InvalidCursor):
            read_cursor(KEY, text)


def test_one_row_more_than_asked_for_tells_that_there_is_more() -> None:
    assert cut([1, 2, 3], 2) == ([1, 2], True)
    assert cut([1, 2], 2) == ([1, 2], False)


@pytest.mark.parametrize("limit", [0, 201, -1])
def test_a_limit_outside_1_to_200_is_refused(limit: int) -> None:
    with pytest.raises(InvalidRequest):
        check_limit(limit)
