"""Patterns: fan-out finds exactly what matches, and a subset never covers more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol import event_types
from app.protocol.errors import InvalidRequest
from app.protocol.event_types import Matcher, covering_patterns, is_pattern, is_subset, matches

SEGMENTS = st.sampled_from(["a", "b", "ab", "a-b"])
TYPES = st.lists(SEGMENTS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(
    TYPES,
    st.just("**"),
    st.tuples(TYPES, st.sampled_from([".*", ".**"])).map("".join),
)


@given(st.lists(PATTERNS, max_size=12), TYPES)
def test_fan_out_finds_exactly_the_patterns_that_match(patterns, event_type):
    found = Matcher((pattern, number) for number, pattern in enumerate(patterns)).find(event_type)

    assert sorted(found) == [
        number for number, pattern in enumerate(patterns) if matches(pattern, event_type)
    ]


@given(PATTERNS, PATTERNS, TYPES)
def test_subset_never_covers_more(pattern, of, event_type):
    if is_subset(pattern, of) and matches(pattern, event_type):
        assert matches(of, event_type)


@given(PATTERNS, PATTERNS, PATTERNS)
def test_subset_is_an_order(one, two, three):
    assert is_subset(one, one)
    assert is_subset(one, "**")
    if is_subset(one, two) and is_subset(two, three):
        assert is_subset(one, three)
    if is_subset(one, two) and is_subset(two, one):
        assert one == two


@given(TYPES)
def test_covering_patterns_are_patterns_that_match(event_type):
    found = covering_patterns(event_type)

    assert len(found) == len(set(found))
    for pattern in found:
        assert is_pattern(pattern)
        assert matches(pattern, event_type)


@pytest.mark.parametrize("check", [event_types.check_event_type, event_types.check_pattern])
@pytest.mark.parametrize("value", [None, 1, ["a"], "", "A", "a..b", "é"])
def test_bad_text_is_refused_at_its_pointer(check, value):
    with pytest.raises(InvalidRequest) as refused:
        check(value, "/eventType")

    assert refused.value.errors[0].pointer == "/eventType"
