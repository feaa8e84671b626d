"""The arithmetic of what came of a stream, against a plain set of numbers."""

from hypothesis import given
from hypothesis import strategies as st

from app.protocol.ranges import NOTHING, Coverage, cover, holes

numbers = st.integers(1, 40)
ranges = st.tuples(numbers, st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def as_set(coverage: Coverage) -> set[int]:
    beyond = [set(range(first, last + 1)) for first, last in coverage.ranges]
    return set(range(1, coverage.contiguous + 1)).union(*beyond)


@given(st.lists(st.lists(ranges)))
def test_coverage_is_the_set_of_what_came(arrivals):
    coverage, expected = NOTHING, set()

    for arrival in arrivals:
        coverage = cover(coverage, arrival)
        expected |= {number for first, last in arrival for number in range(first, last + 1)}

    assert as_set(coverage) == expected
    assert coverage.highest == max(expected, default=0)


@given(st.lists(ranges))
def test_ranges_stay_apart_and_in_order(arrival):
    coverage = cover(NOTHING, arrival)

    ends = [coverage.contiguous, *(edge for pair in coverage.ranges for edge in pair)]
    for (_, last), (first, _) in zip(
        [(0, coverage.contiguous), *coverage.ranges], coverage.ranges, strict=False
    ):
        assert first > last + 1
    assert ends == sorted(ends)


@given(st.lists(ranges), st.integers(0, 60))
def test_holes_are_what_is_left_up_to_the_head(arrival, head):
    coverage = cover(NOTHING, arrival)

    found = {number for first, last in holes(coverage, head) for number in range(first, last + 1)}

    covered = [(1, coverage.contiguous), *coverage.ranges]
    left = (n for n in range(1, head + 1) if not any(first <= n <= last for first, last in covered))
    assert found == set(left)


def test_a_filled_hole_joins_its_neighbours():
    assert cover(Coverage(2, ((5, 6),)), [(3, 3), (7, 9)]) == Coverage(3, ((5, 9),))
    assert cover(Coverage(3, ((5, 9),)), [(4, 4)]) == Coverage(9, ())
