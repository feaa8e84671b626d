"""Proof: both databases are read by connections of our own and compared row by row.

What the API accepted (the load knows) must be stored at each subscriber exactly once, with the content that
the sender keeps, in the order of publication; and no row of either side may still wait for anything.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.database import table_of
from app.models import (
    Attempt,
    Connection,
    ControlOut,
    ControlState,
    Delivery,
    Direction,
    Event,
    EventStatus,
    Stream,
)
from app.protocol.messages import is_same_event
from app.protocol.states import DeliveryState
from drills.drill import Tally

_ATTEMPT = table_of(Attempt)
_CONNECTION = table_of(Connection)
_CONTROL = table_of(ControlOut)
_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)
_STREAM = table_of(Stream)

#: Signs of life: the next one does what this one did not.
_FLEETING = ("heartbeat", "verification")


class Stored(NamedTuple):
    """A stored event: its id on the wire, what was signed, its stream and number."""

    message_id: str
    body: str
    stream_id: int | None
    sequence: int | None


class Book:
    """One instance's database, for reading."""

    def __init__(self, url: str) -> None:
        # A connection for each look: the database may be killed, or replaced by another, in between.
        self._engine = sa.create_engine(
            url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sa.pool.NullPool
        )

    def outgoing(self, event_type: str) -> dict[str, str]:
        """What is kept of the instance's own events of a type: messageId to body."""
        found = sa.select(_EVENT.c.message_id, _EVENT.c.body).where(
            _EVENT.c.direction == Direction.OUTGOING, _EVENT.c.event_type == event_type
        )
        return {message_id: body for message_id, body in self._read(found)}

    def incoming(self, event_type: str, connection_id: str) -> list[Stored]:
        """What came over a connection (public id) of a type, in the order in which it was stored."""
        found = (
            sa.select(_EVENT.c.message_id, _EVENT.c.body, _EVENT.c.stream_id, _EVENT.c.sequence)
            .join_from(_EVENT, _CONNECTION, _EVENT.c.connection_id == _CONNECTION.c.id)
            .where(_CONNECTION.c.public_id == connection_id, _EVENT.c.event_type == event_type)
            .order_by(_EVENT.c.id)
        )
        return [Stored(*row) for row in self._read(found)]

    def deliveries(self, event_type: str, connection_id: str) -> dict[str, str]:
        """messageId to state of the deliveries of a type to a connection (public id)."""
        found = (
            sa.select(_EVENT.c.message_id, _DELIVERY.c.state)
            .join_from(_DELIVERY, _EVENT, _DELIVERY.c.event_id == _EVENT.c.id)
            .join(_CONNECTION, _DELIVERY.c.connection_id == _CONNECTION.c.id)
            .where(_CONNECTION.c.public_id == connection_id, _DELIVERY.c.event_type == event_type)
        )
        return {message_id: str(state) for message_id, state in self._read(found)}

    def count(self, event_type: str) -> int:
        """How many events of a type are stored that came in, over whatever connection."""
        found = sa.select(sa.func.count()).where(
            _EVENT.c.direction == Direction.INCOMING, _EVENT.c.event_type == event_type
        )
        return int(self._read(found)[0][0])

    def failed_attempts(self) -> int:
        """How many requests with events brought no verified ack."""
        found = sa.select(sa.func.count()).where(_ATTEMPT.c.ack.is_(None))
        return int(self._read(found)[0][0])

    def open_rows(self) -> dict[str, int]:
        """How many rows of each kind are in no final state."""
        newest = (
            sa.select(sa.func.max(_STREAM.c.id))
            .where(_STREAM.c.direction == Direction.INCOMING)
            .group_by(_STREAM.c.connection_id)
        )
        counts = {
            "deliveries": sa.select(sa.func.count()).where(
                _DELIVERY.c.state.in_((DeliveryState.PENDING, DeliveryState.SENDING))
            ),
            "events": sa.select(sa.func.count()).where(_EVENT.c.status == EventStatus.PENDING),
            "control messages": sa.select(sa.func.count()).where(
                _CONTROL.c.state.in_((ControlState.WAITING, ControlState.HELD)),
                _CONTROL.c.type.not_in(_FLEETING),
            ),
            "holes": sa.select(sa.func.count()).where(
                _STREAM.c.id.in_(newest), _STREAM.c.contiguous < _STREAM.c.head_sequence
            ),
        }
        return {what: number for what, query in counts.items() if (number := int(self._read(query)[0][0]))}

    def _read(self, query: sa.Select[Any]) -> Sequence[Any]:
        with self._engine.connect() as connection:
            return connection.execute(query).all()


class Subscriber(NamedTuple):
    """Who had to get the events: a book, and the connection (public id there) that they came over."""

    book: Book
    connection_id: str


def compare(
    event_type: str,
    accepted: Sequence[str],
    kept: Mapping[str, str],
    subscribers: Iterable[Subscriber],
    *,
    by_number: bool = False,
) -> Tally:
    """What became of the accepted events (messageIds in order of publication) at each subscriber.

    kept: what the sender signed, as `Book.outgoing` reads it. by_number: the order is that of the numbers in
    each stream. By default it is that in which the events were stored, which is the stricter one: what was
    repeated later comes later.
    """
    tally, wanted = Tally(), set(accepted)
    for book, connection_id in subscribers:
        stored = book.incoming(event_type, connection_id)
        good = {
            row.message_id
            for row in stored
            if row.message_id in kept and is_same_event(row.body.encode(), kept[row.message_id].encode())
        }
        tally = tally.plus(
            Tally(
                accepted=len(accepted),
                lost=len(wanted - good),
                doubled=len(stored) - len(wanted & {row.message_id for row in stored}),
                out_of_order=_out_of_order(accepted, stored, by_number),
            )
        )
    return tally


def _out_of_order(accepted: Sequence[str], stored: Sequence[Stored], by_number: bool) -> int:
    place = {message_id: number for number, message_id in enumerate(accepted)}
    runs: dict[int | None, list[Stored]] = {}
    for row in sorted(stored, key=lambda row: row.sequence or 0) if by_number else stored:
        runs.setdefault(row.stream_id if by_number else None, []).append(row)
    return sum(
        place[before.message_id] > place[after.message_id]
        for run in runs.values()
        for before, after in pairwise(run)
        if before.message_id in place and after.message_id in place
    )


def wait_until_final(
    books: Sequence[Book], within_s: float, meanwhile: Callable[[], object] = lambda: None
) -> int:
    """Wait until nothing is open at any of them, twice in a row; how many rows still are."""
    give_up_at, quiet = time.monotonic() + within_s, 0
    while True:
        still_open = sum(sum(book.open_rows().values()) for book in books)
        quiet = 0 if still_open else quiet + 1
        if quiet == 2 or time.monotonic() > give_up_at:
            return still_open
        meanwhile()
        time.sleep(0.2)
