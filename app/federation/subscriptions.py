"""Subscriptions: which event types flow over a connection, as its subscriber and as its publisher.

    subscriber   subscribe_to_event_type, unsubscribe_from_event_type, renew_due
    publisher    approve, reject, revoke
    both         grants_for (what may be sent), accepted_patterns (what is taken in), expire_due

Our rows of direction INCOMING are events that come to us; OUTGOING ones are asked for by the peer.
"""

import uuid
from typing import Any

import orjson
import sqlalchemy as sa

from app import clock
from app.access import audit
from app.config import settings
from app.database import db, read, table_of, transaction
from app.errors import SubscriptionExists
from app.federation import controls, lifecycle, streams
from app.federation.consequences import plugged
from app.models import Connection, ControlOut, Direction, Subscription
from app.protocol import control as wire
from app.protocol.control import ControlType
from app.protocol.errors import InvalidState, NotFound, invalid
from app.protocol.event_types import check_pattern, is_subset
from app.protocol.states import LIVE_SUBSCRIPTION, OPEN, ConnectionStatus, SubscriptionStatus

#: Lease that we ask for, seconds (§5).
LEASE_S = 30 * 86_400
#: How long after its lease a subscription's events are still taken: clocks differ (§5).
LEASE_GRACE_MS = 600_000
#: A renewal that is not answered is tried again after this.
RENEW_AGAIN_MS = 3_600_000
#: Until the cancel is answered, and no longer than its message is repeated.
_CANCEL_LIFE_MS = 8 * 86_400_000
_MAX_DETAILS = 16_384
#: Waiting and active subscriptions that a peer may have over one connection; one more is rejected.
MAX_OPEN = 1_000


def subscribe_to_event_type(
    workspace_id: int, connection_public_id: str, event_type: str, details: dict[str, Any] | None = None
) -> Subscription:
    """Ask the peer for its events of a type or pattern.

    workspace_id: the subscriber's workspace. connection_public_id: the API's `connectionId`. event_type: an
    event type or a pattern (`task.created`, `task.*`, `task.**`, `**`). details: own notes, kept and never
    sent. Returns the subscription: `active` if the peer granted it within 2 s, `rejected` if it refused,
    else `requested` or `pending`; the request then goes on by itself. Commits. Raises NotFound,
    InvalidRequest at /eventType, InvalidState unless the connection is active, SubscriptionExists.
    """
    check_pattern(event_type, "/eventType")
    text = orjson.dumps(details or {}).decode()
    if len(text) > _MAX_DETAILS:
        raise invalid("/metadata", f"is longer than {_MAX_DETAILS} bytes", "limit")
    with transaction():
        connection = lifecycle.lock(lifecycle.get_connection(workspace_id, connection_public_id).id)
        if connection.status is not ConnectionStatus.ACTIVE:
            raise InvalidState(
                f"The connection is {connection.status.value}; subscribing needs an active one."
            )
        if _live(connection.id, event_type) is not None:
            raise SubscriptionExists(f"{event_type} is subscribed to, or asked for, over this connection.")
        now_ms = clock.now_ms()
        subscription = Subscription(
            public_id=str(uuid.uuid4()),
            workspace_id=workspace_id,
            connection_id=connection.id,
            direction=Direction.INCOMING,
            wire_subscription_id=str(uuid.uuid4()),
            event_type=event_type,
            status=SubscriptionStatus.REQUESTED,
            lease_seconds=LEASE_S,
            details=text,
            created_at=now_ms,
            updated_at=now_ms,
        )
        db.session.add(subscription)
        db.session.flush()
        control = _request(connection, subscription)
        _note("create", subscription, after={"eventType": event_type, "connectionId": connection.public_id})
    return _answered(subscription.id, control)


def unsubscribe_from_event_type(
    workspace_id: int, connection_public_id: str, event_type: str
) -> Subscription:
    """Want the peer's events of a type or pattern no longer.

    Arguments as for `subscribe_to_event_type`; event_type is the pattern that was asked for. What is under
    way is still taken until 15 s after the peer answered. Returns the subscription, `cancelled`. Commits.
    Raises NotFound if the pattern is not subscribed to over this connection, InvalidRequest at /eventType.
    """
    check_pattern(event_type, "/eventType")
    with transaction():
        connection = lifecycle.lock(lifecycle.get_connection(workspace_id, connection_public_id).id)
        subscription = _live(connection.id, event_type)
        if subscription is None:
            raise NotFound(f"{event_type} is not subscribed to over this connection.")
        now_ms = clock.now_ms()
        subscription.status = SubscriptionStatus.CANCELLED
        subscription.renew_at = None
        subscription.accepts_until = now_ms + _CANCEL_LIFE_MS
        subscription.updated_at = now_ms
        control = controls.queue_control(
            connection,
            ControlType.SUBSCRIPTION_CANCEL,
            wire.SubscriptionEnd(subscription.wire_subscription_id),
        )
        _note("cancel", subscription)
    return _answered(subscription.id, control)


def approve(workspace_id: int, public_id: str, reason: str | None = None) -> Subscription:
    """Grant what the peer asked for. Commits; waits up to 2 s for the peer. Raises NotFound, InvalidState."""
    with transaction():
        connection, subscription = _lock_outgoing(workspace_id, public_id)
        _expect(subscription, SubscriptionStatus.PENDING)
        grant_of = grant(connection, subscription)
        control = controls.queue_control(
            connection,
            ControlType.SUBSCRIPTION_APPROVE,
            wire.SubscriptionApprove(subscription.wire_subscription_id, grant_of),
        )
        subscription.reason = reason
        _note("approve", subscription, after={"eventType": grant_of.event_type, "reason": reason})
    return _answered(subscription.id, control)


def reject(workspace_id: int, public_id: str, reason: str | None = None) -> Subscription:
    """Refuse what the peer asked for. Commits; waits up to 2 s for the peer.

    Raises NotFound, InvalidState.
    """
    with transaction():
        connection, subscription = _lock_outgoing(workspace_id, public_id)
        _expect(subscription, SubscriptionStatus.PENDING)
        control = _end_and_tell(
            connection, subscription, SubscriptionStatus.REJECTED, ControlType.SUBSCRIPTION_REJECT, reason
        )
        _note("reject", subscription, after={"reason": reason})
    return _answered(subscription.id, control)


def revoke(workspace_id: int, public_id: str, reason: str | None = None) -> Subscription:
    """Take a grant back; what was not sent yet is withdrawn. Commits; waits up to 2 s for the peer.

    Raises NotFound, InvalidState.
    """
    with transaction():
        connection, subscription = _lock_outgoing(workspace_id, public_id)
        _expect(subscription, SubscriptionStatus.ACTIVE)
        control = _end_and_tell(
            connection, subscription, SubscriptionStatus.REVOKED, ControlType.SUBSCRIPTION_REVOKE, reason
        )
        _note("revoke", subscription, after={"reason": reason})
        plugged().grants_shrank(connection.id)
    return _answered(subscription.id, control)


def get_subscription(workspace_id: int, public_id: str) -> Subscription:
    """One subscription of either direction. Raises NotFound."""
    found = db.session.scalar(
        sa.select(Subscription).where(
            Subscription.public_id == public_id, Subscription.workspace_id == workspace_id
        )
    )
    if found is None:
        raise NotFound("There is no such subscription.")
    return found


# The three questions of the hot paths are put together once, as Core statements. They are asked through the
# session, which writes first what the same transaction changed.
_SUBSCRIPTION, _CONNECTION = table_of(Subscription), table_of(Connection)

_ACTIVE_GRANT = sa.and_(
    _SUBSCRIPTION.c.direction == Direction.OUTGOING,
    _SUBSCRIPTION.c.status == SubscriptionStatus.ACTIVE,
    _SUBSCRIPTION.c.lease_expires_at > sa.bindparam("now"),
    _SUBSCRIPTION.c.granted_event_type.is_not(None),
)
_GRANTS_FOR = (
    sa.select(_SUBSCRIPTION.c.connection_id, _SUBSCRIPTION.c.granted_event_type)
    .join_from(_SUBSCRIPTION, _CONNECTION, _CONNECTION.c.id == _SUBSCRIPTION.c.connection_id)
    .where(
        _SUBSCRIPTION.c.workspace_id == sa.bindparam("workspace"),
        _ACTIVE_GRANT,
        _CONNECTION.c.status.in_(OPEN),
    )
)
_GRANTED_PATTERNS = sa.select(_SUBSCRIPTION.c.granted_event_type).where(
    _SUBSCRIPTION.c.connection_id == sa.bindparam("connection"), _ACTIVE_GRANT
)
_ACCEPTED_PATTERNS = sa.select(
    sa.func.coalesce(_SUBSCRIPTION.c.granted_event_type, _SUBSCRIPTION.c.event_type)
).where(
    _SUBSCRIPTION.c.connection_id == sa.bindparam("connection"),
    _SUBSCRIPTION.c.direction == Direction.INCOMING,
    sa.or_(
        _SUBSCRIPTION.c.status.in_((SubscriptionStatus.REQUESTED, SubscriptionStatus.PENDING)),
        sa.and_(
            _SUBSCRIPTION.c.status == SubscriptionStatus.ACTIVE,
            _SUBSCRIPTION.c.lease_expires_at > sa.bindparam("now") - LEASE_GRACE_MS,
        ),
        sa.and_(
            _SUBSCRIPTION.c.status.in_((SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED)),
            _SUBSCRIPTION.c.accepts_until > sa.bindparam("now"),
        ),
    ),
)


def grants_for(workspace_id: int) -> list[tuple[int, str]]:
    """(connection id, granted pattern) of all active grants on open connections: who gets a new event.

    Suspended connections count: their deliveries are held.
    """
    asked = {"workspace": workspace_id, "now": clock.now_ms()}
    return [(row[0], row[1]) for row in read(_GRANTS_FOR, asked)]


def granted_patterns(connection_id: int) -> list[str]:
    """The patterns that may be sent over a connection now."""
    asked = {"connection": connection_id, "now": clock.now_ms()}
    return list(read(_GRANTED_PATTERNS, asked).scalars())


def accepted_patterns(connection_id: int, now_ms: int) -> list[str]:
    """The patterns that events which come in over a connection must match, one of them (§5).

    What was asked for and not yet answered, what is granted and up to 10 minutes after its lease, and what
    was cancelled until 15 s after the peer knew.
    """
    asked = {"connection": connection_id, "now": now_ms}
    return list(read(_ACCEPTED_PATTERNS, asked).scalars())


def is_auto_granted(pattern: str) -> bool:
    """Whether FEDERATION_AUTO_GRANT grants all that the pattern covers."""
    return any(is_subset(pattern, granted) for granted in settings().federation_auto_grant)


def grant(connection: Connection, subscription: Subscription, event_type: str | None = None) -> wire.Grant:
    """Make it active with a new lease, inside the caller's transaction.

    Returns what the subscriber is told.
    """
    now_ms = clock.now_ms()
    subscription.status = SubscriptionStatus.ACTIVE
    subscription.granted_event_type = event_type or subscription.granted_event_type or subscription.event_type
    subscription.lease_expires_at = now_ms + subscription.lease_seconds * 1000
    subscription.updated_at = now_ms
    stream = streams.newest(connection.id, Direction.OUTGOING)
    if stream is None:
        raise LookupError("an open connection has a stream")
    return wire.Grant(
        subscription.granted_event_type,
        subscription.lease_expires_at,
        stream.epoch,
        stream.head_sequence + 1,
    )


def take_grant(subscription: Subscription, granted: wire.Grant) -> None:
    """Note what the publisher granted, inside the caller's transaction."""
    now_ms = clock.now_ms()
    subscription.status = SubscriptionStatus.ACTIVE
    subscription.granted_event_type = granted.event_type
    subscription.lease_expires_at = granted.lease_expires_at
    subscription.renew_at = now_ms + max(0, granted.lease_expires_at - now_ms) // 2
    subscription.updated_at = now_ms


def end_subscription(subscription: Subscription, status: SubscriptionStatus, reason: str | None) -> None:
    """Note an end that the other side or the clock caused, inside the caller's transaction."""
    subscription.status = status
    subscription.reason = reason
    subscription.renew_at = None
    subscription.updated_at = clock.now_ms()


def find(connection_id: int, direction: Direction, wire_id: str) -> Subscription | None:
    """The subscription that a message speaks of."""
    return db.session.scalar(
        sa.select(Subscription)
        .where(
            Subscription.connection_id == connection_id,
            Subscription.direction == direction,
            Subscription.wire_subscription_id == wire_id,
        )
        .execution_options(populate_existing=True)
    )


def count_open(connection_id: int) -> int:
    """How many subscriptions of the peer wait or are active over a connection, counted up to MAX_OPEN."""
    first = (
        sa.select(Subscription.id)
        .where(
            Subscription.connection_id == connection_id,
            Subscription.direction == Direction.OUTGOING,
            Subscription.status.in_((SubscriptionStatus.PENDING, SubscriptionStatus.ACTIVE)),
        )
        .limit(MAX_OPEN)
    )
    return db.session.scalar(sa.select(sa.func.count()).select_from(first.subquery())) or 0


def renew_due(limit: int = 100) -> int:
    """Ask again for subscriptions whose lease is half over, on active connections. Commits each; how many."""
    due = db.session.execute(
        sa.select(Subscription.id, Subscription.connection_id)
        .join(Connection, Connection.id == Subscription.connection_id)
        .where(
            Subscription.status == SubscriptionStatus.ACTIVE,
            Subscription.direction == Direction.INCOMING,
            Subscription.renew_at <= clock.now_ms(),
            Connection.status == ConnectionStatus.ACTIVE,
        )
        .limit(limit)
    ).all()
    for subscription_id, connection_id in due:
        with transaction():
            connection = lifecycle.lock(connection_id)
            subscription = _get(subscription_id)
            if subscription.status is SubscriptionStatus.ACTIVE:
                _request(connection, subscription)
                subscription.renew_at = clock.now_ms() + RENEW_AGAIN_MS
    return len(due)


def expire_due(limit: int = 100) -> int:
    """End subscriptions whose lease is over, of both directions. Commits each; how many."""
    due = db.session.execute(
        sa.select(Subscription.id, Subscription.connection_id)
        .where(
            Subscription.status == SubscriptionStatus.ACTIVE,
            Subscription.lease_expires_at <= clock.now_ms(),
        )
        .limit(limit)
    ).all()
    for subscription_id, connection_id in due:
        with transaction():
            lifecycle.lock(connection_id)
            subscription = _get(subscription_id)
            lease = subscription.lease_expires_at
            if subscription.status is SubscriptionStatus.ACTIVE and lease is not None:
                if lease > clock.now_ms():
                    continue
                end_subscription(subscription, SubscriptionStatus.EXPIRED, None)
                subscription.accepts_until = lease + LEASE_GRACE_MS
                if subscription.direction is Direction.OUTGOING:
                    plugged().grants_shrank(connection_id)
    return len(due)


def _note(verb: str, subscription: Subscription, after: dict[str, Any] | None = None) -> None:
    """Into the audit log, in the same transaction."""
    audit.record(
        f"subscription.{verb}",
        "subscription",
        subscription.public_id,
        after=after or {"eventType": subscription.event_type},
        workspace_id=subscription.workspace_id,
    )


def _request(connection: Connection, subscription: Subscription) -> ControlOut:
    return controls.queue_control(
        connection,
        ControlType.SUBSCRIPTION_REQUEST,
        wire.SubscriptionRequest(
            subscription.wire_subscription_id, subscription.event_type, subscription.lease_seconds
        ),
    )


def _end_and_tell(
    connection: Connection,
    subscription: Subscription,
    status: SubscriptionStatus,
    control_type: ControlType,
    reason: str | None,
) -> ControlOut:
    end_subscription(subscription, status, reason)
    return controls.queue_control(
        connection, control_type, wire.SubscriptionEnd(subscription.wire_subscription_id, reason)
    )


def _live(connection_id: int, event_type: str) -> Subscription | None:
    return db.session.scalar(
        sa.select(Subscription).where(
            Subscription.connection_id == connection_id,
            Subscription.direction == Direction.INCOMING,
            Subscription.event_type == event_type,
            Subscription.status.in_(LIVE_SUBSCRIPTION),
        )
    )


def _lock_outgoing(workspace_id: int, public_id: str) -> tuple[Connection, Subscription]:
    """The connection, held, and the peer's subscription on it, read after that."""
    seen = get_subscription(workspace_id, public_id)
    connection = lifecycle.lock(seen.connection_id)
    subscription = _get(seen.id)
    if subscription.direction is not Direction.OUTGOING:
        raise InvalidState("We asked for these events; the other side decides.")
    if connection.status not in OPEN:
        raise InvalidState(f"The connection is {connection.status.value}.")
    return connection, subscription


def _expect(subscription: Subscription, status: SubscriptionStatus) -> None:
    if subscription.status is not status:
        raise InvalidState(f"The subscription is {subscription.status.value}, not {status.value}.")


def _answered(subscription_id: int, control: ControlOut) -> Subscription:
    controls.wait_for_answer(control.id)
    return _get(subscription_id)


def _get(subscription_id: int) -> Subscription:
    return db.session.get_one(Subscription, subscription_id, populate_existing=True)
