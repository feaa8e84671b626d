"""The search language: what is read, and where a query that cannot be read is wrong."""

import pytest

from app.models import Direction, EventStatus
from app.reports.search import PayloadIs, QueryError, parse, quoted, terms, value_of, with_term, without

NOW = 1_767_225_600_000  # 2026-01-01T00:00:00Z


def test_every_field_is_read() -> None:
    search = parse(
        'type:task.*,note.made peer:"N. Okafor" status:dead,partial direction:in after:2h before:1m '
        'id:6F1C subject:SH-1 payload.order.id:A-50931 payload.n:1 urgent "two words"',
        NOW,
    )

    assert search.types == ("task.*", "note.made")
    assert search.peers == ("N. Okafor",)
    assert search.statuses == (EventStatus.DEAD, EventStatus.PARTIAL)
    assert search.direction is Direction.INCOMING
    assert (search.after, search.before) == (NOW - 7_200_000, NOW - 60_000)
    assert search.ids == ("6f1c",)
    assert search.subjects == ("SH-1",)
    assert search.payload == (PayloadIs(("order", "id"), ("A-50931",)), PayloadIs(("n",), ("1",)))
    assert search.words == ("urgent", "two words")


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("after:90s", NOW - 90_000),
        ("after:30min", NOW - 1_800_000),
        ("after:7d", NOW - 604_800_000),
        ("after:1w", NOW - 604_800_000),
        ("after:2025-12-31", NOW - 86_400_000),
        ("after:2025-12-31T23:00", NOW - 3_600_000),
        ("after:2025-12-31T23:00:00.500Z", NOW - 3_599_500),
        ("after:2026-01-01T00:00+01:00", NOW - 3_600_000),
    ],
)
def test_times_are_spans_or_moments(text: str, after: int) -> None:
    assert parse(text, NOW).after == after


@pytest.mark.parametrize(
    ("text", "at", "length", "word"),
    [
        ("type:task.created colour:red", 18, 6, "no field colour"),
        ("type:task.**.made", 5, 12, "no event type"),
        ("type:", 5, 1, "missing"),
        ("type:a,", 7, 1, "missing"),
        ("status:lost", 7, 4, "no status lost"),
        ("direction:up", 10, 2, "in or out"),
        ("after:soon", 6, 4, "A time is"),
        ("after:2026-13-01", 6, 10, "A time is"),
        ("after:1h before:2h", 9, 9, "earlier"),
        ("id:xyz", 3, 3, "message id"),
        ("status:dead status:partial", 12, 6, "twice"),
        ('peer:"open', 5, 1, "not closed"),
        ("payload:1", 0, 7, "payload.<path>"),
        ("payload.a..b:1", 0, 12, "Name the member"),
        ('""', 0, 2, "nothing between"),
        ("type.x:1", 0, 6, "no field"),
        ("a\x00", 1, 1, "character"),
    ],
)
def test_an_error_points_at_its_characters(text: str, at: int, length: int, word: str) -> None:
    with pytest.raises(QueryError) as refused:
        parse(text, NOW)

    assert (refused.value.at, refused.value.length) == (at, length)
    assert word in refused.value.detail
    assert refused.value.marked(text).splitlines()[-1] == " " * at + "^" * length
    assert [error.pointer for error in refused.value.errors] == ["/q"]


@pytest.mark.parametrize("text", ["x" * 501, " ".join(["a"] * 21)])
def test_a_query_has_bounds(text: str) -> None:
    with pytest.raises(QueryError, match="at most"):
        parse(text, NOW)


def test_a_control_writes_its_term_into_the_query() -> None:
    text = 'type:task.* status:dead "two words"'

    assert with_term(text, "status", "partial") == 'type:task.* status:partial "two words"'
    assert with_term(text, "status", None) == 'type:task.* "two words"'
    assert with_term(text, "peer", "N. Okafor") == text + ' peer:"N. Okafor"'
    assert with_term("", "direction", "in") == "direction:in"
    assert with_term('peer:"open', "status", "dead") == 'peer:"open'


def test_a_term_is_taken_out_alone() -> None:
    text = "type:task.* status:dead after:2h"

    left = [without(text, term) for term in terms(text)]

    assert left == ["status:dead after:2h", "type:task.* after:2h", "type:task.* status:dead"]


@pytest.mark.parametrize("value", ["plain", "two words", 'a "quote"', "a,b", "back\\slash in it", ""])
def test_a_quoted_value_is_read_back(value: str) -> None:
    [term] = terms(f"peer:{quoted(value)}") if value else terms('""')

    assert term.values == (value,)


def test_a_control_shows_a_single_value_alone() -> None:
    search = parse("status:dead type:a,b", NOW)

    assert (value_of(search, "status"), value_of(search, "type"), value_of(search, "peer")) == (
        "dead",
        "",
        "",
    )
