"""Event types, the patterns of subscriptions, and who gets an event (§3).

An event type is 1 to 8 dot-separated segments: `task.created`. A pattern is an event type,
or ends in `*` (exactly one more segment) or `**` (one or more), or is `**` alone (all).
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Generic, TypeVar

from app.protocol.errors import invalid

#: Longest event type or pattern, in characters.
MAX_LENGTH = 255

_SEGMENT = r"[a-z0-9_-]{1,64}"
_EVENT_TYPE = re.compile(rf"{_SEGMENT}(?:\.{_SEGMENT}){{0,7}}")
_PATTERN = re.compile(rf"\*\*|{_SEGMENT}(?:\.{_SEGMENT}){{0,6}}\.\*\*?|{_EVENT_TYPE.pattern}")

Item = TypeVar("Item")


@lru_cache(maxsize=4096)
def is_event_type(text: str) -> bool:
    """Whether the text is an event type."""
    return len(text) <= MAX_LENGTH and _EVENT_TYPE.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def is_pattern(text: str) -> bool:
    """Whether the text is a pattern; an event type is one."""
    return len(text) <= MAX_LENGTH and _PATTERN.fullmatch(text) is not None


def check_event_type(text: object, pointer: str = "") -> str:
    """The text itself, or InvalidRequest at the pointer."""
    if isinstance(text, str) and is_event_type(text):
        return text
    raise invalid(pointer, "an event type is 1 to 8 segments [a-z0-9_-]{1,64} joined by dots", "format")


def check_pattern(text: object, pointer: str = "") -> str:
    """The text itself, or InvalidRequest at the pointer."""
    if isinstance(text, str) and is_pattern(text):
        return text
    raise invalid(pointer, "a pattern is an event type, `x.*`, `x.**` or `**`", "format")


def matches(pattern: str, event_type: str) -> bool:
    """Whether an event of the type is covered by the pattern; both are valid.

    >>> matches("task.*", "task.created"), matches("task.*", "tasks.created")
    (True, False)
    """
    if pattern == "**":
        return True
    if pattern.endswith(".**"):
        return event_type.startswith(pattern[:-2])
    if pattern.endswith(".*"):
        return event_type.rpartition(".")[0] == pattern[:-2]
    return pattern == event_type


def is_subset(pattern: str, of: str) -> bool:
    """Whether everything `pattern` covers is covered by `of` (§3); both are valid."""
    if pattern == of or of == "**":
        return True
    if of.endswith(".**"):
        return pattern.startswith(of[:-2])
    return of.endswith(".*") and "*" not in pattern and matches(of, pattern)


class Matcher(Generic[Item]):
    """Many patterns compiled for fan-out: a look-up per prefix of the type, whatever their number."""

    def __init__(self, patterns: Iterable[tuple[str, Item]]) -> None:
        self._items: dict[str, list[Item]] = {}
        for pattern, item in patterns:
            self._items.setdefault(pattern, []).append(item)

    def find(self, event_type: str) -> list[Item]:
        """The items whose pattern covers the event type; one appears once for each such pattern."""
        found: list[Item] = []
        for pattern in covering_patterns(event_type):
            found += self._items.get(pattern, ())
        return found


@lru_cache(maxsize=4096)
def covering_patterns(event_type: str) -> tuple[str, ...]:
    """All patterns that cover the event type, the narrowest first.

    >>> covering_patterns("a.b.c")
    ('a.b.c', 'a.b.*', 'a.b.**', 'a.**', '**')
    """
    segments = event_type.split(".")
    deep = [".".join(segments[:n]) + ".**" for n in range(len(segments) - 1, 0, -1)]
    one = [".".join(segments[:-1]) + ".*"] if len(segments) > 1 else []
    return (event_type, *one, *deep, "**")
