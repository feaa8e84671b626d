"""Control messages (§3): what the two sides of a connection tell each other beside events.

Each type has a payload of its own, read into a dataclass that can write itself again. One
control message is in flight per connection and side, in the order of `controlSequence`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NewType, TypeVar

from app.protocol.canonical import canonical_message
from app.protocol.comparison import Side, Summary, read_summaries
from app.protocol.errors import AuthenticationFailed, MessageIdConflict, Problem, SequenceConflict, invalid
from app.protocol.event_types import check_pattern
from app.protocol.keys import KeyRecord, parse_key_records
from app.protocol.members import (
    Object,
    optional,
    read_array,
    read_base64,
    read_boolean,
    read_choice,
    read_features,
    read_integer,
    read_key_id,
    read_member_object,
    read_names,
    read_object,
    read_origin,
    read_slug,
    read_text,
    read_uuid,
)
from app.protocol.messages import MAX_NAME, MAX_NOTE, MAX_STATUS, MAX_VERSION, MAX_VERSIONS, verify_signed
from app.protocol.signing import Kind, Signer, body_input, digest, with_signature

#: §3, §6: bounds of payload members. Lease in seconds.
MIN_LEASE_S, MAX_LEASE_S = 60, 31_536_000
MAX_STATE = 128
MAX_GAP = 1_000_000

Payload = dict[str, Any]


class ControlType(StrEnum):
    CONNECTION_REQUEST = "connection.request"  #: asks for a connection
    CONNECTION_ACCEPT = "connection.accept"  #: grants it
    CONNECTION_REJECT = "connection.reject"  #: refuses it
    CONNECTION_SUSPEND = "connection.suspend"  #: stops the traffic for now
    CONNECTION_RESUME = "connection.resume"  #: takes back the sender's own suspension
    CONNECTION_DISCONNECT = "connection.disconnect"  #: ends the connection
    VERIFICATION = "verification"  #: shows that both ways work
    HEARTBEAT = "heartbeat"  #: tells the head of an idle stream
    KEYS_CHANGED = "keys.changed"  #: announces or activates a key
    SUBSCRIPTION_REQUEST = "subscription.request"  #: asks for events, or renews the lease
    SUBSCRIPTION_APPROVE = "subscription.approve"  #: grants them
    SUBSCRIPTION_REJECT = "subscription.reject"  #: refuses them
    SUBSCRIPTION_REVOKE = "subscription.revoke"  #: takes the grant back
    SUBSCRIPTION_CANCEL = "subscription.cancel"  #: wants them no longer
    REPLAY_REQUEST = "replay.request"  #: asks for events again
    REPLAY_COMPLETE = "replay.complete"  #: ends a replay
    GAP = "gap"  #: tells what will never come
    RECONCILE = "reconcile"  #: compares what was sent with what was stored


#: What `POST /incoming/connection` takes; `/incoming/subscription` takes the rest (§7).
CONNECTION_TYPES = frozenset(
    {
        ControlType.CONNECTION_REQUEST,
        ControlType.CONNECTION_ACCEPT,
        ControlType.CONNECTION_REJECT,
        ControlType.CONNECTION_SUSPEND,
        ControlType.CONNECTION_RESUME,
        ControlType.CONNECTION_DISCONNECT,
        ControlType.VERIFICATION,
        ControlType.HEARTBEAT,
        ControlType.KEYS_CHANGED,
    }
)
SUBSCRIPTION_TYPES = frozenset(ControlType) - CONNECTION_TYPES

#: Never repeated by the sender: the next one does (§3).
NOT_REPEATED = frozenset({ControlType.HEARTBEAT, ControlType.VERIFICATION})


class GapReason(StrEnum):
    EXPIRED = "expired"  #: too old
    REFUSED = "refused"  #: refused as a request
    ERASED = "erased"  #: deleted on purpose
    WITHDRAWN = "withdrawn"  #: no longer granted


# Payloads


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    base_url: str
    workspace_slug: str
    workspace_name: str
    versions: tuple[str, ...]
    features: tuple[str, ...]
    to_workspace: str | None = None
    note: str | None = None

    def to_wire(self) -> Payload:
        return {
            "baseUrl": self.base_url,
            "workspace": {"slug": self.workspace_slug, "name": self.workspace_name},
            "offer": {"versions": list(self.versions), "features": list(self.features)},
        } | _present(toWorkspace=self.to_workspace, note=self.note)


@dataclass(frozen=True, slots=True)
class ConnectionAccept:
    request_message_id: str
    version: str
    features: tuple[str, ...]
    workspace_slug: str
    workspace_name: str

    def to_wire(self) -> Payload:
        return {
            "requestMessageId": self.request_message_id,
            "version": self.version,
            "features": list(self.features),
            "workspace": {"slug": self.workspace_slug, "name": self.workspace_name},
        }


@dataclass(frozen=True, slots=True)
class ConnectionReject:
    request_message_id: str
    reason: str | None = None

    def to_wire(self) -> Payload:
        return {"requestMessageId": self.request_message_id} | _present(reason=self.reason)


@dataclass(frozen=True, slots=True)
class Reason:
    """Of suspend, resume and disconnect."""

    reason: str | None = None

    def to_wire(self) -> Payload:
        return _present(reason=self.reason)


@dataclass(frozen=True, slots=True)
class Verification:
    state: str

    def to_wire(self) -> Payload:
        return {"state": self.state}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`head_sequence` 0 and `oldest_sequence` 1 if nothing was sent yet."""

    stream_epoch: str
    head_sequence: int
    oldest_sequence: int

    def to_wire(self) -> Payload:
        return {
            "streamEpoch": self.stream_epoch,
            "headSequence": self.head_sequence,
            "oldestSequence": self.oldest_sequence,
        }


@dataclass(frozen=True, slots=True)
class KeysChanged:
    keys: tuple[KeyRecord, ...]

    def to_wire(self) -> Payload:
        return {"keys": [record.to_wire() for record in self.keys]}


@dataclass(frozen=True, slots=True)
class SubscriptionRequest:
    """`event_type` is a pattern; `lease_s` in seconds."""

    subscription_id: str
    event_type: str
    lease_s: int

    def to_wire(self) -> Payload:
        return {
            "subscriptionId": self.subscription_id,
            "eventType": self.event_type,
            "leaseSeconds": self.lease_s,
        }


@dataclass(frozen=True, slots=True)
class Grant:
    """What a publisher grants: a pattern, until when (ms), and from where in the stream."""

    event_type: str
    lease_expires_at: int
    stream_epoch: str
    next_sequence: int

    def to_wire(self) -> Payload:
        return {
            "eventType": self.event_type,
            "leaseExpiresAt": self.lease_expires_at,
            "streamEpoch": self.stream_epoch,
            "nextSequence": self.next_sequence,
        }


@dataclass(frozen=True, slots=True)
class SubscriptionApprove:
    subscription_id: str
    grant: Grant

    def to_wire(self) -> Payload:
        return {"subscriptionId": self.subscription_id} | self.grant.to_wire()


@dataclass(frozen=True, slots=True)
class SubscriptionEnd:
    """Of reject, revoke and cancel; a cancel has no reason."""

    subscription_id: str
    reason: str | None = None

    def to_wire(self) -> Payload:
        return {"subscriptionId": self.subscription_id} | _present(reason=self.reason)


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Ranges are inclusive, several are and-ed; `since` and `until` in ms; no epoch means the current one."""

    replay_id: str
    stream_epoch: str | None = None
    from_sequence: int | None = None
    to_sequence: int | None = None
    since: int | None = None
    until: int | None = None
    event_types: tuple[str, ...] | None = None

    def to_wire(self) -> Payload:
        return {"replayId": self.replay_id} | _present(
            streamEpoch=self.stream_epoch,
            fromSequence=self.from_sequence,
            toSequence=self.to_sequence,
            since=self.since,
            until=self.until,
            eventTypes=None if self.event_types is None else list(self.event_types),
        )


@dataclass(frozen=True, slots=True)
class ReplayComplete:
    replay_id: str
    count: int
    more_available: bool
    next_sequence: int | None = None

    def to_wire(self) -> Payload:
        return {
            "replayId": self.replay_id,
            "count": self.count,
            "moreAvailable": self.more_available,
        } | _present(nextSequence=self.next_sequence)


@dataclass(frozen=True, slots=True)
class Reconcile:
    """`side`: what the one that asks is in the stream; `ranges`: what it holds of it."""

    reconciliation_id: str
    side: Side
    stream_epoch: str
    ranges: tuple[Summary, ...]

    def to_wire(self) -> Payload:
        return {
            "reconciliationId": self.reconciliation_id,
            "side": self.side.value,
            "streamEpoch": self.stream_epoch,
            "ranges": [one.to_wire() for one in self.ranges],
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """Inclusive on both ends."""

    stream_epoch: str
    from_sequence: int
    to_sequence: int
    reason: GapReason

    def to_wire(self) -> Payload:
        return {
            "streamEpoch": self.stream_epoch,
            "fromSequence": self.from_sequence,
            "toSequence": self.to_sequence,
            "reason": self.reason.value,
        }


ControlPayload = (
    ConnectionRequest
    | ConnectionAccept
    | ConnectionReject
    | Reason
    | Verification
    | Heartbeat
    | KeysChanged
    | SubscriptionRequest
    | SubscriptionApprove
    | SubscriptionEnd
    | ReplayRequest
    | ReplayComplete
    | Gap
    | Reconcile
)


def _present(**members: Any) -> Payload:
    return {name: value for name, value in members.items() if value is not None}


def _parse_connection_request(payload: Object, pointer: str) -> ConnectionRequest:
    slug, name = _parse_workspace(payload, pointer)
    offer = read_member_object(payload, "offer", pointer)
    return ConnectionRequest(
        base_url=read_origin(payload, "baseUrl", pointer),
        workspace_slug=slug,
        workspace_name=name,
        versions=read_names(offer, "versions", f"{pointer}/offer", MAX_VERSIONS, MAX_VERSION),
        features=read_features(offer, "features", f"{pointer}/offer"),
        to_workspace=optional(read_slug, payload, "toWorkspace", pointer),
        note=optional(read_text, payload, "note", pointer, MAX_NOTE),
    )


def _parse_workspace(payload: Object, pointer: str) -> tuple[str, str]:
    workspace = read_member_object(payload, "workspace", pointer)
    where = f"{pointer}/workspace"
    return read_slug(workspace, "slug", where), read_text(workspace, "name", where, MAX_NAME)


def _parse_connection_accept(payload: Object, pointer: str) -> ConnectionAccept:
    slug, name = _parse_workspace(payload, pointer)
    return ConnectionAccept(
        request_message_id=read_uuid(payload, "requestMessageId", pointer),
        version=read_text(payload, "version", pointer, MAX_VERSION),
        features=read_features(payload, "features", pointer),
        workspace_slug=slug,
        workspace_name=name,
    )


def _parse_connection_reject(payload: Object, pointer: str) -> ConnectionReject:
    return ConnectionReject(read_uuid(payload, "requestMessageId", pointer), _read_reason(payload, pointer))


def _parse_reason(payload: Object, pointer: str) -> Reason:
    return Reason(_read_reason(payload, pointer))


def _read_reason(payload: Object, pointer: str) -> str | None:
    return optional(read_text, payload, "reason", pointer, MAX_NOTE)


def _parse_verification(payload: Object, pointer: str) -> Verification:
    return Verification(read_text(payload, "state", pointer, MAX_STATE))


def _parse_heartbeat(payload: Object, pointer: str) -> Heartbeat:
    return Heartbeat(
        stream_epoch=read_uuid(payload, "streamEpoch", pointer),
        head_sequence=read_integer(payload, "headSequence", pointer),
        oldest_sequence=read_integer(payload, "oldestSequence", pointer, 1),
    )


def _parse_keys_changed(payload: Object, pointer: str) -> KeysChanged:
    return KeysChanged(parse_key_records(payload, "keys", pointer))


def _parse_subscription_request(payload: Object, pointer: str) -> SubscriptionRequest:
    if "filter" in payload:
        raise invalid(f"{pointer}/filter", "is reserved", "unsupported")
    return SubscriptionRequest(
        subscription_id=read_uuid(payload, "subscriptionId", pointer),
        event_type=_read_pattern(payload, "eventType", pointer),
        lease_s=read_integer(payload, "leaseSeconds", pointer, MIN_LEASE_S, MAX_LEASE_S),
    )


def _read_pattern(message: Object, name: str, pointer: str) -> str:
    if name not in message:
        raise invalid(f"{pointer}/{name}", "is required", "required")
    return check_pattern(message[name], f"{pointer}/{name}")


def parse_grant(payload: Object, pointer: str = "/payload") -> Grant:
    """Read the grant in an approve, or in the payload of an ack with status `active`."""
    return Grant(
        event_type=_read_pattern(payload, "eventType", pointer),
        lease_expires_at=read_integer(payload, "leaseExpiresAt", pointer),
        stream_epoch=read_uuid(payload, "streamEpoch", pointer),
        next_sequence=read_integer(payload, "nextSequence", pointer, 1),
    )


def _parse_subscription_approve(payload: Object, pointer: str) -> SubscriptionApprove:
    return SubscriptionApprove(read_uuid(payload, "subscriptionId", pointer), parse_grant(payload, pointer))


def _parse_subscription_end(payload: Object, pointer: str) -> SubscriptionEnd:
    return SubscriptionEnd(read_uuid(payload, "subscriptionId", pointer), _read_reason(payload, pointer))


def _parse_subscription_cancel(payload: Object, pointer: str) -> SubscriptionEnd:
    return SubscriptionEnd(read_uuid(payload, "subscriptionId", pointer))


def _parse_replay_request(payload: Object, pointer: str) -> ReplayRequest:
    request = ReplayRequest(
        replay_id=read_uuid(payload, "replayId", pointer),
        stream_epoch=optional(read_uuid, payload, "streamEpoch", pointer),
        from_sequence=optional(read_integer, payload, "fromSequence", pointer, 1),
        to_sequence=optional(read_integer, payload, "toSequence", pointer, 1),
        since=optional(read_integer, payload, "since", pointer),
        until=optional(read_integer, payload, "until", pointer),
        event_types=optional(_read_patterns, payload, "eventTypes", pointer),
    )
    check_range(request.from_sequence, request.to_sequence, f"{pointer}/toSequence")
    check_range(request.since, request.until, f"{pointer}/until")
    return request


def _read_patterns(payload: Object, name: str, pointer: str) -> tuple[str, ...]:
    values = read_array(payload, name, pointer)
    return tuple(check_pattern(value, f"{pointer}/{name}/{i}") for i, value in enumerate(values))


def check_range(first: int | None, last: int | None, pointer: str) -> None:
    """Refuse a range, whose ends belong to it, that ends before it begins. Raises InvalidRequest."""
    if first is not None and last is not None and last < first:
        raise invalid(pointer, "is before the beginning of the range", "range")


def _parse_replay_complete(payload: Object, pointer: str) -> ReplayComplete:
    return ReplayComplete(
        replay_id=read_uuid(payload, "replayId", pointer),
        count=read_integer(payload, "count", pointer),
        more_available=read_boolean(payload, "moreAvailable", pointer),
        next_sequence=optional(read_integer, payload, "nextSequence", pointer, 1),
    )


def _parse_gap(payload: Object, pointer: str) -> Gap:
    gap = Gap(
        stream_epoch=read_uuid(payload, "streamEpoch", pointer),
        from_sequence=read_integer(payload, "fromSequence", pointer, 1),
        to_sequence=read_integer(payload, "toSequence", pointer, 1),
        reason=read_choice(payload, "reason", pointer, GapReason),
    )
    check_range(gap.from_sequence, gap.to_sequence, f"{pointer}/toSequence")
    if gap.to_sequence - gap.from_sequence >= MAX_GAP:
        raise invalid(f"{pointer}/toSequence", f"one gap covers at most {MAX_GAP}", "limit")
    return gap


def _parse_reconcile(payload: Object, pointer: str) -> Reconcile:
    return Reconcile(
        reconciliation_id=read_uuid(payload, "reconciliationId", pointer),
        side=read_choice(payload, "side", pointer, Side),
        stream_epoch=read_uuid(payload, "streamEpoch", pointer),
        ranges=read_summaries(payload, pointer),
    )


_PARSERS: dict[ControlType, Callable[[Object, str], ControlPayload]] = {
    ControlType.CONNECTION_REQUEST: _parse_connection_request,
    ControlType.CONNECTION_ACCEPT: _parse_connection_accept,
    ControlType.CONNECTION_REJECT: _parse_connection_reject,
    ControlType.CONNECTION_SUSPEND: _parse_reason,
    ControlType.CONNECTION_RESUME: _parse_reason,
    ControlType.CONNECTION_DISCONNECT: _parse_reason,
    ControlType.VERIFICATION: _parse_verification,
    ControlType.HEARTBEAT: _parse_heartbeat,
    ControlType.KEYS_CHANGED: _parse_keys_changed,
    ControlType.SUBSCRIPTION_REQUEST: _parse_subscription_request,
    ControlType.SUBSCRIPTION_APPROVE: _parse_subscription_approve,
    ControlType.SUBSCRIPTION_REJECT: _parse_subscription_end,
    ControlType.SUBSCRIPTION_REVOKE: _parse_subscription_end,
    ControlType.SUBSCRIPTION_CANCEL: _parse_subscription_cancel,
    ControlType.REPLAY_REQUEST: _parse_replay_request,
    ControlType.REPLAY_COMPLETE: _parse_replay_complete,
    ControlType.GAP: _parse_gap,
    ControlType.RECONCILE: _parse_reconcile,
}

Wanted = TypeVar("Wanted")


# Messages and their answers


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """One control message as its sender signed it."""

    message_id: str
    instance_id: str
    control_type: ControlType
    connection_id: str
    control_sequence: int
    payload: ControlPayload
    timestamp: int
    key_id: str
    signature: str
    body: bytes
    digest: str

    def payload_as(self, wanted: type[Wanted]) -> Wanted:
        """The payload as the class that belongs to the type; TypeError if it is another."""
        if not isinstance(self.payload, wanted):
            raise TypeError(f"{self.control_type.value} has no {wanted.__name__}")
        return self.payload

    def to_wire(self) -> bytes:
        """The signed message."""
        return with_signature(self.body, self.signature)


@dataclass(frozen=True, slots=True)
class ControlAck:
    """The answer; `status` is the state that resulted of the connection, subscription or replay."""

    message_id: str
    correlation_id: str
    instance_id: str
    connection_id: str
    status: str
    payload: dict[str, Any] | None
    timestamp: int
    key_id: str
    signature: str
    body: bytes

    def to_wire(self) -> bytes:
        """The signed answer."""
        return with_signature(self.body, self.signature)


#: Messages whose signature was checked. Only verify_control and verify_control_ack make them.
VerifiedControl = NewType("VerifiedControl", ControlMessage)
VerifiedControlAck = NewType("VerifiedControlAck", ControlAck)


def parse_control(value: object, allowed: frozenset[ControlType] = frozenset(ControlType)) -> ControlMessage:
    """Read a control message of one of the allowed types, its payload included."""
    message = read_object(value, "")
    body = canonical_message(message, without=("signature",))
    control_type = read_choice(message, "type", "", ControlType)
    if control_type not in allowed:
        raise invalid("/type", "is not taken by this endpoint")
    payload = read_member_object(message, "payload", "")
    return ControlMessage(
        message_id=read_uuid(message, "messageId", ""),
        instance_id=read_uuid(message, "instanceId", ""),
        control_type=control_type,
        connection_id=read_uuid(message, "connectionId", ""),
        control_sequence=read_integer(message, "controlSequence", "", 1),
        payload=_PARSERS[control_type](payload, "/payload"),
        timestamp=read_integer(message, "timestamp", ""),
        key_id=read_key_id(message, "keyId", ""),
        signature=read_base64(message, "signature", ""),
        body=body,
        digest=digest(body_input(Kind.CONTROL, body)),
    )


def parse_control_ack(value: object) -> ControlAck:
    """Read the answer to a control message."""
    message = read_object(value, "")
    body = canonical_message(message, without=("signature",))
    return ControlAck(
        message_id=read_uuid(message, "messageId", ""),
        correlation_id=read_uuid(message, "correlationId", ""),
        instance_id=read_uuid(message, "instanceId", ""),
        connection_id=read_uuid(message, "connectionId", ""),
        status=read_text(message, "status", "", MAX_STATUS),
        payload=optional(read_member_object, message, "payload", ""),
        timestamp=read_integer(message, "timestamp", ""),
        key_id=read_key_id(message, "keyId", ""),
        signature=read_base64(message, "signature", ""),
        body=body,
    )


def verify_control(
    message: ControlMessage, key_record: KeyRecord | None, *, barred: type[Problem] = AuthenticationFailed
) -> VerifiedControl:
    """The message, if its signature is by that record's key and the key may have signed it."""
    verify_signed(Kind.CONTROL, message, key_record, barred)
    return VerifiedControl(message)


def verify_control_ack(message: ControlAck, key_record: KeyRecord | None) -> VerifiedControlAck:
    """The answer, if its signature holds; AuthenticationFailed else."""
    verify_signed(Kind.CONTROL_ACK, message, key_record)
    return VerifiedControlAck(message)


def control_body(
    *,
    message_id: str,
    instance_id: str,
    control_type: ControlType,
    connection_id: str,
    control_sequence: int,
    payload: ControlPayload | Payload,
    timestamp: int,
    key_id: str,
) -> bytes:
    """The body of a control message of ours, to be signed (Signer.sign_body) and stored.

    payload: one that is written already for a message that says the same as another did.
    """
    return canonical_message(
        {
            "messageId": message_id,
            "instanceId": instance_id,
            "type": control_type.value,
            "connectionId": connection_id,
            "controlSequence": control_sequence,
            "payload": payload if isinstance(payload, dict) else payload.to_wire(),
            "timestamp": timestamp,
            "keyId": key_id,
        }
    )


def sign_control_ack(
    signer: Signer,
    *,
    message_id: str,
    correlation_id: str,
    connection_id: str,
    status: str,
    timestamp: int,
    payload: dict[str, Any] | None = None,
) -> bytes:
    """The wire form of an answer of ours. `status` is the plain text of a state."""
    message: dict[str, Any] = {
        "messageId": message_id,
        "correlationId": correlation_id,
        "instanceId": signer.instance_id,
        "connectionId": connection_id,
        "status": str(status),
        "timestamp": timestamp,
    }
    if payload is not None:
        message["payload"] = payload
    return signer.sign_to_wire(Kind.CONTROL_ACK, message)


def answer_status(control_type: ControlType, status: str) -> int:
    """The HTTP status of a ControlAck (§3): 200, or 202 where the answer is only a receipt."""
    if control_type in (ControlType.CONNECTION_REQUEST, ControlType.REPLAY_REQUEST):
        return 202
    return 202 if control_type is ControlType.SUBSCRIPTION_REQUEST and status == "pending" else 200


def is_repeat(message: VerifiedControl, stored_digest: str | None) -> bool:
    """Whether the messageId was stored before, so that the stored answer is sent, whatever the state is now.

    `stored_digest` is that of the stored message of this id and connection, or None.
    MessageIdConflict if it was another message.
    """
    if stored_digest is None:
        return False
    if stored_digest != message.digest:
        raise MessageIdConflict(f"{message.message_id} was another control message")
    return True


def check_control_sequence(number: int, last: int) -> None:
    """SequenceConflict unless the number of a new message is higher than the last one's."""
    if number <= last:
        raise SequenceConflict(f"controlSequence {number} is not above {last}", last_control_sequence=last)
