"""Receiving: control messages of peers, from the verified message to the signed answer.

    repeat?    the same message gets the stored answer, whatever the state is now
    number?    it must be above the last one; from here on it counts, whatever the verdict
    state?     the tables of §4 and §5 decide
    effect     and the answer, kept for 8 days

All of it happens in one transaction that holds the connection's row.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.federation import answers, controls, identity, lifecycle, peers, subscriptions
from app.federation.consequences import plugged
from app.models import Connection, ControlReceived, Direction, SigningKey, Subscription
from app.protocol import control as wire
from app.protocol.control import (
    ControlType,
    VerifiedControl,
    answer_status,
    check_control_sequence,
    is_repeat,
    sign_control_ack,
)
from app.protocol.errors import ConnectionClosed, InvalidState, KeyUntrusted, Problem, invalid
from app.protocol.event_types import is_subset
from app.protocol.keys import KeyStatus, merge_changed_keys
from app.protocol.signing import Kind, Signer
from app.protocol.states import (
    ENDED,
    ENDED_SUBSCRIPTION,
    ConnectionStatus,
    PublisherEvent,
    SubscriberEvent,
    SubscriptionStatus,
    decide,
    decide_publisher,
    decide_subscriber,
    who_suspended,
)

#: How long an answer is kept for repeats (§3).
KEEP_MS = 8 * 86_400_000
#: `last_received_at` is written at most this often.
_SEEN_EVERY_MS = 1_000


class Answered(NamedTuple):
    """What is sent back, the same for a repeat; only a signature that counts no more is made anew."""

    status_code: int
    body: str

    @property
    def is_problem(self) -> bool:
        """Whether the body is a problem document."""
        return self.status_code >= 400


class Verdict(NamedTuple):
    """What a handler decided: the status in the answer, and its payload."""

    status: str
    payload: dict[str, Any] | None = None


def receive(connection_id: int, message: VerifiedControl, request_id: str | None) -> Answered:
    """Let a verified message have its effect, inside the caller's transaction, and answer it.

    A refusal that counts is returned, so that it is committed with the number that it used up. Raised, and
    to be rolled back, are MessageIdConflict, KeyUntrusted while a person looks at the peer's keys, 429 and
    5xx.
    """
    connection = lifecycle.lock(connection_id)
    if connection.key_review and message.control_type is not ControlType.CONNECTION_DISCONNECT:
        raise KeyUntrusted()
    stored = stored_answer(connection_id, message)
    if stored is not None:
        heard_from(connection)
        return stored
    try:
        check_control_sequence(message.control_sequence, connection.last_control_in)
        verdict = _decide(connection, message)
        # By the key as it is now: an answer that a revoked one signed would be kept, and never believed.
        answered = _answer(message, verdict, identity.signer_for(connection_id, fresh=True))
    except Problem as problem:
        if problem.status == 429 or problem.status >= 500:
            raise
        answered = Answered(problem.status, orjson.dumps(problem.to_wire(request_id)).decode())
    connection.last_control_in = max(connection.last_control_in, message.control_sequence)
    keep_answer(connection_id, message, answered)
    heard_from(connection)
    return answered


def stored_answer(connection_id: int, message: VerifiedControl) -> Answered | None:
    """What this very message was answered before, None if it is new. Raises MessageIdConflict."""
    stored = db.session.scalar(
        sa.select(ControlReceived).where(
            ControlReceived.connection_id == connection_id,
            ControlReceived.message_id == message.message_id,
        )
    )
    if stored is None or not is_repeat(message, stored.digest):
        return None
    answered = Answered(stored.status_code, stored.answer)
    if answered.is_problem:
        return answered
    ack = orjson.loads(stored.answer)
    if not _is_believed(ack.pop("keyId")):
        del ack["signature"]
        ours = identity.signer_for(connection_id, fresh=True)
        stored.answer = ours.sign_to_wire(Kind.CONTROL_ACK, ack).decode()
    return Answered(stored.status_code, stored.answer)


def _is_believed(key_id: str) -> bool:
    """Whether what one of our keys signed counts still: it was not revoked since, nor lost."""
    status = db.session.scalar(sa.select(SigningKey.status).where(SigningKey.key_id == key_id))
    return status not in (None, KeyStatus.REVOKED)


def keep_answer(connection_id: int, message: wire.ControlMessage, answered: Answered) -> None:
    """Keep the answer for repeats, inside the caller's transaction."""
    db.session.add(
        ControlReceived(
            connection_id=connection_id,
            message_id=message.message_id,
            type=message.control_type.value,
            digest=message.digest,
            control_sequence=message.control_sequence,
            status_code=answered.status_code,
            answer=answered.body,
            received_at=clock.now_ms(),
        )
    )
    db.session.flush()


def answer_request(message: wire.ControlMessage) -> Answered:
    """The answer to every request for a connection, whatever becomes of it."""
    return _answer(message, Verdict(ConnectionStatus.PENDING.value), identity.signer())


def heard_from(connection: Connection) -> None:
    """Note that the peer lives, inside the caller's transaction: what waits for a retry goes at once (§8).

    Not what waits because the peer told it how long (429, 503): those waits follow no failure.
    """
    now_ms = clock.now_ms()
    if connection.last_received_at is None or now_ms - connection.last_received_at >= _SEEN_EVERY_MS:
        connection.last_received_at = now_ms
    if connection.failures or connection.untold_waits or connection.breaker_opened_at is not None:
        lifecycle.end_wait(connection)
        controls.drain_after_commit(connection.id)
    if connection.denied_since is not None:
        connection.denied_since = None
    if connection.hold_code in answers.PASSING:
        # Who refused us so sends nothing either: what it refused us for is over.
        answers.release(connection)
    controls.hurry(connection.id, held=False)


def forget_old(limit: int = 1_000) -> int:
    """Delete answers that nobody asks for again. Commits; how many."""
    before_ms = clock.now_ms() - KEEP_MS
    old = db.session.scalars(
        sa.select(ControlReceived.id).where(ControlReceived.received_at < before_ms).limit(limit)
    ).all()
    if old:
        with transaction():
            db.session.execute(sa.delete(ControlReceived).where(ControlReceived.id.in_(old)))
    return len(old)


def _answer(message: wire.ControlMessage, verdict: Verdict, signer: Signer) -> Answered:
    body = sign_control_ack(
        signer,
        message_id=str(uuid.uuid4()),
        correlation_id=message.message_id,
        connection_id=message.connection_id,
        status=verdict.status,
        timestamp=clock.now_ms(),
        payload=verdict.payload,
    )
    return Answered(answer_status(message.control_type, verdict.status), body.decode())


def _decide(connection: Connection, message: VerifiedControl) -> Verdict:
    """Ask the table of §4, then the handler of the type. Handlers check all before they change anything."""
    now_ms = clock.now_ms()
    status = lifecycle.status_for_input(connection, now_ms)
    suspended_by = (
        who_suspended(connection.suspended_by_me, connection.suspended_by_peer)
        if status is ConnectionStatus.SUSPENDED
        else None
    )
    move = decide(message.control_type, status, suspended_by)
    if not isinstance(move, tuple):
        raise move()
    was_accepted = status is ConnectionStatus.ACTIVE and connection.status is ConnectionStatus.PENDING
    if was_accepted and message.control_type not in _BEFORE_ACCEPT:
        # Only who got our accept can say this: the connection is active, although the answer is not here yet.
        lifecycle.activate(connection)
    return _HANDLERS[message.control_type](connection, message)


_BEFORE_ACCEPT = (ControlType.CONNECTION_DISCONNECT, ControlType.KEYS_CHANGED)


def _accept(connection: Connection, message: VerifiedControl) -> Verdict:
    accepted = message.payload_as(wire.ConnectionAccept)
    _check_request_id(connection, accepted.request_message_id)
    offer = json.loads(connection.offer)
    if accepted.version not in offer["versions"]:
        raise invalid("/payload/version", "was not offered")
    if not set(accepted.features) <= set(offer["features"]):
        raise invalid("/payload/features", "has what was not offered")
    connection.version = accepted.version
    connection.features = json.dumps(accepted.features)
    connection.remote_workspace_slug = accepted.workspace_slug
    connection.remote_workspace_name = accepted.workspace_name
    # Answered by the accept itself, even if the answer to the request never came.
    controls.give_up(connection.id)
    lifecycle.activate(connection)
    return _state(connection)


def _reject(connection: Connection, message: VerifiedControl) -> Verdict:
    rejected = message.payload_as(wire.ConnectionReject)
    _check_request_id(connection, rejected.request_message_id)
    lifecycle.end(connection, ConnectionStatus.REJECTED, rejected.reason)
    return _state(connection)


def _suspend(connection: Connection, message: VerifiedControl) -> Verdict:
    lifecycle.suspend(connection, by_me=False, reason=message.payload_as(wire.Reason).reason)
    return _state(connection)


def _resume(connection: Connection, message: VerifiedControl) -> Verdict:
    if connection.suspended_by_peer:
        connection.suspended_by_peer = False
        if not connection.suspended_by_me:
            connection.reason = message.payload_as(wire.Reason).reason
        resuming = connection.inbound_open_until
        lifecycle.activate(connection)
        connection.inbound_open_until = resuming if connection.suspended_by_me else None
    return _state(connection)


def _disconnect(connection: Connection, message: VerifiedControl) -> Verdict:
    if connection.status not in ENDED:
        reason = message.payload_as(wire.Reason).reason
        lifecycle.end(connection, ConnectionStatus.DISCONNECTED, reason)
    return _state(connection)


def _verification(connection: Connection, message: VerifiedControl) -> Verdict:
    verification = message.payload_as(wire.Verification)
    return Verdict(connection.status.value, {"state": verification.state})


def _heartbeat(connection: Connection, message: VerifiedControl) -> Verdict:
    beat = message.payload_as(wire.Heartbeat)
    plugged().head_told(connection.id, beat.stream_epoch, beat.head_sequence, beat.oldest_sequence)
    return _state(connection)


def _gap(connection: Connection, message: VerifiedControl) -> Verdict:
    gap = message.payload_as(wire.Gap)
    plugged().gap_told(connection.id, gap.stream_epoch, gap.from_sequence, gap.to_sequence, gap.reason.value)
    return _state(connection)


def _keys_changed(connection: Connection, message: VerifiedControl) -> Verdict:
    peer_id = connection.peer_id
    if peer_id is None:
        raise InvalidState("nobody knows the other side yet")
    changed = message.payload_as(wire.KeysChanged)
    merged = merge_changed_keys(message.instance_id, peers.pinned_records(peer_id), changed.keys)
    peers.write_keys(peer_id, merged)
    return _state(connection)


def _subscription_request(connection: Connection, message: VerifiedControl) -> Verdict:
    asked = message.payload_as(wire.SubscriptionRequest)
    _check_not_ended(connection)
    subscription = subscriptions.find(connection.id, Direction.OUTGOING, asked.subscription_id)
    if subscription is None:
        if subscriptions.count_open(connection.id) >= subscriptions.MAX_OPEN:
            return Verdict(SubscriptionStatus.REJECTED.value)
        subscription = _new_subscription(connection, asked)
        if subscriptions.is_auto_granted(asked.event_type):
            return _granted(connection, subscription)
        return Verdict(subscription.status.value)
    _expect(decide_publisher(PublisherEvent.REQUEST, subscription.status))
    if subscription.status in ENDED_SUBSCRIPTION:
        return Verdict(subscription.status.value)
    if asked.event_type != subscription.event_type:
        raise InvalidState("the subscription is of another event type")
    subscription.lease_seconds = asked.lease_s
    if subscription.status is SubscriptionStatus.ACTIVE:
        return _granted(connection, subscription)
    return Verdict(subscription.status.value)


def _new_subscription(connection: Connection, asked: wire.SubscriptionRequest) -> Subscription:
    now_ms = clock.now_ms()
    subscription = Subscription(
        public_id=str(uuid.uuid4()),
        workspace_id=connection.workspace_id,
        connection_id=connection.id,
        direction=Direction.OUTGOING,
        wire_subscription_id=asked.subscription_id,
        event_type=asked.event_type,
        status=SubscriptionStatus.PENDING,
        lease_seconds=asked.lease_s,
        details="{}",
        created_at=now_ms,
        updated_at=now_ms,
    )
    db.session.add(subscription)
    db.session.flush()
    return subscription


def _granted(connection: Connection, subscription: Subscription) -> Verdict:
    grant = subscriptions.grant(connection, subscription)
    return Verdict(SubscriptionStatus.ACTIVE.value, grant.to_wire())


def _subscription_cancel(connection: Connection, message: VerifiedControl) -> Verdict:
    ended = message.payload_as(wire.SubscriptionEnd)
    subscription = subscriptions.find(connection.id, Direction.OUTGOING, ended.subscription_id)
    status = _expect(
        decide_publisher(PublisherEvent.CANCEL, None if subscription is None else subscription.status)
    )
    if subscription is not None and subscription.status is not status:
        subscriptions.end_subscription(subscription, status, None)
        plugged().grants_shrank(connection.id)
    return Verdict(status.value)


def _subscription_approve(connection: Connection, message: VerifiedControl) -> Verdict:
    approved = message.payload_as(wire.SubscriptionApprove)
    subscription = subscriptions.find(connection.id, Direction.INCOMING, approved.subscription_id)
    status = _expect(
        decide_subscriber(SubscriberEvent.APPROVE, None if subscription is None else subscription.status)
    )
    if subscription is not None and status is SubscriptionStatus.ACTIVE:
        if not is_subset(approved.grant.event_type, subscription.event_type):
            raise invalid("/payload/eventType", "is more than was asked for")
        subscriptions.take_grant(subscription, approved.grant)
    return Verdict(status.value)


def _subscription_end(connection: Connection, message: VerifiedControl) -> Verdict:
    """A reject or a revoke of what we asked for."""
    ended = message.payload_as(wire.SubscriptionEnd)
    what = (
        SubscriberEvent.REJECT
        if message.control_type is ControlType.SUBSCRIPTION_REJECT
        else SubscriberEvent.REVOKE
    )
    subscription = subscriptions.find(connection.id, Direction.INCOMING, ended.subscription_id)
    status = _expect(decide_subscriber(what, None if subscription is None else subscription.status))
    if subscription is not None and subscription.status is not status:
        subscriptions.end_subscription(subscription, status, ended.reason)
    return Verdict(status.value)


def _replay_request(connection: Connection, message: VerifiedControl) -> Verdict:
    plugged().replay_asked(connection.id, message.payload_as(wire.ReplayRequest))
    return Verdict("accepted")


def _replay_complete(connection: Connection, message: VerifiedControl) -> Verdict:
    plugged().replay_completed(connection.id, message.payload_as(wire.ReplayComplete))
    return Verdict("complete")


def _reconcile(connection: Connection, message: VerifiedControl) -> Verdict:
    payload = plugged().reconcile_asked(connection.id, message.payload_as(wire.Reconcile))
    return Verdict(connection.status.value, payload)


def _request_again(_connection: Connection, _message: VerifiedControl) -> Verdict:
    raise InvalidState("the connection exists")


def _state(connection: Connection) -> Verdict:
    return Verdict(connection.status.value)


def _check_request_id(connection: Connection, message_id: str) -> None:
    if message_id != connection.request_message_id:
        raise invalid("/payload/requestMessageId", "is not that of the request")


def _check_not_ended(connection: Connection) -> None:
    # What comes in is still taken for a moment after we ended it, but nothing new begins.
    if connection.status in ENDED:
        raise ConnectionClosed()


def _expect(cell: SubscriptionStatus | type[Problem]) -> SubscriptionStatus:
    if isinstance(cell, SubscriptionStatus):
        return cell
    raise cell()


_HANDLERS: dict[ControlType, Callable[[Connection, VerifiedControl], Verdict]] = {
    ControlType.CONNECTION_REQUEST: _request_again,
    ControlType.CONNECTION_ACCEPT: _accept,
    ControlType.CONNECTION_REJECT: _reject,
    ControlType.CONNECTION_SUSPEND: _suspend,
    ControlType.CONNECTION_RESUME: _resume,
    ControlType.CONNECTION_DISCONNECT: _disconnect,
    ControlType.VERIFICATION: _verification,
    ControlType.HEARTBEAT: _heartbeat,
    ControlType.KEYS_CHANGED: _keys_changed,
    ControlType.SUBSCRIPTION_REQUEST: _subscription_request,
    ControlType.SUBSCRIPTION_APPROVE: _subscription_approve,
    ControlType.SUBSCRIPTION_REJECT: _subscription_end,
    ControlType.SUBSCRIPTION_REVOKE: _subscription_end,
    ControlType.SUBSCRIPTION_CANCEL: _subscription_cancel,
    ControlType.REPLAY_REQUEST: _replay_request,
    ControlType.REPLAY_COMPLETE: _replay_complete,
    ControlType.RECONCILE: _reconcile,
    ControlType.GAP: _gap,
}
