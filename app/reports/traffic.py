"""Traffic: how much came and went in a period, whatever the size of the log.

A period with few events is counted. One with many is estimated from a sample: of each n row numbers between
the first and the last of the period one is looked up by its primary key, and each that belongs to the
workspace stands for n. That costs the same for a thousand events and for a billion, and needs no table of
sums that every publish would have to write. It is off by about one part in the square root of the rows seen;
whoever shows the figures says which of the two they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from app import clock
from app.database import db, table_of
from app.models import Delivery, Direction, Event
from app.protocol.states import DeliveryState

#: Rows of a period that are counted one by one; of a larger one so many are looked at.
COUNTED = 2_000
SAMPLED = 1_500
#: Deliveries that wait, or are dead, are few in good times and then counted, however many were delivered.
COUNTED_APART = 500
#: Knuth's multiplicative hash: 2**32 by the golden ratio.
_SCATTER = 2_654_435_761

_EVENT = table_of(Event)
_DELIVERY = table_of(Delivery)

_MINUTE_MS = 60_000


class Period(NamedTuple):
    """A stretch of time up to now, in equal buckets."""

    name: str
    words: str
    step_ms: int
    buckets: int
    #: How long a bucket is, in words.
    step_words: str


class Mark(StrEnum):
    """How a delivery counts in the bars."""

    DELIVERED = "delivered"
    WAITING = "waiting"
    DEAD = "dead"


#: The three that can be chosen, by the name in the URL.
PERIODS: Mapping[str, Period] = {
    period.name: period
    for period in (
        Period("1h", "last hour", _MINUTE_MS, 60, "minute"),
        Period("24h", "last 24 hours", 15 * _MINUTE_MS, 96, "15 minutes"),
        Period("7d", "last 7 days", 120 * _MINUTE_MS, 84, "2 hours"),
    )
}

_MARKS = {
    DeliveryState.DELIVERED: Mark.DELIVERED,
    DeliveryState.PENDING: Mark.WAITING,
    DeliveryState.SENDING: Mark.WAITING,
    DeliveryState.DEAD: Mark.DEAD,
}


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came and went. All lists have one number a bucket, the oldest first."""

    period: Period
    #: Beginning of the first bucket, ms.
    start_ms: int
    published: list[int]
    received: list[int]
    #: Deliveries by what became of them, in the bucket in which they were made.
    bars: dict[Mark, list[int]]
    #: Event types with their number, the busiest first.
    types: list[tuple[str, int]]
    #: Connections that events came over.
    senders: int
    #: From made to acknowledged, of those looked at, ms ascending.
    waits: list[int] = field(repr=False)
    #: 95 of 100 deliveries of each bucket were acknowledged in this time, ms; None: none was.
    slowest: list[int | None]
    #: One row stands for so many; 1 while all were counted.
    event_weight: int = 1
    delivery_weight: int = 1

    @property
    def is_estimated(self) -> bool:
        """Whether the figures come from a sample."""
        return max(self.event_weight, self.delivery_weight) > 1

    def total(self, mark: Mark) -> int:
        """Deliveries of the period with this mark."""
        return sum(self.bars[mark])

    def delivered_share(self) -> float | None:
        """Of the deliveries that ended, those that were acknowledged; None if none has ended."""
        ended = self.total(Mark.DELIVERED) + self.total(Mark.DEAD)
        return self.total(Mark.DELIVERED) / ended if ended else None

    def wait_ms(self, share: float) -> int | None:
        """The time in which this share of the deliveries was acknowledged; None if none was."""
        return _quantile(self.waits, share)

    def starts(self) -> list[int]:
        """Beginning of each bucket, ms."""
        return [self.start_ms + number * self.period.step_ms for number in range(self.period.buckets)]


def traffic(workspace_id: int, period: Period) -> Traffic:
    """What came and went in the period that ends now."""
    step, buckets = period.step_ms, period.buckets
    start_ms = (clock.now_ms() // step + 1 - buckets) * step
    first_event = _first_event(workspace_id, start_ms)
    events, event_weight = _look(
        _EVENT,
        workspace_id,
        first_event,
        (_EVENT.c.created_at, _EVENT.c.direction, _EVENT.c.event_type, _EVENT.c.connection_id),
    )
    first_delivery = _first_delivery(first_event)
    deliveries, delivery_weight = _look(
        _DELIVERY,
        workspace_id,
        first_delivery,
        (_DELIVERY.c.created_at, _DELIVERY.c.state, _DELIVERY.c.delivered_at),
    )
    counted = _counted_apart(workspace_id, first_delivery) if delivery_weight > 1 else {}
    published, received = [0] * buckets, [0] * buckets
    types: dict[str, int] = {}
    for created_at, direction, event_type, _connection in events:
        place = _bucket(created_at, start_ms, step, buckets)
        if place is not None:
            line = received if direction is Direction.INCOMING else published
            line[place] += event_weight
            types[event_type] = types.get(event_type, 0) + event_weight
    bars = {mark: [0] * buckets for mark in Mark}
    waits: list[list[int]] = [[] for _ in range(buckets)]
    for created_at, state, delivered_at in deliveries:
        place, mark = _bucket(created_at, start_ms, step, buckets), _MARKS.get(state)
        if place is not None and mark is not None and state not in counted:
            bars[mark][place] += delivery_weight
            if delivered_at is not None:
                waits[place].append(max(0, delivered_at - created_at))
    for state, times in counted.items():
        for created_at in times:
            place = _bucket(created_at, start_ms, step, buckets)
            if place is not None:
                bars[_MARKS[state]][place] += 1
    return Traffic(
        period,
        start_ms,
        published,
        received,
        bars,
        sorted(types.items(), key=lambda item: (-item[1], item[0])),
        len({row[3] for row in events if row[3] is not None}),
        sorted(wait for bucket in waits for wait in bucket),
        [_quantile(sorted(bucket), 0.95) for bucket in waits],
        event_weight,
        delivery_weight,
    )


def _first_event(workspace_id: int, start_ms: int) -> int | None:
    """Row number of the workspace's first event since then; None if there is none."""
    return db.session.scalar(
        sa.select(_EVENT.c.id)
        .where(_EVENT.c.workspace_id == workspace_id, _EVENT.c.created_at >= start_ms)
        .order_by(_EVENT.c.created_at)
        .limit(1)
    )


def _first_delivery(first_event: int | None) -> int | None:
    """Row number of the first delivery of that event or of the ones after it."""
    if first_event is None:
        return None
    return db.session.scalar(
        sa.select(_DELIVERY.c.id)
        .where(_DELIVERY.c.event_id >= first_event)
        .order_by(_DELIVERY.c.event_id)
        .limit(1)
    )


def _look(
    table: sa.Table, workspace_id: int, first: int | None, columns: Sequence[sa.Column[Any]]
) -> tuple[Sequence[Any], int]:
    """The workspace's rows from `first` on, or a sample of them, and for how many each of them stands."""
    if first is None:
        return (), 1
    mine = (table.c.workspace_id == workspace_id, table.c.id >= first)
    some = sa.select(table.c.id).where(*mine).limit(COUNTED + 1).subquery()
    if (db.session.scalar(sa.select(sa.func.count()).select_from(some)) or 0) <= COUNTED:
        return db.session.execute(sa.select(*columns).where(*mine)).all(), 1
    last = db.session.scalars(sa.select(table.c.id).where(*mine).order_by(table.c.id.desc()).limit(1)).one()
    weight = max(1, (last - first + 1) // SAMPLED)
    numbers = _every(first, last, weight)
    sampled = (
        sa.select(*columns)
        .select_from(numbers.join(table, table.c.id == _place(numbers, first, weight)))
        .where(table.c.workspace_id == workspace_id)
    )
    return db.session.execute(sampled).all(), weight


def _counted_apart(workspace_id: int, first: int | None) -> dict[DeliveryState, Sequence[int]]:
    """When each delivery that waits, or is dead, was made; of states with few enough of them."""
    found = {}
    for state in (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.DEAD):
        times = db.session.scalars(
            sa.select(_DELIVERY.c.created_at)
            .where(
                _DELIVERY.c.workspace_id == workspace_id,
                _DELIVERY.c.state == state,
                _DELIVERY.c.id >= first,
            )
            .order_by(_DELIVERY.c.id)
            .limit(COUNTED_APART + 1)
        ).all()
        if len(times) <= COUNTED_APART:
            found[state] = times
    return found


def _every(first: int, last: int, weight: int) -> sa.CTE:
    """0, 1, ... for each stretch of `weight` row numbers up to `last`, counted by the database: 1,500
    parameters would cost more.
    """
    numbers = sa.select(sa.cast(sa.literal(0), sa.BigInteger).label("number")).cte("numbers", recursive=True)
    following = numbers.c.number + 1
    return numbers.union_all(sa.select(following).where(following <= (last - first) // weight))


def _place(numbers: sa.CTE, first: int, weight: int) -> sa.ColumnElement[int]:
    """The row number at which each stretch is looked at: scattered, and always the same for the same stretch.

    The same place in each would see nothing of what comes every n-th time, such as answers to our events.
    """
    number = numbers.c.number
    scattered = (number * sa.literal(_SCATTER)) % sa.literal(2**32)
    return sa.literal(first) + number * sa.literal(weight) + scattered % sa.literal(weight)


def _bucket(at_ms: int, start_ms: int, step_ms: int, buckets: int) -> int | None:
    place = (at_ms - start_ms) // step_ms
    return place if 0 <= place < buckets else None


def _quantile(ascending: Sequence[int], share: float) -> int | None:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else None


def thinned(values: Iterable[float | None], points: int = 12) -> list[float]:
    """The line in fewer points, each the mean of its stretch; what is None counts as none."""
    line = [value or 0 for value in values]
    width = max(1, len(line) // points)
    return [sum(line[at : at + width]) / width for at in range(0, len(line) - width + 1, width)]
