"""Payloads in one line, and text that could mislead whoever reads it."""

import pytest

from app.reports.words import SUMMARY_LENGTH, summary, visible


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, ""),
        ("no object", ""),
        ({"n": 1}, "n 1"),
        (
            {"order": {"id": "A-1", "lines": [1, 2]}, "paid": True},
            'order.id "A-1", order.lines [2], paid true',
        ),
        ({"a": None, "b": {}, "c": [], "d": 1.5, "e": 0}, "a null, b {}, c [0], d 1.5"),
        ({"a": {"b": {"c": 1}}}, "a.b {…}"),
        ({"turned": "a\u202eb"}, 'turned "a\\u202eb"'),
        ({"two": "a\nb"}, 'two "a\\nb"'),
    ],
)
def test_a_summary_shows_the_first_members(payload: object, words: str) -> None:
    assert summary(payload) == words


def test_a_summary_is_short_whatever_came() -> None:
    long = {"k" * 60_000: "v" * 60_000, "x": "y" * 60_000}

    assert len(summary(long)) <= SUMMARY_LENGTH


def test_what_steers_the_display_is_written_out() -> None:
    assert visible("plain") == "plain"
    assert visible("Łódź\n\ttext") == "Łódź\n\ttext"
    assert visible("a\u202eb\u200bc\x1b[0m\u2028") == "a\\u202eb\\u200bc\\u001b[0m\\u2028"
    assert visible("\U000e0001") == "\\U000e0001"
