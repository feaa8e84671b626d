"""Strips: how each direction of a connection did on each of the last 14 days.

Not counted, because a busy connection has a million rows in that time: each day is probed at a few places,
evenly spread over the requests that the instance made that day. A probe finds the connection's next request
in its index. A day with few requests is seen whole; of one with many, the share of failures is an estimate.
A process remembers the days that are over.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from app import clock
from app.database import db, table_of
from app.models import Attempt, Direction, Event, Stream, StreamGap

DAYS = 14
DAY_MS = 86_400_000
#: Places at which a day is looked at.
PROBES = 10
#: Gaps that are looked at for the incoming side at most.
_GAPS = 500

_ATTEMPT = table_of(Attempt)
_EVENT = table_of(Event)

#: A day on which something was lost and something came: half bad.
_SOME = 0.25

#: By day, the oldest first: share of failures 0 to 1, None without traffic.
Strip = list[float | None]


def _quiet() -> Strip:
    return [None] * DAYS


@dataclass(slots=True)
class Strips:
    """Both directions of one connection."""

    outgoing: Strip = field(default_factory=_quiet)
    incoming: Strip = field(default_factory=_quiet)


#: What a process has seen of days that are over, which change no more: by database, connection and today.
_over: weakref.WeakKeyDictionary[Engine, dict[tuple[int, int], Strips]] = weakref.WeakKeyDictionary()
#: Connections that are kept at most, some 300 bytes each.
_KEPT = 20_000


def strips(connection_ids: Sequence[int]) -> Mapping[int, Strips]:
    """The strips of these connections, by row number."""
    starts = _day_starts()
    today, kept = starts[-1], _over.setdefault(db.engine, {})
    if len(kept) > _KEPT:
        kept.clear()
    new = [connection_id for connection_id in connection_ids if (connection_id, today) not in kept]
    seen = _look(new, starts)
    kept |= {(connection_id, today): strip for connection_id, strip in seen.items()}
    known = [connection_id for connection_id in connection_ids if connection_id not in seen]
    for connection_id, latest in _look(known, starts[-1:]).items():
        old = kept[connection_id, today]
        seen[connection_id] = Strips(
            old.outgoing[:-1] + latest.outgoing[-1:], old.incoming[:-1] + latest.incoming[-1:]
        )
    return seen


def _look(connection_ids: Sequence[int], starts: Sequence[int]) -> dict[int, Strips]:
    """The days that begin at `starts`, the last of them today; the other days are quiet."""
    found = {connection_id: Strips() for connection_id in connection_ids}
    if found:
        _probe_attempts(found, starts)
        _probe_events(found, starts)
        _mark_losses(found, starts)
    return found


def _day_starts() -> list[int]:
    """Midnight UTC of each of the days, the oldest first, ms."""
    today = clock.now_ms() // DAY_MS * DAY_MS
    return [today - (DAYS - 1 - day) * DAY_MS for day in range(DAYS)]


#: Row numbers rise with time, so the first row of a day is found by halving, for all days in one statement.
_BOUNDARIES = """
WITH RECURSIVE search (at, low, high) AS (
    SELECT CAST(day.at AS BIGINT),
           COALESCE((SELECT MIN(id) FROM {table}), 0),
           COALESCE((SELECT MAX(id) FROM {table}), 0) + 1
    FROM ({days}) AS day
    UNION ALL
    SELECT at,
           CASE WHEN (SELECT {time} FROM {table} WHERE id >= (low + high) / 2 ORDER BY id LIMIT 1) < at
                THEN (low + high) / 2 + 1 ELSE low END,
           CASE WHEN (SELECT {time} FROM {table} WHERE id >= (low + high) / 2 ORDER BY id LIMIT 1) < at
                THEN high ELSE (low + high) / 2 END
    FROM search WHERE low < high
)
SELECT at, low FROM search WHERE low >= high ORDER BY at
"""


def _boundaries(table: sa.Table, time: str, starts: Sequence[int]) -> list[tuple[int, int]]:
    """First row number of each day, and the one after its last, over the whole table."""
    days = " UNION ALL ".join(f"SELECT :at{number} AS at" for number in range(len(starts)))
    query = sa.text(_BOUNDARIES.format(table=table.name, time=time, days=days))
    values = {f"at{number}": at for number, at in enumerate(starts)}
    firsts = [low for _at, low in db.session.execute(query, values)]
    last = (db.session.scalar(sa.select(sa.func.max(table.c.id))) or 0) + 1
    return list(zip(firsts, [*firsts[1:], last], strict=True))


#: For each connection and place: the next request before the day ends, its number doubled, odd if it failed.
_ATTEMPTS = """
SELECT c.id, place.day, (
    SELECT a.id * 2 + CASE WHEN a.error_code IS NULL THEN 0 ELSE 1 END
    FROM attempt AS a
    WHERE a.connection_id = c.id AND a.id >= place.low AND a.id < place.high
    ORDER BY a.id LIMIT 1
)
FROM connection AS c CROSS JOIN ({places}) AS place
WHERE c.id IN :ids
"""

_EVENTS = """
SELECT c.id, place.day, (
    SELECT e.id FROM event AS e
    WHERE e.connection_id = c.id AND e.id >= place.low AND e.id < place.high
    ORDER BY e.id LIMIT 1
)
FROM connection AS c CROSS JOIN ({places}) AS place
WHERE c.id IN :ids
"""


def _probe(
    query: str, connection_ids: Sequence[int], places: Sequence[tuple[int, int, int]]
) -> Sequence[Any]:
    """Ask at (day, from, before) for each connection; days without rows are not asked for."""
    if not places:
        return ()
    # All of them are our own whole numbers.
    rows = " UNION ALL ".join(
        f"SELECT {int(day)} AS day, {int(low)} AS low, {int(high)} AS high" for day, low, high in places
    )
    statement = sa.text(query.format(places=rows)).bindparams(sa.bindparam("ids", expanding=True))
    return db.session.execute(statement, {"ids": list(connection_ids)}).all()


def _probe_attempts(found: Mapping[int, Strips], starts: Sequence[int]) -> None:
    places = [
        (day, place, high)
        for day, (low, high) in enumerate(_boundaries(_ATTEMPT, "started_at", starts), DAYS - len(starts))
        for place in _spread(low, high)
    ]
    seen: dict[tuple[int, int], set[int]] = {}
    for connection_id, day, packed in _probe(_ATTEMPTS, list(found), places):
        if packed is not None:
            seen.setdefault((connection_id, day), set()).add(packed)
    for (connection_id, day), requests in seen.items():
        found[connection_id].outgoing[day] = sum(packed % 2 for packed in requests) / len(requests)


def _spread(low: int, high: int) -> list[int]:
    """Up to PROBES numbers of low ... high - 1, evenly apart."""
    number = min(PROBES, high - low)
    return [low + (high - low) * place // number for place in range(number)]


def _probe_events(found: Mapping[int, Strips], starts: Sequence[int]) -> None:
    places = [
        (day, low, high)
        for day, (low, high) in enumerate(_boundaries(_EVENT, "created_at", starts), DAYS - len(starts))
        if low < high
    ]
    for connection_id, day, event_id in _probe(_EVENTS, list(found), places):
        if event_id is not None:
            found[connection_id].incoming[day] = 0.0


def _mark_losses(found: Mapping[int, Strips], starts: Sequence[int]) -> None:
    """Days on which numbers of a peer's stream were given up as lost."""
    rows = db.session.execute(
        sa.select(Stream.connection_id, StreamGap.created_at)
        .join(StreamGap, StreamGap.stream_id == Stream.id)
        .where(
            Stream.connection_id.in_(found),
            Stream.direction == Direction.INCOMING,
            StreamGap.reason == "lost",
            StreamGap.created_at >= starts[0],
        )
        .limit(_GAPS)
    )
    for connection_id, at_ms in rows:
        day = DAYS - 1 - max(0, (starts[-1] + DAY_MS - 1 - at_ms) // DAY_MS)
        came = found[connection_id].incoming[day] is not None
        found[connection_id].incoming[day] = _SOME if came else 1.0
