"""The query of the events page: the text in the URL, and plain controls that write the same text.

A form sends the text (`q`), each control, and the text as it was when the form was made (`was`): so it is
known whether a control was moved, or stands where it stands because of a text that has been changed since.
"""

from typing import NamedTuple
from urllib.parse import urlencode

from werkzeug.datastructures import MultiDict

from app import clock
from app.models import EventStatus
from app.reports.search import QueryError, Search, parse, value_of, with_term, without

#: The controls: the field that each writes, its label, and its choices.
CONTROLS = ("direction", "peer", "status", "after")
DIRECTIONS = (("", "In and out"), ("in", "In"), ("out", "Out"))
STATUSES = (
    ("", "Any status"),
    (EventStatus.PENDING.value, "Pending"),
    (EventStatus.DELIVERED.value, "Delivered"),
    (EventStatus.PARTIAL.value, "Partial"),
    (EventStatus.DEAD.value, "Dead"),
    (EventStatus.UNSUBSCRIBED.value, "No subscriber"),
)
PERIODS = (
    ("", "All that is kept"),
    ("1h", "Last hour"),
    ("24h", "Last 24 hours"),
    ("7d", "Last 7 days"),
    ("30d", "Last 30 days"),
)


class EventQuery(NamedTuple):
    """What was asked for. With an error, the search is that for everything."""

    text: str
    search: Search
    error: QueryError | None

    @property
    def chosen(self) -> list[tuple[str, str]]:
        """Each term, and the query without it."""
        text = self.search.text
        return [(text[term.start : term.end], without(text, term)) for term in self.search.terms]

    def control(self, field: str) -> str:
        """Where a control stands."""
        return value_of(self.search, field)


def read_query(text: str) -> EventQuery:
    """The query of a text, which may be wrong."""
    text = text.strip()
    try:
        return EventQuery(text, parse(text, clock.now_ms()), None)
    except QueryError as error:
        return EventQuery(text, Search(), error)


def moved(given: MultiDict[str, str]) -> str | None:
    """The text with what the controls say written into it; None if no control was sent."""
    sent = [field for field in CONTROLS if field in given]
    if not sent:
        return None
    text = given.get("q", "")
    was = read_query(given["was"]) if "was" in given else None
    for field in sent:
        if was is None or given[field] != was.control(field):
            text = with_term(text, field, given[field] or None)
    return text.strip()


def href(path: str, text: str, **more: str | None) -> str:
    """An address with the query, if there is one, and further parameters."""
    query = {"q": text, **more}
    found = {name: value for name, value in query.items() if value}
    return path + (f"?{urlencode(found)}" if found else "")
