"""The search language of the event log, as pure functions: text in, conditions out.

    type:task.*  peer:beta  status:dead  direction:in  after:2h  before:2026-01-31
    id:6f1c2a9e  subject:SH-88412  payload.order.id:A-50931  "any words"

Terms are separated by spaces and hold together. A value has commas between alternatives
(`status:dead,partial`) and is put in double quotes if it has spaces, commas or quotes of its own. Each field
stands once, but for words and `payload.`. What cannot be read is refused with the place in the text, so that
a form can point at it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from app.models import Direction, EventStatus
from app.protocol.errors import FieldError, InvalidRequest
from app.protocol.event_types import is_pattern
from app.reports.times import parse_rfc3339

#: Longest query, and the most terms that it may have.
MAX_LENGTH = 500
MAX_TERMS = 20

#: The fields, each with an example for the message that names them.
FIELDS = ("type", "peer", "status", "direction", "after", "before", "id", "subject", "payload.<path>")

_UNITS_MS = {"s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SPAN = re.compile(r"(\d{1,5})(s|min|m|h|d|w)")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MINUTE = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d(?:\.\d{1,9})?)?(Z|[+-]\d\d:\d\d)?")
_ID = re.compile(r"[0-9a-fA-F-]{1,36}")
_KEY = re.compile(r"[a-z]+(?:\.[^\s:\"]*)?(?=:)")

_DIRECTIONS = {
    "in": Direction.INCOMING,
    "incoming": Direction.INCOMING,
    "out": Direction.OUTGOING,
    "outgoing": Direction.OUTGOING,
}


class QueryError(InvalidRequest):
    """A query cannot be read; `at` and `length` tell which characters of it."""

    def __init__(self, detail: str, at: int, length: int = 1) -> None:
        super().__init__(detail, errors=[FieldError("/q", "syntax", detail)])
        self.at = at
        self.length = max(length, 1)

    def marked(self, query: str) -> str:
        """The query, and below it a mark under what is wrong."""
        return f"{query}\n{' ' * self.at}{'^' * self.length}"


class Term(NamedTuple):
    """One term as it stands in the text. A word has the field ""."""

    field: str
    #: Alternatives; a word has one.
    values: tuple[str, ...]
    #: Where it begins and ends, and where its value begins.
    start: int
    end: int
    value_at: int


class PayloadIs(NamedTuple):
    """A member of the payload, by its path, has one of these values in their text form."""

    path: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; empty tuples and None do not restrict. Times are Unix ms, both ends included."""

    #: The query as it was typed, without spaces around it.
    text: str = ""
    terms: tuple[Term, ...] = ()
    types: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    statuses: tuple[EventStatus, ...] = ()
    direction: Direction | None = None
    after: int | None = None
    before: int | None = None
    #: Beginnings of messageIds.
    ids: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    payload: tuple[PayloadIs, ...] = ()
    words: tuple[str, ...] = field(default=())

    @property
    def reads_bodies(self) -> bool:
        """Whether the text of each event has to be looked at."""
        return bool(self.subjects or self.payload or self.words)


def parse(text: str, now_ms: int) -> Search:
    """Read a query. `after:2h` counts back from `now_ms`. Raises QueryError.

    >>> parse("type:task.* after:1m", 120_000).after
    60000
    """
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise QueryError(f"A query has at most {MAX_LENGTH} characters.", MAX_LENGTH)
    if "\x00" in text:
        raise QueryError("This character cannot be looked for.", text.index("\x00"))
    found = tuple(terms(text))
    if len(found) > MAX_TERMS:
        raise QueryError(f"A query has at most {MAX_TERMS} terms.", found[MAX_TERMS].start)
    search = Search(text=text, terms=found)
    seen: set[str] = set()
    for term in found:
        if term.field in seen and term.field != "" and not term.field.startswith("payload."):
            detail = f"{term.field} stands here twice; put commas between alternatives."
            raise QueryError(detail, term.start, len(term.field))
        seen.add(term.field)
        search = _READERS[term.field.partition(".")[0]](search, term, now_ms)
    if search.after is not None and search.before is not None and search.after > search.before:
        late = next(term for term in found if term.field == "before")
        raise QueryError(
            "The time in before is earlier than that in after.", late.start, late.end - late.start
        )
    return search


def terms(text: str) -> Iterator[Term]:
    """The terms of a query in order. Raises QueryError for an unknown field or an open quote."""
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        key = _KEY.match(text, at)
        if key is None:
            value, end = _value(text, at, stops=" ")
            yield Term("", (value,), at, end, at)
        else:
            name = key[0]
            if name.partition(".")[0] not in _READERS or ("." in name) != name.startswith("payload"):
                known = ", ".join(FIELDS)
                raise QueryError(f"There is no field {name}; there are {known}.", at, len(name))
            values, end = _values(text, key.end() + 1)
            yield Term(name, values, at, end, key.end() + 1)
        at = end


def with_term(text: str, field: str, value: str | None) -> str:
    """The query with this one value for a field, or, for None, without the field.

    What cannot be read is given back as it is. It keeps its place; a new one stands at the end.

    >>> with_term("status:dead type:task.*", "status", "partial")
    'status:partial type:task.*'
    """
    try:
        found = list(terms(text))
    except QueryError:
        return text
    new = None if value is None else f"{field}:{quoted(value)}"
    parts: list[str] = []
    for term in found:
        if term.field != field:
            parts.append(text[term.start : term.end])
        elif new is not None:
            parts.append(new)
            new = None
    return " ".join([*parts, new] if new is not None else parts)


def without(text: str, term: Term) -> str:
    """The query without one of its terms."""
    return " ".join(part for part in (text[: term.start].strip(), text[term.end :].strip()) if part)


def quoted(value: str) -> str:
    """A value as it is written in a query."""
    if value and not any(c.isspace() or c in '",' for c in value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def value_of(search: Search, field: str) -> str:
    """The text of a field's value if it has exactly one, else the empty string."""
    values = [term.values for term in search.terms if term.field == field]
    return values[0][0] if len(values) == 1 and len(values[0]) == 1 else ""


def _values(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """Alternatives from `at` on, and where they end."""
    values: list[str] = []
    while True:
        value, end = _value(text, at, stops=" ,")
        if not value:
            raise QueryError("A value is missing here.", at)
        values.append(value)
        if end >= len(text) or text[end] != ",":
            return tuple(values), end
        at = end + 1


def _value(text: str, at: int, stops: str) -> tuple[str, int]:
    """One value from `at` on, and where it ends: before a space, or behind its closing quote."""
    if at < len(text) and text[at] == '"':
        return _in_quotes(text, at)
    end = at
    while end < len(text) and not text[end].isspace() and text[end] not in stops:
        end += 1
    return text[at:end], end


def _in_quotes(text: str, at: int) -> tuple[str, int]:
    value: list[str] = []
    place = at + 1
    while place < len(text):
        if text[place] == "\\" and place + 1 < len(text):
            value.append(text[place + 1])
            place += 2
        elif text[place] == '"':
            return "".join(value), place + 1
        else:
            value.append(text[place])
            place += 1
    raise QueryError("This quote is not closed.", at)


def _word(search: Search, term: Term, _now_ms: int) -> Search:
    if not term.values[0]:
        raise QueryError("There is nothing between these quotes.", term.start, term.end - term.start)
    return replace(search, words=(*search.words, term.values[0]))


def _types(search: Search, term: Term, _now_ms: int) -> Search:
    for value in term.values:
        if not is_pattern(value):
            detail = (
                f"{value[:60]} is no event type and no pattern; those are task.created, task.*, task.**, **."
            )
            raise QueryError(detail, term.value_at, term.end - term.value_at)
    return replace(search, types=term.values)


def _peers(search: Search, term: Term, _now_ms: int) -> Search:
    return replace(search, peers=term.values)


def _statuses(search: Search, term: Term, _now_ms: int) -> Search:
    known = {status.value: status for status in EventStatus}
    for value in term.values:
        if value not in known:
            detail = f"There is no status {value[:60]}; there are {', '.join(known)}."
            raise QueryError(detail, term.value_at, term.end - term.value_at)
    return replace(search, statuses=tuple(known[value] for value in term.values))


def _direction(search: Search, term: Term, _now_ms: int) -> Search:
    if len(term.values) != 1 or term.values[0] not in _DIRECTIONS:
        raise QueryError("A direction is in or out.", term.value_at, term.end - term.value_at)
    return replace(search, direction=_DIRECTIONS[term.values[0]])


def _after(search: Search, term: Term, now_ms: int) -> Search:
    return replace(search, after=_time(term, now_ms))


def _before(search: Search, term: Term, now_ms: int) -> Search:
    return replace(search, before=_time(term, now_ms))


def _time(term: Term, now_ms: int) -> int:
    value = term.values[0]
    span = _SPAN.fullmatch(value)
    if len(term.values) == 1 and span:
        return now_ms - int(span[1]) * _UNITS_MS[span[2]]
    minute = _MINUTE.fullmatch(value)
    if len(term.values) == 1 and (minute or _DAY.fullmatch(value)):
        try:
            if minute is None:
                return parse_rfc3339(f"{value}T00:00:00Z")
            day, clock, seconds, zone = minute.groups()
            return parse_rfc3339(f"{day}T{clock}{seconds or ':00'}{zone or 'Z'}")
        except ValueError:
            pass
    detail = "A time is 30m, 2h or 7d ago, or 2026-01-31, or 2026-01-31T14:00 in UTC."
    raise QueryError(detail, term.value_at, term.end - term.value_at)


def _ids(search: Search, term: Term, _now_ms: int) -> Search:
    for value in term.values:
        if not _ID.fullmatch(value):
            detail = "A message id has the digits 0-9 and a-f; its beginning is enough."
            raise QueryError(detail, term.value_at, term.end - term.value_at)
    return replace(search, ids=tuple(value.lower() for value in term.values))


def _subjects(search: Search, term: Term, _now_ms: int) -> Search:
    return replace(search, subjects=term.values)


def _payload(search: Search, term: Term, _now_ms: int) -> Search:
    path = tuple(term.field.split(".")[1:])
    if not path or not all(path):
        detail = "Name the member: payload.order.id:A-50931."
        raise QueryError(detail, term.start, len(term.field))
    return replace(search, payload=(*search.payload, PayloadIs(path, term.values)))


_READERS: dict[str, Callable[[Search, Term, int], Search]] = {
    "": _word,
    "type": _types,
    "peer": _peers,
    "status": _statuses,
    "direction": _direction,
    "after": _after,
    "before": _before,
    "id": _ids,
    "subject": _subjects,
    "payload": _payload,
}
