"""The events of a search as a file: NDJSON for programs, CSV for tables. Written while it is read.

A file has the newest events up to a bound; where there are more, its last line says so.
"""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from app import clock
from app.database import db
from app.reports.event_log import get_events_by_number
from app.reports.event_search import EventRow, search_events
from app.reports.search import Search
from app.reports.times import rfc3339

#: Events of a file at most, and the seconds that it may take.
MAX_EVENTS = 10_000
MAX_S = 30

_PAGE = 200

COLUMNS = ("createdAt", "direction", "eventType", "peer", "status", "bytes", "messageId", "payload")

#: What makes a spreadsheet take a cell for a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def ndjson(workspace_id: int, search: Search) -> Iterator[bytes]:
    """Each event as the API shows it, one a line."""

    def lines(rows: list[EventRow]) -> Iterator[bytes]:
        for details in get_events_by_number(workspace_id, [row.id for row in rows]):
            yield orjson.dumps(details, option=orjson.OPT_APPEND_NEWLINE)

    more = orjson.dumps({"more": True, "detail": _cut_off()}, option=orjson.OPT_APPEND_NEWLINE)
    return _written(workspace_id, search, lines, more)


def csv_lines(workspace_id: int, search: Search) -> Iterator[bytes]:
    """A table with a heading. No cell is a formula: those that would be begin with an apostrophe."""

    def lines(rows: list[EventRow]) -> Iterator[bytes]:
        details = get_events_by_number(workspace_id, [row.id for row in rows])
        for row, one in zip(rows, details, strict=True):
            yield _csv(
                rfc3339(row.created_at),
                row.direction.value,
                row.event_type,
                row.peer,
                row.state_words,
                row.size,
                row.message_id,
                orjson.dumps(one["payload"]).decode(),
            )

    yield _csv(*COLUMNS)
    yield from _written(workspace_id, search, lines, _csv(_cut_off()))


def safe_cell(value: Any) -> Any:
    """The value, which no spreadsheet takes for a formula.

    >>> safe_cell("=1+1"), safe_cell(3)
    ("'=1+1", 3)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _written(
    workspace_id: int, search: Search, lines: Callable[[list[EventRow]], Iterator[bytes]], more: bytes
) -> Iterator[bytes]:
    until_s = clock.monotonic() + MAX_S
    older, written = None, 0
    while True:
        page = search_events(workspace_id, search, older=older, limit=_PAGE, within_ms=1_000)
        yield b"".join(lines(page.rows))
        # Between pages nothing is held: a slow reader must not keep the database from tidying up.
        db.session.rollback()
        written += len(page.rows)
        older = page.older
        if older is None:
            return
        if written >= MAX_EVENTS or clock.monotonic() >= until_s:
            yield more
            return


def _csv(*cells: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([safe_cell(cell) for cell in cells])
    return text.getvalue().encode()


def _cut_off() -> str:
    return f"There are more events: a file has the newest {MAX_EVENTS} or what {MAX_S} seconds bring."
