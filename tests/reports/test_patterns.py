"""Patterns for people: where one is wrong, what it covers, and how it stands to others."""

import pytest

from app.protocol.event_types import is_pattern
from app.reports.patterns import Overlap, by_first_segment, is_broad, meaning, mistake_in, overlaps


@pytest.mark.parametrize(
    ("text", "at", "length", "words"),
    [
        ("", 0, 1, "Name an event type"),
        ("order.**.placed", 6, 2, "only at the end"),
        ("order.*.placed", 6, 1, "only at the end"),
        ("*", 0, 1, "needs a segment before it"),
        ("task*", 4, 1, "A star is a segment of its own"),
        ("task.x**", 6, 2, "A star is a segment of its own"),
        ("task.***", 5, 3, "A star is a segment of its own"),
        ("task..made", 5, 1, "is missing"),
        (".task", 0, 1, "is missing"),
        ("task.", 4, 1, "is missing"),
        ("task made", 4, 1, "no spaces"),
        ("Task.made", 0, 1, "small letters: t"),
        ("task.mäde", 6, 1, "characters a-z"),
        ("a.b.c.d.e.f.g.h.i", 16, 1, "at most 8 segments"),
        ("x" * 65, 0, 65, "at most 64"),
        (f"{'x.' * 127}xx", 255, 1, "at most 255"),
    ],
)
def test_a_mistake_is_pointed_at(text: str, at: int, length: int, words: str) -> None:
    mistake = mistake_in(text)

    assert mistake is not None
    assert (mistake.at, mistake.length) == (at, length)
    assert words in mistake.detail
    assert mistake.marked(text).endswith(" " * at + "^" * length)
    assert not is_pattern(text)


@pytest.mark.parametrize("text", ["task.made", "task.*", "task.**", "**", "a", "a.b.c.d.e.f.g.h", "x-y_z.1"])
def test_a_pattern_has_no_mistake(text: str) -> None:
    assert mistake_in(text) is None


def test_a_pattern_is_told_in_words() -> None:
    assert meaning("**") == "every event type, also those that come later"
    assert meaning("task.**") == "everything below task, however deep"
    assert meaning("task.*") == "task with exactly one more segment"
    assert meaning("task.made") == "exactly this event type"
    assert [is_broad(pattern) for pattern in ("**", "task.**")] == [True, False]


def test_patterns_that_share_types_are_named() -> None:
    others = ["task.*", "task.made", "task.**", "**", "note.*"]

    found = overlaps("task.*", others)

    assert found == [
        Overlap("task.*", "same"),
        Overlap("task.made", "narrower"),
        Overlap("task.**", "wider"),
        Overlap("**", "wider"),
    ]


def test_suggestions_are_grouped_by_their_first_segment() -> None:
    assert by_first_segment(["task.made", "note", "task.done", "not a type"]) == [
        ("note", ["note"]),
        ("task", ["task.**", "task.done", "task.made"]),
    ]
