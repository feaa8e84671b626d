"""Many rows in a few seconds: written by the database itself, in pieces of a statement each.

They look like what the instance would have written, but for signatures, which nobody made.
"""

import re
import time
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

DAY_MS = 86_400_000
#: Rows of one statement.
CHUNK = 20_000
#: Deliveries of one request.
BATCH = 50

_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS"
    " (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)",
    "postgresql": "WITH numbers(n) AS"
    " (SELECT generate_series(CAST(:first AS bigint), CAST(:last AS bigint)))",
}
_ID = {
    "sqlite": "printf('00000000-0000-4%03x-8000-%012x', :kind, n)",
    "postgresql": "'00000000-0000-4' || lpad(to_hex(CAST(:kind AS integer)), 3, '0') || '-8000-'"
    " || lpad(to_hex(n), 12, '0')",
}
_OUTGOING = """
{numbers}
INSERT INTO event (workspace_id, direction, message_id, event_type, body, signature, key_id, digest,
                   timestamp, status, created_at)
SELECT :workspace, 'outgoing', {id}, :event_type, :body, 'c2ln', :key, '', :at + n * :step,
       CASE WHEN {is_bad} THEN :bad ELSE :status END, :at + n * :step
FROM numbers
"""
_INCOMING = """
{numbers}
INSERT INTO event (workspace_id, direction, connection_id, message_id, event_type, body, signature, key_id,
                   digest, timestamp, stream_id, sequence, status, created_at)
SELECT :workspace, 'incoming', :connection, {id}, :event_type, :body, 'c2ln', :key, '', :at + n * :step,
       :stream, n, 'delivered', :at + n * :step
FROM numbers
"""
_ATTEMPTS = """
{numbers}
INSERT INTO attempt (id, connection_id, batch_id, size, started_at, duration_ms, status_code)
SELECT :attempts + n / {batch}, :connection, {id}, {batch}, :at + n * :step, 9, 200
FROM numbers WHERE n % {batch} = 1
"""
_DELIVERIES = """
INSERT INTO delivery (workspace_id, event_id, connection_id, event_type, state, attempts, refusals,
                      next_attempt_at, trigger, attempt_id, created_at, delivered_at, ended_at, error_code)
SELECT workspace_id, id, :connection, event_type,
       CASE WHEN status = 'delivered' THEN 'delivered' WHEN status = 'dead' THEN 'dead' ELSE 'pending' END,
       CASE WHEN status = 'pending' THEN 0 ELSE 1 END, 0, created_at, 'auto',
       CASE WHEN :attempts < 0 OR status = 'pending' THEN NULL
            ELSE :attempts + ((created_at - :at) / :step - 1) / {batch} END,
       created_at, CASE WHEN status = 'delivered' THEN created_at + 20 END,
       CASE WHEN status = 'dead' THEN created_at + 20 END,
       CASE WHEN status = 'dead' THEN 'payload_invalid' END
FROM event
WHERE workspace_id = :workspace AND event_type = :event_type AND direction = 'outgoing' AND id > :after
"""
_NUMBERED_ON = "SELECT setval(pg_get_serial_sequence('attempt', 'id'), max(id)) FROM attempt"
_STREAM = """
INSERT INTO stream (connection_id, direction, epoch, head_sequence, contiguous, ranges, created_at)
VALUES (:connection, 'incoming', 'bench', :rows, :rows, '[]', :at)
"""


class Kind(NamedTuple):
    """What rows are made: their type and state. Of the first fifth one in twenty gets the bad one, if any."""

    number: int
    event_type: str
    status: str
    bad: str | None = None
    body: str = '{"eventType":"%s","payload":{"text":"' + "x" * 700 + '"}}'


OLD = Kind(1, "bench.old", "delivered")
SENT = Kind(2, "bench.sent", "delivered", bad="dead")
CAME = Kind(3, "bench.came", "delivered")
WAITING = Kind(4, "bench.waiting", "pending")


class Place(NamedTuple):
    """Where rows go: the ids of a connection and its workspace."""

    workspace: int
    connection: int


def place_of(engine: Engine, public_id: str) -> Place:
    """The connection of this public id."""
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT workspace_id, id FROM connection WHERE public_id = :id"), {"id": public_id}
        ).one()
    return Place(*found)


def outgoing(
    engine: Engine, place: Place, kind: Kind, rows: int, days: float, first: int = 1, attempts: bool = True
) -> None:
    """Write so many events of ours with a delivery each, from so many days ago on, a part of a day apart.

    first: number of the first one, if others of this kind are there; attempts: write their requests too.
    """
    common = _common(place, kind, rows, days) | {"bad": kind.bad or kind.status, "first_fifth": rows // 5}
    statement = _of(engine, _OUTGOING, "0 = 1" if kind.bad is None else "n % 20 = 1 AND n <= :first_fifth")
    # Far above what the instance itself numbers meanwhile.
    common["attempts"] = _top(engine, "attempt") + 1_000 if attempts else -1
    for bounds in _pieces(first, rows):
        after = _top(engine, "event")
        with engine.begin() as connection:
            _run(connection, statement, common | bounds)
            if attempts:
                _run(connection, _of(engine, _ATTEMPTS), common | bounds)
            _run(connection, _of(engine, _DELIVERIES), common | {"after": after})
    if attempts and engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            _run(connection, _NUMBERED_ON, {})


def incoming(engine: Engine, place: Place, kind: Kind, rows: int, days: float) -> None:
    """Write so many events that came over the connection, under the numbers of a stream of its own."""
    with engine.begin() as connection:
        given = {"connection": place.connection, "rows": rows, "at": _now() - 8 * DAY_MS}
        _run(connection, _STREAM, given)
    stream = _top(engine, "stream")
    common = _common(place, kind, rows, days) | {"stream": stream}
    for bounds in _pieces(1, rows):
        with engine.begin() as connection:
            _run(connection, _of(engine, _INCOMING), common | bounds)


def settle(engine: Engine) -> None:
    """What the database itself does some minutes after so many rows came: PostgreSQL's statistics."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))


def _common(place: Place, kind: Kind, rows: int, days: float) -> dict[str, Any]:
    return {
        "workspace": place.workspace,
        "connection": place.connection,
        "kind": kind.number,
        "event_type": kind.event_type,
        "status": kind.status,
        "body": kind.body % kind.event_type,
        "key": "k-bench",
        "at": _now() - int(days * DAY_MS),
        "step": max(1, int(min(days, 7) * DAY_MS / rows)),
    }


def _pieces(first: int, rows: int) -> list[dict[str, int]]:
    last = first + rows - 1
    return [{"first": n, "last": min(n + CHUNK - 1, last)} for n in range(first, last + 1, CHUNK)]


def _of(engine: Engine, text: str, is_bad: str = "") -> str:
    name = engine.dialect.name
    return text.format(numbers=_NUMBERS[name], id=_ID[name], is_bad=is_bad, batch=BATCH)


def _run(connection: Connection, text: str, parameters: dict[str, Any]) -> None:
    used = set(re.findall(r":(\w+)", text))
    connection.execute(sa.text(text), {name: value for name, value in parameters.items() if name in used})


def _top(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.text(f"SELECT coalesce(max(id), 0) FROM {table}")) or 0)  # noqa: S608


def _now() -> int:
    return time.time_ns() // 1_000_000
