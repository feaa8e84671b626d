"""Answers: what a peer's answer to one of our control messages changes here.

Only a verified ControlAck moves a state. A refusal is unsigned: it is shown, it may hold the queue until a
person looks, and it may have the message issued anew; it never ends anything (§1.4).
"""

import logging
from collections.abc import Callable

from app import clock
from app.federation import controls, lifecycle, subscriptions, told
from app.federation.consequences import plugged
from app.models import Connection, ControlOut, ControlState, Direction, Subscription
from app.protocol.control import ControlType, VerifiedControlAck, parse_grant
from app.protocol.errors import AccessDenied, Problem
from app.protocol.event_types import is_subset
from app.protocol.states import (
    ENDED,
    ENDED_SUBSCRIPTION,
    LIVE_SUBSCRIPTION,
    OPEN,
    WAITING,
    ConnectionStatus,
    SubscriptionStatus,
    decide_subscriber,
    subscriber_ack_event,
)

log = logging.getLogger(__name__)

#: Refusals after which nothing is sent over an open connection until somebody looked (§8, §9).
HOLDING = frozenset(
    {
        "authentication_failed",
        "key_untrusted",
        "invalid_issuer",
        "access_denied",
        "blocked",
        "connection_closed",
    }
)
#: Refusals that pass by themselves; what they refused is issued anew later.
PASSING = frozenset({"connection_suspended", "access_denied", "key_untrusted"})
#: How often a message that overtook another, or came before we were known, is issued anew.
MAX_ANEW = 8

SubscriptionAckHandler = Callable[[Connection, Subscription, ControlOut, VerifiedControlAck], None]


def apply_answer(connection: Connection, control: ControlOut, ack: VerifiedControlAck) -> None:
    """Let a verified answer have its effect, inside the caller's transaction."""
    control_type = ControlType(control.type)
    connection.denied_since = None
    if connection.hold_code in PASSING:
        release(connection)
    if control_type in _ON_CONNECTION:
        _ON_CONNECTION[control_type](connection, control, ack)
    elif control_type in _ON_SUBSCRIPTION:
        subscription = subscriptions.find(
            connection.id,
            _DIRECTIONS[control_type],
            controls.payload_of(control)["subscriptionId"],
        )
        if subscription is not None:
            _ON_SUBSCRIPTION[control_type](connection, subscription, control, ack)


def apply_refusal(connection: Connection, control: ControlOut, code: str, detail: str) -> None:
    """Note a refusal, inside the caller's transaction. The message is HELD afterwards if it goes out anew."""
    control_type = ControlType(control.type)
    control.state = (
        ControlState.HELD if _goes_anew(control_type, code, control.attempts) else ControlState.REFUSED
    )
    if control_type is ControlType.REPLAY_REQUEST and control.state is ControlState.REFUSED:
        plugged().replay_answered(connection.id, controls.payload_of(control)["replayId"], code, detail)
    if control_type in (ControlType.CONNECTION_ACCEPT, ControlType.CONNECTION_RESUME):
        connection.inbound_open_until = None
    if connection.status in ENDED:
        return
    if control_type is ControlType.KEYS_CHANGED and connection.status in WAITING:
        # The peer may not have looked at our request yet; it is told again in a while.
        return
    if code in HOLDING or connection.status in WAITING:
        hold(connection, code, detail)


def hold(connection: Connection, code: str, detail: str) -> None:
    """Let nothing go out until a person looked, inside the caller's transaction."""
    if code == AccessDenied.code and connection.denied_since is None:
        connection.denied_since = clock.now_ms()
    if connection.hold_code is None:
        connection.hold_since = clock.now_ms()
        log.warning("connection.held", extra={"connection_id": connection.id, "code": code, "detail": detail})
    connection.hold_code = code
    connection.hold_detail = detail
    lifecycle.touch(connection)


def release(connection: Connection) -> None:
    """Let it go on, inside the caller's transaction."""
    connection.hold_code = connection.hold_detail = connection.hold_since = None
    lifecycle.touch(connection)
    controls.drain_after_commit(connection.id)


def issue_anew(connection: Connection, control: ControlOut) -> None:
    """Say the same again under a new id and number, if it is still so; inside the caller's transaction."""
    if control.type == ControlType.KEYS_CHANGED.value:
        # Keys may have changed once more since.
        control.state = ControlState.GIVEN_UP
        told.tell_one(connection.id)
        return
    control.state = ControlState.REFUSED
    if not _is_wanted(connection, control):
        return
    control_type = ControlType(control.type)
    controls.queue_control(
        connection,
        control_type,
        controls.payload_of(control),
        first_issued_at=control.created_at,
        attempts=control.attempts,
    )
    if control_type in (ControlType.CONNECTION_ACCEPT, ControlType.CONNECTION_RESUME):
        connection.inbound_open_until = clock.now_ms() + lifecycle.ANSWER_LIFE_MS


def _goes_anew(control_type: ControlType, code: str, attempts: int) -> bool:
    if control_type in (ControlType.VERIFICATION, ControlType.HEARTBEAT, ControlType.KEYS_CHANGED):
        # The next one says it; `told` sees to that of keys.
        return False
    if control_type is ControlType.CONNECTION_DISCONNECT:
        # The peer may not know our keys yet: a request that is taken back before it was checked.
        return code not in ("access_denied", "connection_closed") and attempts < MAX_ANEW
    if control_type is ControlType.SUBSCRIPTION_REVOKE and code == "invalid_state":
        # It overtook the answer that granted what it revokes.
        return attempts < MAX_ANEW
    return code in PASSING


def _is_wanted(connection: Connection, control: ControlOut) -> bool:
    control_type = ControlType(control.type)
    status = connection.status
    match control_type:
        case ControlType.CONNECTION_REQUEST:
            return status is ConnectionStatus.REQUESTED
        case ControlType.CONNECTION_ACCEPT:
            return status is ConnectionStatus.PENDING
        case ControlType.CONNECTION_REJECT:
            return status is ConnectionStatus.REJECTED
        case ControlType.CONNECTION_DISCONNECT:
            return status is ConnectionStatus.DISCONNECTED
        case ControlType.CONNECTION_SUSPEND | ControlType.CONNECTION_RESUME:
            return status in OPEN and _is_last_word(connection, control)
    if control_type not in _DIRECTIONS:
        return status in OPEN
    subscription = subscriptions.find(
        connection.id, _DIRECTIONS[control_type], controls.payload_of(control)["subscriptionId"]
    )
    return status in OPEN and subscription is not None and subscription.status in _WANTED_WHILE[control_type]


def _is_last_word(connection: Connection, control: ControlOut) -> bool:
    """Whether we have neither suspended nor resumed since this suspend or resume."""
    newest = controls.newest(connection.id, ControlType.CONNECTION_SUSPEND, ControlType.CONNECTION_RESUME)
    return newest is not None and newest.id == control.id


def _accepted(connection: Connection, _control: ControlOut, _ack: VerifiedControlAck) -> None:
    if connection.status is ConnectionStatus.PENDING:
        lifecycle.activate(connection)


def _suspension_known(connection: Connection, control: ControlOut, _ack: VerifiedControlAck) -> None:
    if _is_last_word(connection, control):
        connection.inbound_open_until = None


def _resumed(connection: Connection, control: ControlOut, _ack: VerifiedControlAck) -> None:
    # Somebody may have suspended again while the resume was under way: that stands.
    if connection.status is ConnectionStatus.SUSPENDED and _is_last_word(connection, control):
        connection.suspended_by_me = False
        lifecycle.activate(connection)


def _end_known(connection: Connection, _control: ControlOut, _ack: VerifiedControlAck) -> None:
    connection.inbound_open_until = None


def _keys_known(connection: Connection, control: ControlOut, _ack: VerifiedControlAck) -> None:
    told.acknowledge(connection, control)


def _verified(connection: Connection, control: ControlOut, ack: VerifiedControlAck) -> None:
    if (ack.payload or {}).get("state") != controls.payload_of(control)["state"]:
        control.error_code = "answer_invalid"
        control.error_detail = "The peer answered with another state than the one it was sent."
    elif connection.hold_code is not None and ack.status == ConnectionStatus.ACTIVE.value:
        release(connection)


def _compared(connection: Connection, control: ControlOut, ack: VerifiedControlAck) -> None:
    plugged().reconcile_answered(connection.id, controls.payload_of(control), ack.payload)


def _replay_begins(connection: Connection, control: ControlOut, _ack: VerifiedControlAck) -> None:
    plugged().replay_answered(connection.id, controls.payload_of(control)["replayId"], None, None)


def _answered_request(
    _connection: Connection, subscription: Subscription, control: ControlOut, ack: VerifiedControlAck
) -> None:
    """The publisher's answer to our subscription.request; an approve or reject may have overtaken it."""
    what = subscriber_ack_event(ack.status)
    status = None if what is None else decide_subscriber(what, subscription.status)
    if not isinstance(status, SubscriptionStatus):
        _note_invalid(control, f"the status {ack.status} is none of a subscription")
        return
    if subscription.status in ENDED_SUBSCRIPTION:
        return
    if ack.status == SubscriptionStatus.ACTIVE.value:
        try:
            granted = parse_grant(ack.payload or {})
        except Problem as problem:
            _note_invalid(control, problem.detail)
            return
        if not is_subset(granted.event_type, subscription.event_type):
            _note_invalid(control, f"{granted.event_type} is more than was asked for")
            return
        subscriptions.take_grant(subscription, granted)
    elif status in ENDED_SUBSCRIPTION:
        subscriptions.end_subscription(subscription, status, None)
    elif status is not subscription.status:
        subscription.status = status
        subscription.updated_at = clock.now_ms()


def _answered_cancel(
    _connection: Connection, subscription: Subscription, _control: ControlOut, ack: VerifiedControlAck
) -> None:
    subscription.accepts_until = clock.now_ms() + lifecycle.GRACE_MS
    if ack.status == SubscriptionStatus.EXPIRED.value:
        # Its lease ended there before the cancel came; the publisher will not speak of it again.
        subscriptions.end_subscription(subscription, SubscriptionStatus.EXPIRED, None)


def _answered_decision(
    connection: Connection, subscription: Subscription, _control: ControlOut, ack: VerifiedControlAck
) -> None:
    """The subscriber's answer to our approve, reject or revoke: if it ended otherwise there, that stands."""
    if ack.status == subscription.status.value or ack.status not in set(ENDED_SUBSCRIPTION):
        return
    was_active = subscription.status is SubscriptionStatus.ACTIVE
    subscriptions.end_subscription(subscription, SubscriptionStatus(ack.status), None)
    if was_active:
        plugged().grants_shrank(connection.id)


def _note_invalid(control: ControlOut, detail: str) -> None:
    control.error_code = "answer_invalid"
    control.error_detail = detail[:1000]


_ON_CONNECTION: dict[ControlType, Callable[[Connection, ControlOut, VerifiedControlAck], None]] = {
    ControlType.CONNECTION_ACCEPT: _accepted,
    ControlType.CONNECTION_SUSPEND: _suspension_known,
    ControlType.CONNECTION_RESUME: _resumed,
    ControlType.CONNECTION_DISCONNECT: _end_known,
    ControlType.KEYS_CHANGED: _keys_known,
    ControlType.VERIFICATION: _verified,
    ControlType.REPLAY_REQUEST: _replay_begins,
    ControlType.RECONCILE: _compared,
}
_ON_SUBSCRIPTION: dict[ControlType, SubscriptionAckHandler] = {
    ControlType.SUBSCRIPTION_REQUEST: _answered_request,
    ControlType.SUBSCRIPTION_CANCEL: _answered_cancel,
    ControlType.SUBSCRIPTION_APPROVE: _answered_decision,
    ControlType.SUBSCRIPTION_REJECT: _answered_decision,
    ControlType.SUBSCRIPTION_REVOKE: _answered_decision,
}
#: Whose events a message of ours speaks of: those that come to us, or those that leave us.
_DIRECTIONS = {
    ControlType.SUBSCRIPTION_REQUEST: Direction.INCOMING,
    ControlType.SUBSCRIPTION_CANCEL: Direction.INCOMING,
    ControlType.SUBSCRIPTION_APPROVE: Direction.OUTGOING,
    ControlType.SUBSCRIPTION_REJECT: Direction.OUTGOING,
    ControlType.SUBSCRIPTION_REVOKE: Direction.OUTGOING,
}
_WANTED_WHILE = {
    ControlType.SUBSCRIPTION_REQUEST: LIVE_SUBSCRIPTION,
    ControlType.SUBSCRIPTION_CANCEL: (SubscriptionStatus.CANCELLED,),
    ControlType.SUBSCRIPTION_APPROVE: (SubscriptionStatus.ACTIVE,),
    ControlType.SUBSCRIPTION_REJECT: (SubscriptionStatus.REJECTED,),
    ControlType.SUBSCRIPTION_REVOKE: (SubscriptionStatus.REVOKED,),
}
