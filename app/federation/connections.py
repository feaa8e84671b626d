"""Connections: what our own people do with one that is there (see `acts`).

`connection_id` is our row number; callers come by it through `lifecycle.get_connection`.
"""

import json
from dataclasses import dataclass

import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.errors import RemoteInvalid, RemoteUnreachable
from app.federation import acts, answers, consequences, controls, identity, lifecycle, peers, sending
from app.models import Connection, ControlOut, ControlState, Direction
from app.protocol import control as wire
from app.protocol.control import ControlType
from app.protocol.errors import InvalidState
from app.protocol.states import (
    ENDED,
    OPEN,
    WAITING,
    Action,
    ConnectionStatus,
    Move,
    decide_action,
    who_suspended,
)

#: How long `verify` waits: a whole request, and a document that may have to be read on the way.
VERIFY_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of a `verification`."""

    status: str  #: the connection's state as the peer has it
    round_trip_ms: int
    matched: bool  #: the peer sent back what it was sent
    clock_skew_ms: int | None


def accept(connection_id: int, reason: str | None = None) -> Connection:
    """Accept a request. Active when the peer answered; what comes in is taken from now on. Commits.

    Raises NotFound, InvalidState, InvalidRequest at /reason.
    """
    acts.check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        control = begin_accept(connection)
        connection.reason = reason
        acts.note("accept", connection, {"reason": reason})
    return acts.answered(connection_id, control)


def begin_accept(connection: Connection) -> ControlOut:
    """Say that we accept, inside the caller's transaction, on a connection that `lifecycle.lock` gave.

    Raises InvalidState if it is not asked of us, or accepted already.
    """
    _expect_unanswered(connection, Action.ACCEPT)
    offer = json.loads(connection.offer)
    version = next((v for v in identity.VERSIONS if v in offer.get("versions", ())), None)
    if version is None:
        raise InvalidState("The other side offers no version that we speak.")
    acts.check_algorithm(frozenset() if connection.peer is None else peers.features_of(connection.peer))
    features = tuple(f for f in identity.FEATURES if f in offer.get("features", ()))
    connection.version = version
    connection.features = json.dumps(features)
    connection.inbound_open_until = clock.now_ms() + lifecycle.ANSWER_LIFE_MS
    lifecycle.touch(connection)
    workspace = connection.workspace
    return controls.queue_control(
        connection,
        ControlType.CONNECTION_ACCEPT,
        wire.ConnectionAccept(
            connection.request_message_id, version, features, workspace.slug, workspace.name
        ),
    )


def reject(connection_id: int, reason: str | None = None) -> Connection:
    """Refuse a request. Commits. Raises NotFound, InvalidState, InvalidRequest at /reason."""
    acts.check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        control = begin_reject(connection, reason)
        acts.note("reject", connection, {"reason": reason})
    return acts.answered(connection_id, control)


def begin_reject(connection: Connection, reason: str | None) -> ControlOut:
    """Say that we refuse, inside the caller's transaction. Raises InvalidState."""
    _expect_unanswered(connection, Action.REJECT)
    lifecycle.end(connection, ConnectionStatus.REJECTED, reason)
    return controls.queue_control(
        connection,
        ControlType.CONNECTION_REJECT,
        wire.ConnectionReject(connection.request_message_id, reason),
    )


def suspend(connection_id: int, reason: str | None = None) -> Connection:
    """Stop the traffic, both ways, until we resume. Commits.

    Nothing goes out from now on; what comes in is taken until the peer knows, at most 15 s.
    Raises NotFound, InvalidState, InvalidRequest at /reason.
    """
    acts.check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        resuming = controls.waiting(connection_id, ControlType.CONNECTION_RESUME) is not None
        # A resume that the peer has not answered yet is taken back.
        _allow(connection, Action.SUSPEND, by_me=connection.suspended_by_me and not resuming)
        was_flowing = lifecycle.status_for_input(connection, clock.now_ms()) is ConnectionStatus.ACTIVE
        lifecycle.suspend(connection, by_me=True, reason=reason)
        connection.inbound_open_until = clock.now_ms() + lifecycle.GRACE_MS if was_flowing else None
        control = controls.queue_control(connection, ControlType.CONNECTION_SUSPEND, wire.Reason(reason))
        acts.note("suspend", connection, {"reason": reason})
    return acts.answered(connection_id, control)


def resume(connection_id: int, reason: str | None = None) -> Connection:
    """Take our own suspension back. What comes in is taken from now on, ours goes out when the peer
    answered.

    Commits. Raises NotFound, InvalidState if we have not suspended it, InvalidRequest at /reason.
    """
    acts.check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        resuming = controls.waiting(connection_id, ControlType.CONNECTION_RESUME) is not None
        _allow(connection, Action.RESUME)
        if resuming and connection.inbound_open_until is not None:
            raise InvalidState("It was resumed already; the other side has not answered yet.")
        connection.inbound_open_until = clock.now_ms() + lifecycle.ANSWER_LIFE_MS
        # What the suspension said is over; while the peer's own stands, so does its reason.
        connection.reason = reason if not connection.suspended_by_peer else reason or connection.reason
        lifecycle.touch(connection)
        control = controls.queue_control(connection, ControlType.CONNECTION_RESUME, wire.Reason(reason))
        acts.note("resume", connection, {"reason": reason})
    return acts.answered(connection_id, control)


def disconnect(connection_id: int, reason: str | None = None) -> Connection:
    """End it for good, from either side; before it was accepted this takes the request back. Commits.

    Raises NotFound, InvalidState if it has ended, InvalidRequest at /reason.
    """
    acts.check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        _allow(connection, Action.DISCONNECT)
        before = connection.status.value
        control = lifecycle.end_by_us(connection, reason)
        acts.note("disconnect", connection, {"reason": reason}, before={"status": before})
    return acts.answered(connection_id, control)


def verify(connection_id: int) -> Verification:
    """Ask the peer to answer, now. A success lets go on what a refusal held. Commits.

    Raises NotFound, InvalidState unless it is open, RemoteUnreachable, RemoteInvalid.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status not in OPEN:
            raise _illegal(connection, "verify")
        control = lifecycle.send_verification(connection)
        controls.hurry(connection_id)
        acts.note("ping", connection)
    # By ourselves rather than by a worker: a round trip is measured, and none need be running. Whoever
    # holds the lease already sends ours as well.
    sending.send_controls(connection_id)
    control = controls.wait_for_answer(control.id, VERIFY_WAIT_S)
    if control.state is ControlState.ANSWERED:
        return Verification(
            control.answer_status or "",
            control.duration_ms or 0,
            control.error_code is None,
            acts.read(connection_id).clock_skew_ms,
        )
    detail = control.error_detail or "no answer yet"
    if control.status_code is None:
        raise RemoteUnreachable(f"The other side cannot be reached: {detail}", reason=control.error_code)
    raise RemoteInvalid(f"The other side answered {control.status_code}: {detail}", reason=control.error_code)


def retry_now(connection_id: int) -> Connection:
    """End every wait and hold of the connection: events and control messages go at once. Commits.

    Also the back-off of single events that the peer refused for now.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status in ENDED:
            raise _illegal(connection, "retry")
        acts.note(
            "retry_now", connection, before={"failures": connection.failures, "hold": connection.hold_code}
        )
        lifecycle.end_wait(connection)
        answers.release(connection)
        controls.hurry(connection_id)
        controls.wake_after_commit(connection_id)
        consequences.plugged().waits_ended(connection_id)
    return acts.read(connection_id)


def pause(connection_id: int, direction: Direction | None = None) -> Connection:
    """Hold events of one direction, or both, without telling the peer. Commits. Safe to repeat.

    Outgoing: they wait here, and use no attempt. Incoming: the peer is answered `overloaded`, which is no
    failure for it, so that they wait there; what it repeats is still a duplicate, and control messages pass.
    Raises NotFound, InvalidState if the connection has ended.
    """
    return _set_paused(connection_id, direction, True)


def unpause(connection_id: int, direction: Direction | None = None) -> Connection:
    """Let events of one direction, or both, go on. Commits. Safe to repeat.

    What waits here goes at once; what waits at the peer, within the minute that it was asked to wait.
    Raises NotFound, InvalidState if the connection has ended.
    """
    return _set_paused(connection_id, direction, False)


def expire_due(limit: int = 100) -> int:
    """End requests that nobody answered for 14 days, on our side, without a message.

    Commits each; how many.
    """
    before_ms = clock.now_ms() - sending.REQUEST_LIFE_MS
    due = db.session.scalars(
        sa.select(Connection.id)
        .where(
            Connection.status.in_(WAITING),
            Connection.checked_at.is_not(None),
            Connection.created_at <= before_ms,
        )
        .limit(limit)
    ).all()
    for connection_id in due:
        with transaction():
            connection = lifecycle.lock(connection_id)
            if connection.status in WAITING:
                lifecycle.end(connection, ConnectionStatus.EXPIRED, None)
    return len(due)


def _allow(connection: Connection, action: Action, *, by_me: bool | None = None) -> None:
    """Ask the table of our own moves. Raises InvalidState."""
    status = connection.status
    by_me = connection.suspended_by_me if by_me is None else by_me
    suspended_by = (
        who_suspended(by_me, connection.suspended_by_peer) if status is ConnectionStatus.SUSPENDED else None
    )
    if not isinstance(decide_action(action, status, suspended_by), Move):
        raise _illegal(connection, action.value)


def _expect_unanswered(connection: Connection, action: Action) -> None:
    """InvalidState unless it waits for us and nobody has answered yet."""
    _allow(connection, action)
    if connection.checked_at is None:
        raise _illegal(connection, action.value)
    if controls.waiting(connection.id, ControlType.CONNECTION_ACCEPT) is not None:
        raise InvalidState("It was accepted already; the other side has not answered yet.")


def _illegal(connection: Connection, what: str) -> InvalidState:
    by = ""
    if connection.status is ConnectionStatus.SUSPENDED:
        us, them = connection.suspended_by_me, connection.suspended_by_peer
        by = " by both sides" if us and them else " by us" if us else " by the other side"
    side = " and waits for the other side" if connection.status is ConnectionStatus.REQUESTED else ""
    return InvalidState(f"Cannot {what}: the connection is {connection.status.value}{by}{side}.")


def _set_paused(connection_id: int, direction: Direction | None, paused: bool) -> Connection:
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status in ENDED:
            raise _illegal(connection, "pause" if paused else "unpause")
        outgoing, incoming = connection.paused_outgoing, connection.paused_incoming
        if direction in (None, Direction.OUTGOING):
            connection.paused_outgoing = paused
        if direction in (None, Direction.INCOMING):
            connection.paused_incoming = paused
        if (outgoing, incoming) == (connection.paused_outgoing, connection.paused_incoming):
            return connection
        lifecycle.touch(connection)
        acts.note("pause" if paused else "unpause", connection, {"direction": direction})
        if not connection.paused_outgoing:
            controls.drain_after_commit(connection_id)
    return acts.read(connection_id)
