"""Comparing what was sent with what was stored (feature `reconcile`, §6.1), as pure functions.

Each side lays the events of a range of numbers into a tree (`app.protocol.tree`), one leaf for each that it
holds. Equal roots mean equal lists. Where the roots differ, the range is parted and the parts are compared,
until it is so small that both say what they hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise
from typing import Any, NamedTuple

from app.protocol.errors import invalid
from app.protocol.members import (
    Object,
    encode_base64,
    read_array,
    read_base64,
    read_integer,
    read_object,
    read_uuid,
)
from app.protocol.tree import Tree, leaf

#: Bounds of one message (§6.1): ranges, and numbers in all of them together.
MAX_RANGES = 64
MAX_NUMBERS = 10_000
#: A range of at most so many numbers is answered with what is held of it; so many entries in one answer.
MAX_LISTED = 64
MAX_ENTRIES = 500
#: Into so many parts a range is parted.
PARTS = 16

_PREFIX = b"tidings/1\nreconcile\n"


class Side(StrEnum):
    """What the side that asks is in the stream that is compared."""

    PUBLISHER = "publisher"  #: it sent the events
    SUBSCRIBER = "subscriber"  #: it received them


class Held(NamedTuple):
    """One event under one number, as a side holds it; digest: base64, of the event (§1.2)."""

    sequence: int
    message_id: str
    digest: str

    def to_wire(self) -> dict[str, Any]:
        return {"sequence": self.sequence, "messageId": self.message_id, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a side holds of a range of numbers, both ends included: how many, and the root over them."""

    first: int
    last: int
    count: int
    root: str

    @property
    def size(self) -> int:
        """Numbers in the range."""
        return self.last - self.first + 1

    def to_wire(self) -> dict[str, Any]:
        return {"fromSequence": self.first, "toSequence": self.last, "count": self.count, "root": self.root}


@dataclass(frozen=True, slots=True)
class Answered:
    """The other side's word on a range: its own summary, and what it holds where that was told."""

    summary: Summary
    entries: tuple[Held, ...] | None = None

    def to_wire(self) -> dict[str, Any]:
        wire = self.summary.to_wire()
        if self.entries is not None:
            wire["entries"] = [entry.to_wire() for entry in self.entries]
        return wire


def summarise(first: int, last: int, held: Mapping[int, Held]) -> Summary:
    """The summary of a range over what is held, by number."""
    leaves = [
        leaf(_PREFIX + f"{entry.sequence}\n{entry.message_id}\n{entry.digest}".encode())
        for entry in _within(first, last, held)
    ]
    root = Tree(leaves).root if leaves else sha256().digest()
    return Summary(first, last, len(leaves), encode_base64(root))


def answer(asked: Sequence[Summary], held: Mapping[int, Held]) -> list[Answered]:
    """What a side answers: its own summaries, and what it holds of small ranges that differ."""
    answered: list[Answered] = []
    left = MAX_ENTRIES
    for theirs in asked:
        ours = summarise(theirs.first, theirs.last, held)
        listed = ours != theirs and theirs.size <= MAX_LISTED and ours.count <= left
        if listed:
            left -= ours.count
        entries = tuple(_within(theirs.first, theirs.last, held)) if listed else None
        answered.append(Answered(ours, entries))
    return answered


def part(first: int, last: int) -> list[tuple[int, int]]:
    """A range as up to PARTS ranges of nearly one size, none smaller than what is answered with entries."""
    size = last - first + 1
    parts = min(PARTS, -(-size // MAX_LISTED))
    bounds = [first + size * place // parts for place in range(parts + 1)]
    return [(low, high - 1) for low, high in pairwise(bounds)]


def _within(first: int, last: int, held: Mapping[int, Held]) -> list[Held]:
    return [held[number] for number in range(first, last + 1) if number in held]


def read_summaries(message: Object, pointer: str) -> tuple[Summary, ...]:
    """The `ranges` of a request. Raises InvalidRequest, also for what is out of order or too much."""
    values = read_array(message, "ranges", pointer, MAX_RANGES)
    if not values:
        raise invalid(f"{pointer}/ranges", "has no range", "limit")
    found: list[Summary] = []
    numbers, after = 0, 0
    for place, value in enumerate(values):
        where = f"{pointer}/ranges/{place}"
        one = _read_summary(read_object(value, where), where)
        if one.first <= after:
            raise invalid(f"{where}/fromSequence", "is not above the range before", "range")
        numbers, after = numbers + one.size, one.last
        if numbers > MAX_NUMBERS:
            raise invalid(f"{where}/toSequence", f"more than {MAX_NUMBERS} numbers in one message", "limit")
        found.append(one)
    return tuple(found)


def _read_summary(value: Object, where: str) -> Summary:
    summary = Summary(
        first=read_integer(value, "fromSequence", where, 1),
        last=read_integer(value, "toSequence", where, 1),
        count=read_integer(value, "count", where),
        root=read_base64(value, "root", where, 32),
    )
    if summary.last < summary.first:
        raise invalid(f"{where}/toSequence", "is before the beginning of the range", "range")
    return summary


def read_answer(
    payload: Object, asked: Sequence[tuple[int, int]], pointer: str = "/payload"
) -> list[Answered]:
    """The `ranges` of an answer, which are those that were asked about. Raises InvalidRequest."""
    values = read_array(payload, "ranges", pointer, MAX_RANGES)
    if len(values) != len(asked):
        raise invalid(f"{pointer}/ranges", "are not those that were asked about", "range")
    return [
        _read_answered(read_object(value, f"{pointer}/ranges/{place}"), span, f"{pointer}/ranges/{place}")
        for place, (value, span) in enumerate(zip(values, asked, strict=True))
    ]


def _read_answered(value: Object, span: tuple[int, int], where: str) -> Answered:
    summary = _read_summary(value, where)
    if (summary.first, summary.last) != span:
        raise invalid(where, "is not the range that was asked about", "range")
    if "entries" not in value:
        return Answered(summary)
    entries = tuple(
        _read_held(read_object(one, f"{where}/entries/{place}"), span, f"{where}/entries/{place}")
        for place, one in enumerate(read_array(value, "entries", where, MAX_LISTED))
    )
    if summarise(*span, {entry.sequence: entry for entry in entries}) != summary:
        raise invalid(f"{where}/entries", "do not have this count and root", "range")
    return Answered(summary, entries)


def _read_held(value: Object, span: tuple[int, int], where: str) -> Held:
    return Held(
        read_integer(value, "sequence", where, *span),
        read_uuid(value, "messageId", where),
        read_base64(value, "digest", where, 32),
    )
