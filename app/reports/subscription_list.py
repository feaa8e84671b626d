"""Subscriptions as their page shows them: with what flowed lately, who made them, and what one would bring.

What flowed is counted in the newest events of each connection, and no further: the numbers say so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from app import clock
from app.database import db
from app.models import AuditEntry, Connection, Delivery, Direction, Event, Peer, Subscription
from app.protocol.errors import NotFound
from app.protocol.event_types import matches
from app.protocol.states import LIVE_SUBSCRIPTION, ConnectionStatus, DeliveryState, SubscriptionStatus
from app.reports.connections import is_visible
from app.reports.event_types import seen_types
from app.reports.paging import ListKey, check_limit, cut, read_cursor, write_cursor
from app.reports.patterns import Overlap, is_broad, overlaps
from app.reports.words import summary

#: The newest events among which a preview counts.
PREVIEW_EVENTS = 1_000
#: Samples that a preview shows.
SAMPLES = 3
#: Rows that are looked at for one page, shared by its connections, and the fewest of each.
_TRAFFIC_ROWS, _FEWEST = 10_000, 500

#: Deliveries that are looked at before a grant is taken back.
_WITHDRAWN_ROWS = 20_000

_DAY_MS = 86_400_000

#: What is asked for and not decided.
WAITING = (SubscriptionStatus.REQUESTED, SubscriptionStatus.PENDING)


class Traffic(NamedTuple):
    """What flowed through a subscription."""

    #: In the last 24 hours.
    lately: int
    #: Whether there may be more than were counted.
    is_capped: bool
    #: When the last event came or was acknowledged, Unix ms; None if none of the newest was.
    last_at: int | None


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """One subscription. Times are Unix ms."""

    id: str
    connection_id: str
    peer: str
    direction: Direction
    #: The pattern asked for, and the one granted if it is another.
    pattern: str
    granted: str | None
    #: As shown: pending, active, held, rejected, revoked, cancelled, expired.
    state: str
    state_words: str
    is_live: bool
    #: A person here decides.
    is_asked: bool
    lease_expires_at: int | None
    reason: str
    created_at: int
    created_by: str
    traffic: Traffic
    #: Of our newest events those that it would have matched, and of how many; None unless it is asked for.
    would_match: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class SubscriptionPage:
    """One page, newest first."""

    rows: list[SubscriptionRow]
    older: str | None


class Sample(NamedTuple):
    """An event that would have matched."""

    message_id: str
    event_type: str
    created_at: int
    summary: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What a new subscription would bring, as far as we can know."""

    matched: int
    #: The newest events from this peer among which that was counted.
    of: int
    #: Estimated from these.
    a_day: int
    samples: list[Sample]
    #: Our live subscriptions there that share types with it.
    overlaps: list[Overlap]
    is_broad: bool


class Choice(NamedTuple):
    """An active connection that can be subscribed over."""

    connection_id: str
    peer: str
    host: str


def list_subscriptions(
    workspace_id: int,
    direction: Direction,
    *,
    status: str | None = None,
    peer: str | None = None,
    pattern: str | None = None,
    older: str | None = None,
    limit: int = 50,
) -> SubscriptionPage:
    """Subscriptions of one direction of events, newest first.

    status: live, waiting, or a status as shown; None for all. peer: part of the peer's name or address.
    pattern: part of the pattern. Raises InvalidCursor.
    """
    filters = {"direction": direction, "status": status, "peer": peer, "pattern": pattern}
    key = ListKey("subscription page", workspace_id, filters)
    after = read_cursor(key, older)
    query = _shown().where(Subscription.workspace_id == workspace_id, Subscription.direction == direction)
    states = _states(status)
    if states is not None:
        query = query.where(Subscription.status.in_(states))
    if peer:
        is_peer = sa.or_(
            Peer.name.icontains(peer, autoescape=True), Peer.base_url.icontains(peer, autoescape=True)
        )
        query = query.where(is_peer)
    if pattern:
        query = query.where(Subscription.event_type.icontains(pattern, autoescape=True))
    if after is not None:
        query = query.where(Subscription.id < after[0])
    query = query.order_by(Subscription.id.desc()).limit(check_limit(limit) + 1)
    rows, more = cut(db.session.execute(query).all(), limit)
    return SubscriptionPage(_rows(workspace_id, rows), write_cursor(key, [rows[-1][0].id]) if more else None)


def list_asked(workspace_id: int, most: int = 50) -> list[SubscriptionRow]:
    """What peers ask for and a person here has to decide, the oldest first."""
    query = (
        _shown()
        .where(
            Subscription.workspace_id == workspace_id,
            Subscription.direction == Direction.OUTGOING,
            Subscription.status == SubscriptionStatus.PENDING,
        )
        .order_by(Subscription.id)
        .limit(most)
    )
    return _rows(workspace_id, db.session.execute(query).all())


def get_subscription_row(workspace_id: int, public_id: str) -> SubscriptionRow:
    """One subscription. Raises NotFound."""
    query = _shown().where(Subscription.workspace_id == workspace_id, Subscription.public_id == public_id)
    found = db.session.execute(query).all()
    if not found:
        raise NotFound("There is no such subscription in this workspace.")
    return _rows(workspace_id, found)[0]


def has_any(workspace_id: int) -> bool:
    """Whether there ever was a subscription."""
    query = sa.select(Subscription.id).where(Subscription.workspace_id == workspace_id).limit(1)
    return db.session.scalar(query) is not None


def subscribable(workspace_id: int) -> list[Choice]:
    """Active connections, by the name of their peer."""
    rows = db.session.execute(
        sa.select(Connection.public_id, Peer.name, Peer.base_url)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Connection.workspace_id == workspace_id,
            Connection.status == ConnectionStatus.ACTIVE,
            is_visible(),
        )
        .limit(500)
    )
    found = [Choice(public_id, name, url.partition("://")[2]) for public_id, name, url in rows]
    return sorted(found, key=lambda choice: (choice.peer.lower(), choice.host))


def suggested_types(workspace_id: int) -> list[str]:
    """Event types that this workspace has seen, of both directions, in alphabetical order."""
    return seen_types(workspace_id)


def preview(workspace_id: int, connection_public_id: str, pattern: str) -> Preview:
    """What a pattern would have brought of the newest events that came from a peer.

    pattern: a valid one. Only what we hold can be counted. Raises NotFound.
    """
    connection_id = db.session.scalar(
        sa.select(Connection.id).where(
            Connection.workspace_id == workspace_id,
            Connection.public_id == connection_public_id,
            is_visible(),
        )
    )
    if connection_id is None:
        raise NotFound("There is no such connection in this workspace.")
    newest = db.session.execute(
        sa.select(Event.id, Event.event_type, Event.created_at)
        .where(Event.connection_id == connection_id)
        .order_by(Event.id.desc())
        .limit(PREVIEW_EVENTS)
    ).all()
    found = [row for row in newest if matches(pattern, row.event_type)]
    ours = db.session.scalars(
        sa.select(Subscription.event_type).where(
            Subscription.connection_id == connection_id,
            Subscription.direction == Direction.INCOMING,
            Subscription.status.in_(LIVE_SUBSCRIPTION),
        )
    ).all()
    spread_ms = max(clock.now_ms() - newest[-1].created_at, 3_600_000) if newest else _DAY_MS
    return Preview(
        len(found),
        len(newest),
        round(len(found) * _DAY_MS / spread_ms),
        _samples([row.id for row in found[:SAMPLES]]),
        overlaps(pattern, ours),
        is_broad(pattern),
    )


def recent_matches(workspace_id: int, patterns: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many of our newest events each pattern covers, and of how many."""
    newest = (
        sa.select(Event.event_type)
        .where(Event.workspace_id == workspace_id, Event.direction == Direction.OUTGOING)
        .order_by(Event.id.desc())
        .limit(PREVIEW_EVENTS)
        .subquery()
    )
    counted = db.session.execute(
        sa.select(newest.c.event_type, sa.func.count()).group_by(newest.c.event_type)
    ).all()
    total = sum(number for _, number in counted)
    return {
        pattern: (sum(number for name, number in counted if matches(pattern, name)), total)
        for pattern in patterns
    }


def withdrawn_by(workspace_id: int, public_id: str) -> tuple[int, bool]:
    """Deliveries that wait and would go with a grant, and whether there may be more. Raises NotFound."""
    found = db.session.scalars(
        sa.select(Subscription).where(
            Subscription.workspace_id == workspace_id, Subscription.public_id == public_id
        )
    ).one_or_none()
    if found is None:
        raise NotFound("There is no such subscription in this workspace.")
    others = db.session.scalars(
        sa.select(Subscription.granted_event_type).where(
            Subscription.connection_id == found.connection_id,
            Subscription.direction == Direction.OUTGOING,
            Subscription.status == SubscriptionStatus.ACTIVE,
            Subscription.granted_event_type.is_not(None),
            Subscription.id != found.id,
        )
    ).all()
    waiting = (
        sa.select(Delivery.event_type)
        .where(Delivery.connection_id == found.connection_id, Delivery.state == DeliveryState.PENDING)
        .limit(_WITHDRAWN_ROWS)
        .subquery()
    )
    counted = db.session.execute(
        sa.select(waiting.c.event_type, sa.func.count()).group_by(waiting.c.event_type)
    ).all()
    pattern = found.granted_event_type or found.event_type
    number = sum(
        count
        for name, count in counted
        if matches(pattern, name) and not any(other and matches(other, name) for other in others)
    )
    return number, sum(count for _, count in counted) == _WITHDRAWN_ROWS


def _shown() -> sa.Select[*tuple[Any, ...]]:
    return (
        sa.select(Subscription, Connection.public_id, Connection.status, Peer.name, Peer.base_url)
        .join(Connection, Connection.id == Subscription.connection_id)
        .outerjoin(Peer, Peer.id == Connection.peer_id)
        .execution_options(populate_existing=True)
    )


def _states(status: str | None) -> Sequence[SubscriptionStatus] | None:
    if not status:
        return None
    if status == "live":
        return tuple(LIVE_SUBSCRIPTION)
    if status in ("waiting", "pending"):
        return WAITING
    return [known for known in SubscriptionStatus if known.value == status]


def _rows(workspace_id: int, found: Sequence[Any]) -> list[SubscriptionRow]:
    if not found:
        return []
    subscriptions = [row[0] for row in found]
    flowed = _flowed(subscriptions)
    makers = _makers([one.public_id for one in subscriptions])
    asked = [one.event_type for one in subscriptions if _is_asked(one)]
    would = recent_matches(workspace_id, asked) if asked else {}
    return [_row(tuple(row), flowed, makers, would) for row in found]


def _row(
    found: tuple[Subscription, str, ConnectionStatus, str | None, str | None],
    flowed: Mapping[tuple[int, Direction], "_Flow"],
    makers: Mapping[str, str],
    would: Mapping[str, tuple[int, int]],
) -> SubscriptionRow:
    subscription, connection_id, connection_status, peer, url = found
    state, words = _state(subscription, connection_status)
    granted = subscription.granted_event_type
    pattern = subscription.event_type
    by_peer = subscription.direction is Direction.OUTGOING
    name = peer or url or "unknown"
    return SubscriptionRow(
        subscription.public_id,
        connection_id,
        name,
        subscription.direction,
        pattern,
        granted if granted != pattern else None,
        state,
        words,
        subscription.status in LIVE_SUBSCRIPTION,
        _is_asked(subscription),
        subscription.lease_expires_at,
        subscription.reason or "",
        subscription.created_at,
        name if by_peer else makers.get(subscription.public_id, ""),
        flowed[subscription.connection_id, subscription.direction].of(granted or pattern),
        would.get(pattern) if _is_asked(subscription) else None,
    )


def _is_asked(subscription: Subscription) -> bool:
    return subscription.direction is Direction.OUTGOING and subscription.status is SubscriptionStatus.PENDING


def _state(subscription: Subscription, connection: ConnectionStatus) -> tuple[str, str]:
    if subscription.status in WAITING:
        if subscription.direction is Direction.OUTGOING:
            return "pending", "waits for you"
        return "pending", "waits for them" if subscription.status == SubscriptionStatus.PENDING else "asked"
    if subscription.status is SubscriptionStatus.ACTIVE and connection is not ConnectionStatus.ACTIVE:
        return "held", f"held: {connection.value}"
    return subscription.status.value, ""


def _makers(public_ids: Sequence[str]) -> dict[str, str]:
    """Who made subscriptions of ours, as the audit log has it."""
    rows = db.session.execute(
        sa.select(AuditEntry.object_id, AuditEntry.actor_name).where(
            AuditEntry.object_kind == "subscription",
            AuditEntry.object_id.in_(public_ids),
            AuditEntry.action == "subscription.create",
        )
    )
    return {object_id: name for object_id, name in rows}


@dataclass(frozen=True, slots=True)
class _Flow:
    """The newest events of one direction of a connection: by type, how many in 24 hours, and the last."""

    by_type: Mapping[str, tuple[int, int]]
    is_capped: bool

    def of(self, pattern: str) -> Traffic:
        found = [self.by_type[name] for name in self.by_type if matches(pattern, name)]
        count = sum(number for number, _ in found)
        return Traffic(count, self.is_capped, max((last for _, last in found), default=None))


def _flowed(subscriptions: Sequence[Subscription]) -> dict[tuple[int, Direction], _Flow]:
    pairs = {(one.connection_id, one.direction) for one in subscriptions}
    most = max(_TRAFFIC_ROWS // len(pairs), _FEWEST)
    since = clock.now_ms() - _DAY_MS
    return {pair: _flow(*pair, most, since) for pair in pairs}


def _flow(connection_id: int, direction: Direction, most: int, since: int) -> _Flow:
    if direction is Direction.INCOMING:
        newest = sa.select(Event.event_type, Event.created_at.label("at")).where(
            Event.connection_id == connection_id
        )
        newest = newest.order_by(Event.id.desc())
    else:
        arrived = sa.case((Delivery.state == DeliveryState.DELIVERED, Delivery.delivered_at))
        newest = sa.select(Delivery.event_type, arrived.label("at")).where(
            Delivery.connection_id == connection_id
        )
        newest = newest.order_by(Delivery.id.desc())
    rows = newest.limit(most).subquery()
    lately = sa.func.sum(sa.case((rows.c.at >= since, 1), else_=0))
    counted = db.session.execute(
        sa.select(
            rows.c.event_type, sa.func.count(), lately, sa.func.max(rows.c.at), sa.func.min(rows.c.at)
        ).group_by(rows.c.event_type)
    ).all()
    looked_at = sum(row[1] for row in counted)
    first = min((row[4] for row in counted if row[4] is not None), default=since)
    by_type = {row[0]: (int(row[2]), row[3]) for row in counted if row[3] is not None}
    return _Flow(by_type, looked_at == most and first >= since)


def _samples(event_ids: Sequence[int]) -> list[Sample]:
    rows = db.session.execute(
        sa.select(Event.message_id, Event.event_type, Event.created_at, Event.body)
        .where(Event.id.in_(event_ids))
        .order_by(Event.id.desc())
    )
    return [
        Sample(message_id, event_type, created_at, summary(orjson.loads(body)["payload"]))
        for message_id, event_type, created_at, body in rows
    ]
