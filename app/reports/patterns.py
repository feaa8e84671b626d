"""Patterns of event types for people: where one is wrong, and what one covers. Pure."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from app.protocol.event_types import MAX_LENGTH, is_event_type, is_pattern, is_subset

_MAX_SEGMENTS = 8
_MAX_SEGMENT = 64
_WRONG = re.compile(r"[^a-z0-9_.*-]")


class Mistake(NamedTuple):
    """What is wrong with a pattern, and which characters of it are."""

    at: int
    length: int
    detail: str

    def marked(self, text: str) -> str:
        """The pattern, and below it a mark under what is wrong."""
        return f"{text}\n{' ' * self.at}{'^' * max(self.length, 1)}"


class Overlap(NamedTuple):
    """How another pattern stands to one: the same, wider or narrower."""

    pattern: str
    how: str


def mistake_in(text: str) -> Mistake | None:
    """Why a text is no pattern; None if it is one.

    >>> mistake_in("order.**.placed")
    Mistake(at=6, length=2, detail='** may stand only at the end of a pattern.')
    """
    if is_pattern(text):
        return None
    if not text:
        return Mistake(0, 1, "Name an event type or a pattern.")
    if len(text) > MAX_LENGTH:
        return Mistake(MAX_LENGTH, len(text) - MAX_LENGTH, f"A pattern has at most {MAX_LENGTH} characters.")
    wrong = _WRONG.search(text)
    if wrong is not None:
        return Mistake(wrong.start(), 1, _about_character(wrong[0]))
    return _wrong_segment(text)


def _about_character(character: str) -> str:
    if character.isspace():
        return "A pattern has no spaces."
    if character.isascii() and character.isupper():
        return f"Event types are in small letters: {character.lower()}."
    return "Event types have the characters a-z, 0-9, _ and -, and dots between their segments."


def _wrong_segment(text: str) -> Mistake:
    at = 0
    segments = text.split(".")
    for number, segment in enumerate(segments, 1):
        is_last = number == len(segments)
        length = max(len(segment), 1)
        if not segment:
            return Mistake(at if at < len(text) else at - 1, 1, "A segment between the dots is missing.")
        if number > _MAX_SEGMENTS:
            return Mistake(at, len(text) - at, f"An event type has at most {_MAX_SEGMENTS} segments.")
        if len(segment) > _MAX_SEGMENT:
            return Mistake(at, length, f"A segment has at most {_MAX_SEGMENT} characters.")
        if segment in ("*", "**") and not is_last:
            return Mistake(at, length, f"{segment} may stand only at the end of a pattern.")
        if segment == "*" and number == 1:
            return Mistake(at, length, "* needs a segment before it; ** alone is everything.")
        if "*" in segment and segment not in ("*", "**"):
            star = segment.index("*")
            return Mistake(at + star, length - star, "A star is a segment of its own: task.* and not task*.")
        at += len(segment) + 1
    return Mistake(0, len(text), "This is no pattern.")


def is_broad(pattern: str) -> bool:
    """Whether it covers everything."""
    return pattern == "**"


def meaning(pattern: str) -> str:
    """A pattern in words."""
    if pattern == "**":
        return "every event type, also those that come later"
    if pattern.endswith(".**"):
        return f"everything below {pattern[:-3]}, however deep"
    if pattern.endswith(".*"):
        return f"{pattern[:-2]} with exactly one more segment"
    return "exactly this event type"


def overlaps(pattern: str, others: Iterable[str]) -> list[Overlap]:
    """Of the other patterns those that share event types with this one."""
    found: list[Overlap] = []
    for other in others:
        if other == pattern:
            found.append(Overlap(other, "same"))
        elif is_subset(pattern, other):
            found.append(Overlap(other, "wider"))
        elif is_subset(other, pattern):
            found.append(Overlap(other, "narrower"))
    return found


def by_first_segment(types: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Event types in groups, and for each group of several its pattern first: suggestions for a form.

    >>> by_first_segment(["task.done", "note", "task.made"])
    [('note', ['note']), ('task', ['task.**', 'task.done', 'task.made'])]
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(types):
        if is_event_type(name):
            groups.setdefault(name.split(".")[0], []).append(name)
    return [(first, [f"{first}.**", *names] if len(names) > 1 else names) for first, names in groups.items()]
