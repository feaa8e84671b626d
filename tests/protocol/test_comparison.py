"""Comparing two lists of events by digests of their ranges."""

import uuid
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.protocol.comparison import (
    MAX_ENTRIES,
    MAX_LISTED,
    Held,
    Summary,
    answer,
    part,
    read_answer,
    summarise,
)
from app.protocol.errors import InvalidRequest
from app.protocol.members import encode_base64


def event(number: int, content: str = "") -> Held:
    digest = encode_base64(sha256(f"{number}{content}".encode()).digest())
    return Held(number, str(uuid.UUID(int=number, version=4)), digest)


def events(numbers) -> dict[int, Held]:
    return {number: event(number) for number in numbers}


def test_the_root_of_nothing_is_the_hash_of_nothing():
    assert summarise(1, 10, {}) == Summary(1, 10, 0, encode_base64(sha256().digest()))


def test_the_root_is_that_of_rfc_6962_over_what_is_held():
    held = events([1, 3, 4])

    def leaf(one):
        text = f"tidings/1\nreconcile\n{one.sequence}\n{one.message_id}\n{one.digest}"
        return sha256(b"\x00" + text.encode()).digest()

    left = sha256(b"\x01" + leaf(held[1]) + leaf(held[3])).digest()
    root = sha256(b"\x01" + left + leaf(held[4])).digest()
    assert summarise(1, 4, held) == Summary(1, 4, 3, encode_base64(root))


@pytest.mark.parametrize(
    "other", [{1: event(1, "x")}, {1: event(1)._replace(message_id=str(uuid.uuid4()))}, {}]
)
def test_another_content_id_or_number_is_another_root(other):
    assert summarise(1, 1, other) != summarise(1, 1, events([1]))


@given(st.integers(1, 10**6), st.integers(0, 20_000))
def test_the_parts_of_a_range_are_the_range(first, more):
    parts = part(first, first + more)

    assert parts[0][0] == first
    assert parts[-1][1] == first + more
    assert all(low == before + 1 for (_, before), (low, _) in pairwise(parts))
    assert all(low <= high for low, high in parts)
    assert len(parts) == 1 or max(high - low for low, high in parts) < more


@settings(max_examples=20)
@given(st.sets(st.integers(1, 2_000), max_size=40), st.sets(st.integers(1, 2_000), max_size=40))
def test_asking_part_by_part_finds_exactly_what_differs(lost_here, lost_there):
    ours = events(set(range(1, 2_001)) - lost_here)
    theirs = events(set(range(1, 2_001)) - lost_there)
    todo, found, rounds = [(1, 2_000)], set(), 0

    while todo:
        question, todo, rounds = todo[:64], todo[64:], rounds + 1
        asked = [summarise(first, last, ours) for first, last in question]
        said = [one.to_wire() for one in answer(asked, theirs)]
        answers = read_answer({"ranges": said}, question)
        for mine, their in zip(asked, answers, strict=True):
            if mine == their.summary:
                continue
            if their.entries is None:
                todo += part(mine.first, mine.last)
            else:
                there = {one.sequence for one in their.entries}
                found |= there ^ {n for n in ours if mine.first <= n <= mine.last}

    assert found == lost_here ^ lost_there
    assert rounds <= 12


def test_an_answer_lists_no_more_than_it_may():
    held = events(range(1, 20 * MAX_LISTED + 1))
    asked = [summarise(first, first + MAX_LISTED - 1, {}) for first in range(1, len(held), MAX_LISTED)]

    answers = answer(asked, held)

    listed = [one for one in answers if one.entries is not None]
    assert sum(len(one.entries) for one in listed) <= MAX_ENTRIES
    assert listed == answers[: len(listed)] != []


@pytest.mark.parametrize(
    "change, pointer",
    [
        (lambda said: said.clear(), "/payload/ranges"),
        (lambda said: said[0].update(toSequence=9), "/payload/ranges/0"),
        (lambda said: said[0].update(root="no"), "/payload/ranges/0/root"),
        (lambda said: said[0]["entries"].pop(), "/payload/ranges/0/entries"),
        (lambda said: said[0]["entries"][0].update(sequence=11), "/payload/ranges/0/entries/0/sequence"),
        (lambda said: said[0]["entries"][0].update(digest=1), "/payload/ranges/0/entries/0/digest"),
    ],
    ids=["none", "range", "root", "one entry less", "sequence", "digest"],
)
def test_an_answer_that_contradicts_itself_is_refused(change, pointer):
    said = [one.to_wire() for one in answer([summarise(1, 10, {})], events([1, 2]))]
    change(said)

    with pytest.raises(InvalidRequest) as refused:
        read_answer({"ranges": said}, [(1, 10)])

    assert refused.value.errors[0].pointer == pointer
