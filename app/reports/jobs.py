"""Jobs in words that people know, and what waits in the database whether or not Redis answers."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db
from app.models import Connection, Delivery
from app.protocol.states import OPEN, DeliveryState
from app.reports.receivers import Receiver, receivers, receivers_of_peers

#: Deliveries of one connection and kind that are counted at most.
COUNT_CAP = 1_000
#: Connections with waiting deliveries that are shown at most, the longest waiting first.
CONNECTIONS_SHOWN = 50


class Names(Enum):
    """What the first id of a job names."""

    CONNECTION = "connection"
    PEER = "peer"
    NOTHING = "nothing"


class Kind(NamedTuple):
    """A job's function in words."""

    title: str
    names: Names


#: By dotted name. One that is missing is shown by that name, and nothing is linked.
KINDS: dict[str, Kind] = {
    "app.jobs.delivery.drain": Kind("Send events", Names.CONNECTION),
    "app.jobs.controls.send": Kind("Send control messages", Names.CONNECTION),
    "app.jobs.maintenance.check_request": Kind("Check a request", Names.CONNECTION),
    "app.jobs.maintenance.refresh_peer": Kind("Read the instance document", Names.PEER),
    "app.jobs.maintenance.sweep": Kind("Sweep", Names.NOTHING),
    "app.jobs.operations.work": Kind("Work off an operation", Names.NOTHING),
    "app.jobs.retention.start": Kind("Look for what is kept too long", Names.NOTHING),
    "app.jobs.retention.purge": Kind("Delete what was kept long enough", Names.NOTHING),
    "app.jobs.reconciliation.begin_due": Kind("Look for streams to compare", Names.NOTHING),
    "app.jobs.reconciliation.begin": Kind("Compare a stream with the peer", Names.CONNECTION),
}


class Call(NamedTuple):
    """What a job calls: dotted name and ids."""

    name: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JobWords:
    """What a job does, and for whom."""

    title: str
    #: None: for nobody alone, or for a connection of a workspace that is not among the reader's.
    receiver: Receiver | None
    is_of_others: bool


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for one connection. Times are Unix ms."""

    receiver: Receiver
    #: At most COUNT_CAP each.
    due: int
    later: int
    held: int
    sending: int
    #: When the oldest of them was published.
    oldest: int | None


def title_of(name: str) -> str:
    """What a job with that dotted name does, in words."""
    return KINDS[name].title if name in KINDS else name


def in_words(workspace_ids: Collection[int], calls: Iterable[Call]) -> dict[Call, JobWords]:
    """Jobs in words, for a reader who is a member of these workspaces."""
    wanted = set(calls)
    connections = receivers(workspace_ids, _named(wanted, Names.CONNECTION))
    peers = receivers_of_peers(workspace_ids, _named(wanted, Names.PEER))
    found = {Names.CONNECTION: connections, Names.PEER: peers, Names.NOTHING: {}}
    return {call: _words(call, found) for call in wanted}


def backlog(workspace_ids: Collection[int]) -> list[Backlog]:
    """Connections with deliveries that are not delivered yet, the longest waiting first."""
    now = now_ms()
    rows = db.session.execute(
        sa.select(Connection.id, *_counts(now), _oldest().label("oldest"))
        .where(
            Connection.workspace_id.in_(workspace_ids),
            Connection.status.in_(OPEN),
            sa.or_(_has(DeliveryState.PENDING), _has(DeliveryState.SENDING)),
        )
        .limit(4 * CONNECTIONS_SHOWN)
    ).all()
    by_number = receivers(workspace_ids, [row.id for row in rows])
    found = [_backlog(by_number[row.id], row, now) for row in rows if row.id in by_number]
    found.sort(key=lambda each: each.oldest or 0)
    return found[:CONNECTIONS_SHOWN]


def _named(calls: Iterable[Call], names: Names) -> list[int]:
    return [
        call.ids[0] for call in calls if call.ids and call.name in KINDS and KINDS[call.name].names is names
    ]


def _words(call: Call, found: dict[Names, dict[int, Receiver]]) -> JobWords:
    kind = KINDS.get(call.name, Kind(title_of(call.name), Names.NOTHING))
    if kind.names is Names.NOTHING or not call.ids:
        return JobWords(kind.title, None, False)
    receiver = found[kind.names].get(call.ids[0])
    return JobWords(kind.title, receiver, receiver is None)


def _backlog(receiver: Receiver, row: Any, now: int) -> Backlog:
    # A connection that fails waits as a whole, whatever its rows say.
    waits = receiver.retry_at > now
    due, later = (0, row.due + row.later) if waits else (row.due, row.later)
    if not receiver.sends:
        return Backlog(receiver, 0, 0, min(row.due + row.later, COUNT_CAP), row.sending, row.oldest)
    return Backlog(receiver, due, min(later, COUNT_CAP), 0, row.sending, row.oldest)


def _counts(now: int) -> tuple[sa.Label[int], ...]:
    pending = Delivery.state == DeliveryState.PENDING
    return (
        _count(pending, Delivery.next_attempt_at <= now).label("due"),
        _count(pending, Delivery.next_attempt_at > now).label("later"),
        _count(Delivery.state == DeliveryState.SENDING).label("sending"),
    )


def _count(*conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    some = (
        sa.select(sa.literal(1))
        .select_from(Delivery)
        .where(Delivery.connection_id == Connection.id, *conditions)
        .correlate(Connection)
        .limit(COUNT_CAP)
        .subquery()
    )
    return sa.select(sa.func.count()).select_from(some).scalar_subquery()


def _has(state: DeliveryState) -> sa.ColumnElement[bool]:
    return sa.exists().where(Delivery.connection_id == Connection.id, Delivery.state == state)


def _oldest() -> sa.ColumnElement[int | None]:
    """Of the numbered one that goes first, else of the first that has no number yet."""
    pending = (
        sa.select(Delivery.created_at)
        .where(Delivery.connection_id == Connection.id, Delivery.state == DeliveryState.PENDING)
        .correlate(Connection)
        .limit(1)
    )
    numbered = pending.where(Delivery.sequence.is_not(None)).order_by(Delivery.sequence)
    fresh = pending.where(Delivery.sequence.is_(None)).order_by(Delivery.id)
    return sa.func.coalesce(numbered.scalar_subquery(), fresh.scalar_subquery())
