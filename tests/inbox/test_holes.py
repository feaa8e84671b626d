"""What is done about numbers that did not come."""

import pytest

from app.inbox.holes import DELAYS_MS, MAX_ASKED, MAX_UNFILLED, Hole, plan, revise

NOW = 1_000_000_000
#: When a hole that appears now is asked for first.
BORN = NOW + 30_000


@pytest.mark.parametrize(
    ("known", "missing", "expected"),
    [
        ([], [(3, 5)], [Hole(3, 5, 0, BORN)]),
        ([Hole(3, 9, 1, 7)], [(3, 9)], [Hole(3, 9, 1, 7)]),
        ([Hole(3, 9, 1, 7)], [(5, 6), (8, 9)], [Hole(5, 6, 1, 7), Hole(8, 9, 1, 7)]),
        ([Hole(3, 9, 1, 7)], [(3, 12)], [Hole(3, 9, 1, 7), Hole(10, 12, 0, BORN)]),
        ([Hole(5, 6, 2, 7)], [(4, 7)], [Hole(4, 4, 0, BORN), Hole(5, 6, 2, 7), Hole(7, 7, 0, BORN)]),
        ([Hole(1, 2, 1, 7), Hole(5, 6, 2, 8)], [(6, 6)], [Hole(6, 6, 2, 8)]),
        ([Hole(1, 2, 1, 7)], [], []),
        ([Hole(1, 9, 1, 7), Hole(10, 20, 0, 8)], [(4, 15)], [Hole(4, 9, 1, 7), Hole(10, 15, 0, 8)]),
    ],
)  # fmt: skip
def test_what_is_known_of_a_hole_stays_with_what_is_left_of_it(known, missing, expected):
    assert revise(known, missing, NOW) == expected


def test_a_hole_that_is_not_due_is_left_alone():
    decided = plan([Hole(3, 5, 0, NOW + 1)], NOW, is_old=False)

    assert decided == ([Hole(3, 5, 0, NOW + 1)], None, [])


def test_a_hole_is_asked_for_three_times_and_then_lost():
    holes, now, asked_at = [Hole(3, 5, 0, NOW)], NOW, []

    for _ in range(3):
        now = holes[0].due
        asked_at.append(now - NOW)
        holes, ask, lost = plan(holes, now, is_old=False)
        assert (ask, lost) == ((3, 5), [])
    last = plan(holes, now, is_old=False)

    assert asked_at == [0, DELAYS_MS[1], DELAYS_MS[1] + DELAYS_MS[2]]
    assert last == ([], None, [(3, 5)])


def test_a_hole_of_an_earlier_epoch_is_lost_after_one_replay():
    holes, ask, lost = plan([Hole(3, 5, 0, NOW)], NOW, is_old=True)
    after = plan(holes, NOW, is_old=True)

    assert (ask, lost) == ((3, 5), [])
    assert after == ([], None, [(3, 5)])


def test_no_more_than_ten_thousand_numbers_are_asked_for_at_once():
    holes, ask, _ = plan([Hole(1, 25_000, 0, NOW)], NOW, is_old=False)

    assert ask == (1, MAX_ASKED)
    assert holes == [Hole(1, MAX_ASKED, 1, NOW + DELAYS_MS[1]), Hole(MAX_ASKED + 1, 25_000, 0, NOW)]


def test_near_holes_are_asked_for_together_and_far_ones_in_turn():
    holes = [Hole(1, 1, 0, NOW), Hole(50, 50, 0, NOW), Hole(5_000, 5_000, 0, NOW)]

    _, first, _ = plan(holes, NOW, is_old=False)

    assert first == (1, 50)


def test_a_peer_that_speaks_of_numbers_without_end_is_not_asked_without_end():
    in_vain = [Hole(n * 1_000, n * 1_000, 1, NOW + n) for n in range(1, MAX_UNFILLED + 1)]
    rest = Hole(1_000_000, 2**53, 0, NOW)

    decided = plan([*in_vain, rest], NOW, is_old=False)
    later = plan([*in_vain, rest], NOW + 1, is_old=False)

    assert decided.ask is None
    assert later.ask == (1_000, 1_000)
