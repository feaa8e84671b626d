"""Lifecycle: the moves of a connection, whoever causes them, and what each of them brings with it.

All functions here work inside the caller's transaction, on a connection that `lock` gave.
"""

import logging
from secrets import token_urlsafe
from typing import Any

import sqlalchemy as sa

from app import clock
from app.config import settings
from app.database import db, table_of
from app.federation import controls, streams
from app.federation.consequences import plugged
from app.models import Connection, ControlOut, Direction, Subscription
from app.protocol import control as wire
from app.protocol.control import ControlType
from app.protocol.errors import (
    ConnectionClosed,
    ConnectionSuspended,
    InvalidState,
    KeyUntrusted,
    NotFound,
    Overloaded,
    Problem,
)
from app.protocol.members import is_uuid
from app.protocol.states import ENDED, LIVE_SUBSCRIPTION, OPEN, WAITING, ConnectionStatus, SubscriptionStatus

log = logging.getLogger(__name__)

#: How long what comes in is still taken after we announced a suspension or an end, ms (§4).
GRACE_MS = 15_000
#: How long an accept or a resume of ours may wait for its answer, ms; what comes in is taken meanwhile.
ANSWER_LIFE_MS = 14 * 86_400_000


def get_connection(workspace_id: int, public_id: str) -> Connection:
    """One connection of a workspace. A request that was not checked yet is none. Raises NotFound."""
    found = None
    if is_uuid(public_id):
        found = db.session.scalar(
            sa.select(Connection).where(
                Connection.public_id == public_id,
                Connection.workspace_id == workspace_id,
                Connection.checked_at.is_not(None),
            )
        )
    if found is None:
        raise NotFound("There is no such connection.")
    return found


def lock(connection_id: int) -> Connection:
    """The connection as it is now, held until the transaction ends. Raises NotFound."""
    connection = db.session.scalar(_LOCKED, {"connection": connection_id})
    if connection is None:
        raise NotFound("There is no such connection.")
    return connection


#: Read for every request of a peer, so put together once.
_LOCKED = (
    sa.select(Connection)
    .where(Connection.id == sa.bindparam("connection"))
    .with_for_update()
    .execution_options(populate_existing=True)
)


def is_sending(connection: Connection) -> bool:
    """Whether its deliveries go out now, but for a wait after failures. Otherwise they are held."""
    return (
        connection.status is ConnectionStatus.ACTIVE
        and not connection.key_review
        and connection.hold_code is None
        and not connection.paused_outgoing
    )


_CONNECTION = table_of(Connection)


def sending_clause() -> sa.ColumnElement[bool]:
    """`is_sending` as SQL."""
    return sa.and_(
        _CONNECTION.c.status == ConnectionStatus.ACTIVE,
        _CONNECTION.c.key_review.is_(False),
        _CONNECTION.c.hold_code.is_(None),
        _CONNECTION.c.paused_outgoing.is_(False),
    )


def status_for_input(connection: Connection, now_ms: int) -> ConnectionStatus:
    """The state that what comes in meets, which differs from our own for a while (§4).

    After our accept or resume left it is active before the answer came; after we announced a suspension or
    an end it still is, until the peer acknowledged that or 15 s are over.
    """
    held_open = connection.inbound_open_until is not None and now_ms < connection.inbound_open_until
    if held_open and not connection.suspended_by_peer:
        return ConnectionStatus.ACTIVE
    return connection.status


def refusal_of_events(connection: Connection, now_ms: int) -> Problem | None:
    """Why a new event may not come in over this connection now; None if it may (last lines of §4's table)."""
    status = status_for_input(connection, now_ms)
    if connection.key_review:
        return KeyUntrusted()
    if status is ConnectionStatus.SUSPENDED:
        return ConnectionSuspended()
    if status in WAITING:
        return InvalidState("The connection is not accepted yet.")
    if status in ENDED:
        return ConnectionClosed()
    if connection.paused_incoming:
        return Overloaded("Not taking events now.", retry_after_s=60)
    return None


#: Columns of a wait after failures, as they are while there is none.
NO_WAIT: dict[str, Any] = {
    "failures": 0,
    "network_failures": 0,
    "untold_waits": 0,
    "retry_at": 0,
    "breaker_opened_at": None,
    "wait_code": None,
    "wait_detail": None,
}


def end_wait(connection: Connection) -> None:
    """Close the breaker and forget the failures: the next request may go at once (§8).

    The caller has the drain woken.
    """
    if connection.breaker_opened_at is not None:
        log.info("breaker.closed", extra={"connection_id": connection.id})
    for name, value in NO_WAIT.items():
        setattr(connection, name, value)


def touch(connection: Connection) -> None:
    """Note that something about the connection changed."""
    connection.updated_at = clock.now_ms()


def activate(connection: Connection) -> None:
    """Make it active, or, after suspensions, what those that still stand allow.

    The first time the stream to the peer begins and a verification is sent; a connection that it replaces
    ends.
    """
    connection.inbound_open_until = None
    connection.status = (
        ConnectionStatus.SUSPENDED
        if connection.suspended_by_me or connection.suspended_by_peer
        else ConnectionStatus.ACTIVE
    )
    touch(connection)
    if connection.activated_at is None:
        connection.activated_at = clock.now_ms()
        connection.our_base_url = settings().base_url
        _begin_stream(connection)
        send_verification(connection)
        _end_replaced(connection)
    connection.hold_code = connection.hold_detail = connection.hold_since = None
    controls.hurry(connection.id)
    controls.drain_after_commit(connection.id)


def send_verification(connection: Connection) -> ControlOut:
    """Ask the peer to answer, to see that both ways work. Never repeated."""
    return controls.queue_control(connection, ControlType.VERIFICATION, wire.Verification(token_urlsafe(24)))


def suspend(connection: Connection, *, by_me: bool, reason: str | None) -> None:
    """Note a suspension: nothing goes out from now on."""
    if by_me:
        connection.suspended_by_me = True
    else:
        connection.suspended_by_peer = True
    connection.status = ConnectionStatus.SUSPENDED
    connection.reason = reason
    touch(connection)


def end(connection: Connection, status: ConnectionStatus, reason: str | None) -> None:
    """End it: its subscriptions end too, what waits for it is given up, history stays.

    The caller says it to the peer, if it is to be said, after this: what waited before is not sent any
    more.
    """
    was_open = connection.activated_at is not None
    connection.status = status
    connection.reason = reason
    connection.closed_at = clock.now_ms()
    connection.key_review = False
    connection.inbound_open_until = None
    touch(connection)
    controls.give_up(connection.id)
    _end_subscriptions(connection.id)
    if was_open:
        plugged().connection_closed(connection.id)


def end_by_us(connection: Connection, reason: str | None) -> ControlOut:
    """Disconnect, and tell the peer. What comes in is refused when it knows, or in 15 s."""
    was_open = status_for_input(connection, clock.now_ms()) is ConnectionStatus.ACTIVE
    end(connection, ConnectionStatus.DISCONNECTED, reason)
    if was_open:
        connection.inbound_open_until = clock.now_ms() + GRACE_MS
    return controls.queue_control(connection, ControlType.CONNECTION_DISCONNECT, wire.Reason(reason))


def _begin_stream(connection: Connection) -> None:
    if streams.newest(connection.id, Direction.OUTGOING) is None:
        streams.begin(connection.id)


def _end_replaced(connection: Connection) -> None:
    """The connection that this one replaces ends now; the side that was asked says so."""
    if connection.replaces_id is None or connection.direction is not Direction.INCOMING:
        return
    replaced = lock(connection.replaces_id)
    if replaced.status in OPEN:
        end_by_us(replaced, "replaced by a new connection")


def _end_subscriptions(connection_id: int) -> None:
    # Both sides call it cancelled, whoever ended the connection, so that their lists agree.
    now_ms = clock.now_ms()
    db.session.execute(
        sa.update(Subscription)
        .where(
            Subscription.connection_id == connection_id,
            Subscription.status.in_(LIVE_SUBSCRIPTION),
        )
        .values(
            status=SubscriptionStatus.CANCELLED,
            renew_at=None,
            accepts_until=now_ms + GRACE_MS,
            updated_at=now_ms,
        )
    )
