"""Events, their acks and batches, and the instance document (§2, §3).

`parse_x` reads loaded JSON and raises InvalidRequest at the pointer of the first bad member.
`verify_x` checks the signature against one key record and is the only maker of a
`Verified…`, so a handler that takes one can never be reached by an unsigned value.
What there is a hundred of in a batch is a NamedTuple: made in a third of the time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, NewType, Protocol

from app.protocol.canonical import canonical_message, check_message, loads
from app.protocol.errors import (
    AuthenticationFailed,
    EventExpired,
    KeyUntrusted,
    Problem,
    TooLarge,
    UnsupportedVersion,
    invalid,
)
from app.protocol.event_types import check_event_type
from app.protocol.keys import (
    KeyRecord,
    KeyStatus,
    find_key,
    load_public_key,
    may_sign_message,
    parse_key_records,
)
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
    read_text,
    read_uuid,
)
from app.protocol.signing import (
    Kind,
    Signer,
    body_input,
    body_of,
    digest,
    verify_body,
    verify_in_tree,
    with_signature,
)
from app.protocol.tree import Proof, read_proof

#: The one version that is spoken here.
SPEC_VERSION = "1.0"
#: Most versions in a document or an offer, and the longest of them.
MAX_VERSIONS, MAX_VERSION = 10, 64
MAX_NAME, MAX_NOTE, MAX_SUBJECT, MAX_TRACEPARENT, MAX_STATUS = 200, 1000, 1024, 55, 64

#: How far a message may be ahead of the clock here, and how old an event may be (§7), in ms.
MAX_AHEAD_MS = 300_000
MAX_EVENT_AGE_MS = 8 * 86_400_000
#: How long a document may be valid (§2), in ms; clocks may differ by MAX_AHEAD_MS besides.
MAX_VALIDITY_MS = 86_400_000
#: How long a stream epoch lasts at least before its receiver takes another one (§6), in ms.
EPOCH_MIN_MS = 10_000
#: Largest instance document (§2), in bytes.
MAX_DOCUMENT_BYTES = 50 * 1024


class Signed(Protocol):
    """What every signed message has. `body` is the JCS of what the signature covers."""

    @property
    def body(self) -> bytes: ...
    @property
    def key_id(self) -> str: ...
    @property
    def signature(self) -> str: ...
    @property
    def timestamp(self) -> int: ...


def verify_signed(
    kind: Kind, message: Signed, record: KeyRecord | None, barred: type[Problem] = AuthenticationFailed
) -> None:
    """AuthenticationFailed unless the signature is by that record's key.

    `barred` is raised for a key that is unknown (None) or may not have signed it (§2).
    """
    pem = _permitted(message, record, barred).public_key_pem
    verify_body(kind, message.body, message.signature, load_public_key(pem))


def _permitted(message: Signed, record: KeyRecord | None, barred: type[Problem]) -> KeyRecord:
    if record is None or record.key_id != message.key_id or not may_sign_message(record, message.timestamp):
        raise barred()
    return record


# Events


class EventMessage(NamedTuple):
    """One event as its sender signed it (§3). `digest` is Base64 of SHA-256 of the signing input."""

    message_id: str
    instance_id: str
    event_type: str
    payload: dict[str, Any]
    timestamp: int
    key_id: str
    signature: str
    body: bytes
    digest: str
    subject: str | None = None
    data_schema: str | None = None
    traceparent: str | None = None
    #: Its place among the events that it shares the signature with.
    proof: Proof | None = None

    @property
    def wire_size(self) -> int:
        """Bytes of JCS(event) with its signature: what `maxEventBytes` counts (§2)."""
        return event_size(self.body, self.signature)

    def to_wire(self) -> bytes:
        """The signed event; unknown members are kept."""
        return with_signature(self.body, self.signature, self.proof)


#: An EventMessage whose signature was checked. Only verify_event makes one.
VerifiedEvent = NewType("VerifiedEvent", EventMessage)


def event_size(body: bytes | str, signature: str, proof: str | None = None) -> int:
    """Bytes of JCS(event) with its signature, and its proof if it has one; of text, all is ASCII."""
    place = 0 if proof is None else len(',"proof":') + len(proof)
    return len(body) + len(',"signature":""') + len(signature) + place


def parse_event(value: object, pointer: str = "") -> EventMessage:
    """Read an event, signed by itself or together with others (§1.3)."""
    message = read_object(value, pointer)
    body = canonical_message(message, pointer, without=("signature", "proof"))
    if "specVersion" in message:
        _check_spec_version(message, pointer)
    return EventMessage(
        message_id=read_uuid(message, "messageId", pointer),
        instance_id=read_uuid(message, "instanceId", pointer),
        event_type=_read_event_type(message, pointer),
        payload=read_member_object(message, "payload", pointer),
        timestamp=read_integer(message, "timestamp", pointer),
        key_id=read_key_id(message, "keyId", pointer),
        signature=read_base64(message, "signature", pointer),
        body=body,
        digest=digest(body_input(Kind.EVENT, body)),
        subject=optional(read_text, message, "subject", pointer, MAX_SUBJECT),
        data_schema=optional(read_text, message, "dataSchema", pointer, MAX_SUBJECT),
        traceparent=optional(read_text, message, "traceparent", pointer, MAX_TRACEPARENT),
        proof=read_proof(message, pointer) if "proof" in message else None,
    )


def _check_spec_version(message: Object, pointer: str) -> None:
    if read_text(message, "specVersion", pointer, MAX_VERSION) != SPEC_VERSION:
        raise UnsupportedVersion(f"{pointer}/specVersion: only {SPEC_VERSION} is spoken here")


def _read_event_type(message: Object, pointer: str) -> str:
    if "eventType" not in message:
        raise invalid(f"{pointer}/eventType", "is required", "required")
    return check_event_type(message["eventType"], f"{pointer}/eventType")


def verify_event(
    message: EventMessage, key_record: KeyRecord | None, *, barred: type[Problem] = AuthenticationFailed
) -> VerifiedEvent:
    """The event, if its signature is by that record's key and the key may have signed it.

    `barred` is raised for a key that is unknown (None) or may not sign: KeyUntrusted for an
    entry of a batch (§2), AuthenticationFailed else. A wrong signature is always the latter.
    """
    if message.proof is None:
        verify_signed(Kind.EVENT, message, key_record, barred)
    else:
        pem = _permitted(message, key_record, barred).public_key_pem
        verify_in_tree(message.body, message.signature, message.proof, pem)
    return VerifiedEvent(message)


def check_event_time(message: EventMessage, now_ms: int, *, was_asked_for: bool = False) -> None:
    """InvalidRequest if it is from the future, EventExpired if it is too old and no asked-for replay (§7)."""
    if message.timestamp > now_ms + MAX_AHEAD_MS:
        raise invalid("/timestamp", "is more than 300 s in the future", "range")
    if message.timestamp < now_ms - MAX_EVENT_AGE_MS and not was_asked_for:
        raise EventExpired("the event is older than 8 days")


def is_same_event(body: bytes, other: bytes) -> bool:
    """Whether two event bodies are equal in all but `keyId` (§6: then one is a duplicate)."""
    return body == other or _without_key(body) == _without_key(other)


def _without_key(body: bytes) -> bytes:
    return canonical_message(loads(body), without=("keyId",))


def event_body(
    *,
    message_id: str,
    instance_id: str,
    event_type: str,
    payload: dict[str, Any],
    timestamp: int,
    key_id: str,
    subject: str | None = None,
    data_schema: str | None = None,
    traceparent: str | None = None,
) -> bytes:
    """The body of an event of our own, or InvalidRequest for what a receiver would refuse."""
    message = {
        "messageId": message_id,
        "instanceId": instance_id,
        "eventType": check_event_type(event_type, "/eventType"),
        "payload": payload,
        "timestamp": timestamp,
        "keyId": key_id,
    }
    extras = {"subject": (subject, MAX_SUBJECT), "dataSchema": (data_schema, MAX_SUBJECT)}
    for name, (text, limit) in (extras | {"traceparent": (traceparent, MAX_TRACEPARENT)}).items():
        if text is not None:
            message[name] = read_text({name: text}, name, "", limit)
    # The signature, added later, is one value more.
    return canonical_message(message | {"signature": ""}, without=("signature",))


# Batches


class BatchEntry(NamedTuple):
    """One entry: either `event` is there, or `problem` says why it was refused on reading."""

    sequence: int
    message_id: str
    digest: str
    event: EventMessage | None
    problem: Problem | None
    replay_id: str | None


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The envelope and its entries, sequences ascending. It is signed by the transport alone."""

    batch_id: str
    connection_id: str
    stream_epoch: str
    entries: tuple[BatchEntry, ...]


def parse_event_batch(value: object, *, max_events: int) -> EventBatch:
    """Read a batch (§3): TooLarge over `max_events`, InvalidRequest for a bad envelope.

    A bad event inside a good envelope becomes the `problem` of its entry, as long as its
    messageId can be read.
    """
    envelope = read_object(value, "")
    events = read_array(envelope, "events", "")
    if not events:
        raise invalid("/events", "is empty", "limit")
    if len(events) > max_events:
        raise TooLarge(f"a batch has at most {max_events} events here")
    _check_envelope(envelope, events)
    return EventBatch(
        batch_id=read_uuid(envelope, "batchId", ""),
        connection_id=read_uuid(envelope, "connectionId", ""),
        stream_epoch=read_uuid(envelope, "streamEpoch", ""),
        entries=_parse_entries(events),
    )


def _check_envelope(envelope: Object, events: Sequence[object]) -> None:
    """Depth and count of the envelope, without the events in it (§1.1)."""
    check_message(envelope | {"events": [_without_event(entry) for entry in events]})


def _without_event(entry: object) -> object:
    if not isinstance(entry, dict):
        return entry
    return {name: value for name, value in entry.items() if name != "event"}


def _parse_entries(events: Sequence[object]) -> tuple[BatchEntry, ...]:
    entries: list[BatchEntry] = []
    last = 0
    for i, value in enumerate(events):
        entry = _parse_entry(value, f"/events/{i}")
        if entry.sequence <= last:
            raise invalid(f"/events/{i}/sequence", "is not higher than the one before", "order")
        last = entry.sequence
        entries.append(entry)
    return tuple(entries)


def _parse_entry(value: object, pointer: str) -> BatchEntry:
    entry = read_object(value, pointer)
    sequence = read_integer(entry, "sequence", pointer, 1)
    replay_id = read_uuid(entry, "replayId", pointer) if "replayId" in entry else None
    raw = read_member_object(entry, "event", pointer)
    try:
        event = parse_event(raw, pointer + "/event")
    except Problem as problem:
        message_id = read_uuid(raw, "messageId", pointer + "/event")
        refused_digest = digest(body_input(Kind.EVENT, body_of(Kind.EVENT, raw)))
        return BatchEntry(sequence, message_id, refused_digest, None, problem, replay_id)
    return BatchEntry(sequence, event.message_id, event.digest, event, None, replay_id)


# Acks


class AckStatus(StrEnum):
    STORED = "stored"  #: stored by this request
    DUPLICATE = "duplicate"  #: stored before
    REJECTED = "rejected"  #: not stored; `error` says why, and whether to send it again


class AckError(NamedTuple):
    """Why an event was rejected."""

    code: str
    detail: str
    retryable: bool

    def to_wire(self) -> dict[str, Any]:
        """The member `error`."""
        return {"code": self.code, "detail": self.detail, "retryable": self.retryable}


class AckEntry(NamedTuple):
    """One entry of an EventAckBatch; `correlation_id` is the event's messageId."""

    sequence: int
    correlation_id: str
    status: AckStatus
    digest: str
    error: AckError | None = None

    @property
    def received(self) -> bool:
        """Whether the event is stored at the receiver."""
        return self.status is not AckStatus.REJECTED

    def to_wire(self) -> dict[str, Any]:
        """The entry as in `acks`."""
        return {"sequence": self.sequence} | _verdict_to_wire(
            self.correlation_id, self.status, self.digest, self.error
        )


@dataclass(frozen=True, slots=True)
class EventAck:
    """The receiver's signed answer to one event."""

    message_id: str
    correlation_id: str
    instance_id: str
    connection_id: str
    timestamp: int
    status: AckStatus
    digest: str
    error: AckError | None
    key_id: str
    signature: str
    body: bytes

    @property
    def received(self) -> bool:
        """Whether the event is stored at the receiver."""
        return self.status is not AckStatus.REJECTED

    def to_wire(self) -> bytes:
        """The signed ack."""
        return with_signature(self.body, self.signature)


@dataclass(frozen=True, slots=True)
class EventAckBatch:
    """The receiver's signed answer to a batch; `correlation_id` is its batchId."""

    message_id: str
    correlation_id: str
    instance_id: str
    connection_id: str
    timestamp: int
    stream_epoch: str
    contiguous: int
    acks: tuple[AckEntry, ...]
    key_id: str
    signature: str
    body: bytes

    def to_wire(self) -> bytes:
        """The signed ack batch."""
        return with_signature(self.body, self.signature)


#: Acks whose signature was checked. Only verify_event_ack and verify_ack_batch make them.
VerifiedEventAck = NewType("VerifiedEventAck", EventAck)
VerifiedAckBatch = NewType("VerifiedAckBatch", EventAckBatch)


def parse_event_ack(value: object, pointer: str = "") -> EventAck:
    """Read an EventAck."""
    message = read_object(value, pointer)
    body = canonical_message(message, pointer, without=("signature",))
    status, error = _read_verdict(message, pointer)
    return EventAck(
        message_id=read_uuid(message, "messageId", pointer),
        correlation_id=read_uuid(message, "correlationId", pointer),
        instance_id=read_uuid(message, "instanceId", pointer),
        connection_id=read_uuid(message, "connectionId", pointer),
        timestamp=read_integer(message, "timestamp", pointer),
        status=status,
        digest=read_base64(message, "digest", pointer, 32),
        error=error,
        key_id=read_key_id(message, "keyId", pointer),
        signature=read_base64(message, "signature", pointer),
        body=body,
    )


def parse_ack_batch(value: object, pointer: str = "", hoped_for: Sequence[AckEntry] = ()) -> EventAckBatch:
    """Read an EventAckBatch. That its entries fit the batch is for who sent that to check.

    hoped_for: the entries that it has if all was stored. If it has just these, they are not taken apart one
    by one: the canonical text says the same of all of them at once.
    """
    message = read_object(value, pointer)
    body = canonical_message(message, pointer, without=("signature",))
    entries = read_array(message, "acks", pointer)
    if hoped_for and body.startswith(_stored_text(hoped_for)):
        acks = tuple(hoped_for)
    else:
        acks = tuple(_parse_ack_entry(entry, f"{pointer}/acks/{i}") for i, entry in enumerate(entries))
    return EventAckBatch(
        message_id=read_uuid(message, "messageId", pointer),
        correlation_id=read_uuid(message, "correlationId", pointer),
        instance_id=read_uuid(message, "instanceId", pointer),
        connection_id=read_uuid(message, "connectionId", pointer),
        timestamp=read_integer(message, "timestamp", pointer),
        stream_epoch=read_uuid(message, "streamEpoch", pointer),
        contiguous=read_integer(message, "contiguous", pointer),
        acks=acks,
        key_id=read_key_id(message, "keyId", pointer),
        signature=read_base64(message, "signature", pointer),
        body=body,
    )


def _stored_text(entries: Sequence[AckEntry]) -> bytes:
    """How the canonical text of an ack batch begins that says `stored` of these, and of no others."""
    said = ",".join(
        [
            f'{{"correlationId":"{entry.correlation_id}","digest":"{entry.digest}","received":true,'
            f'"sequence":{entry.sequence},"status":"stored"}}'
            for entry in entries
        ]
    )
    return f'{{"acks":[{said}],"c'.encode()


def parse_any_ack(value: object) -> EventAck | EventAckBatch:
    """Read what `POST /incoming/event/ack` takes: one of the two, told apart by `acks`."""
    message = read_object(value, "")
    return parse_ack_batch(message) if "acks" in message else parse_event_ack(message)


def _parse_ack_entry(value: object, pointer: str) -> AckEntry:
    entry = read_object(value, pointer)
    status, error = _read_verdict(entry, pointer)
    return AckEntry(
        sequence=read_integer(entry, "sequence", pointer, 1),
        correlation_id=read_uuid(entry, "correlationId", pointer),
        status=status,
        digest=read_base64(entry, "digest", pointer, 32),
        error=error,
    )


def _read_verdict(message: Object, pointer: str) -> tuple[AckStatus, AckError | None]:
    """`received`, `status` and `error`, which must agree (§3)."""
    received = read_boolean(message, "received", pointer)
    status = read_choice(message, "status", pointer, AckStatus)
    if received is (status is AckStatus.REJECTED):
        raise invalid(f"{pointer}/received", f"contradicts the status {status.value}")
    if status is not AckStatus.REJECTED and "error" not in message:
        return status, None
    where = f"{pointer}/error"
    error = read_member_object(message, "error", pointer)
    return status, AckError(
        code=read_text(error, "code", where, MAX_STATUS),
        detail=read_text(error, "detail", where, MAX_NOTE),
        retryable=read_boolean(error, "retryable", where),
    )


def verify_event_ack(message: EventAck, key_record: KeyRecord | None) -> VerifiedEventAck:
    """The ack, if its signature holds; AuthenticationFailed else."""
    verify_signed(Kind.ACK, message, key_record)
    return VerifiedEventAck(message)


def verify_ack_batch(message: EventAckBatch, key_record: KeyRecord | None) -> VerifiedAckBatch:
    """The ack batch, if its signature holds; AuthenticationFailed else."""
    verify_signed(Kind.ACK_BATCH, message, key_record)
    return VerifiedAckBatch(message)


def _verdict_to_wire(
    correlation_id: str, status: AckStatus, digest: str, error: AckError | None
) -> dict[str, Any]:
    verdict: dict[str, Any] = {
        "correlationId": correlation_id,
        "received": status is not AckStatus.REJECTED,
        "status": status.value,
        "digest": digest,
    }
    if error is not None:
        verdict["error"] = error.to_wire()
    return verdict


def ack_error(problem: Problem) -> AckError:
    """The `error` of an ack that rejects with this problem."""
    return AckError(problem.code, problem.detail, problem.retryable)


def sign_event_ack(
    signer: Signer,
    *,
    message_id: str,
    correlation_id: str,
    connection_id: str,
    timestamp: int,
    status: AckStatus,
    digest: str,
    error: AckError | None = None,
) -> bytes:
    """The wire form of an EventAck of ours."""
    head = {
        "messageId": message_id,
        "instanceId": signer.instance_id,
        "connectionId": connection_id,
        "timestamp": timestamp,
    }
    return signer.sign_to_wire(Kind.ACK, head | _verdict_to_wire(correlation_id, status, digest, error))


def sign_ack_batch(
    signer: Signer,
    *,
    message_id: str,
    batch_id: str,
    connection_id: str,
    timestamp: int,
    stream_epoch: str,
    contiguous: int,
    acks: Iterable[AckEntry],
) -> bytes:
    """The wire form of an EventAckBatch of ours: one signature for all entries."""
    message = {
        "messageId": message_id,
        "correlationId": batch_id,
        "instanceId": signer.instance_id,
        "connectionId": connection_id,
        "timestamp": timestamp,
        "streamEpoch": stream_epoch,
        "contiguous": contiguous,
        "acks": [entry.to_wire() for entry in acks],
    }
    return signer.sign_to_wire(Kind.ACK_BATCH, message)


# The instance document


@dataclass(frozen=True, slots=True)
class Limits:
    """What an instance accepts (§2): bytes, counts, ms."""

    max_event_bytes: int = 65_536
    max_batch_events: int = 100
    max_request_bytes: int = 1_048_576
    retention_ms: int = 30 * 86_400_000

    def to_wire(self) -> dict[str, int]:
        """The member `limits`."""
        return {
            "maxEventBytes": self.max_event_bytes,
            "maxBatchEvents": self.max_batch_events,
            "maxRequestBytes": self.max_request_bytes,
            "retentionMs": self.retention_ms,
        }


@dataclass(frozen=True, slots=True)
class InstanceDocument:
    """What an instance says of itself (§2)."""

    instance_id: str
    name: str
    base_url: str
    software_name: str
    software_version: str
    versions: tuple[str, ...]
    features: tuple[str, ...]
    server_time: int
    valid_until: int
    keys: tuple[KeyRecord, ...]
    limits: Limits
    key_id: str
    signature: str
    body: bytes

    @property
    def timestamp(self) -> int:
        """`serverTime`, the time of its signature, in ms."""
        return self.server_time

    def active_key(self) -> KeyRecord:
        """The one key that is active."""
        return next(record for record in self.keys if record.status is KeyStatus.ACTIVE)

    def find_key(self, key_id: str) -> KeyRecord | None:
        """The record of that keyId, or None."""
        return find_key(self.keys, key_id)

    def to_wire(self) -> bytes:
        """The signed document."""
        return with_signature(self.body, self.signature)


#: A document whose origin, time and signature were checked. Only verify_document makes one.
VerifiedDocument = NewType("VerifiedDocument", InstanceDocument)


def parse_instance_document(value: object) -> InstanceDocument:
    """Read an instance document; exactly one of its keys is active."""
    message = read_object(value, "")
    body = canonical_message(message, without=("signature",))
    if read_text(message, "protocol", "", MAX_VERSION) != "tidings":
        raise invalid("/protocol", "is not `tidings`")
    software = read_member_object(message, "software", "")
    keys = parse_key_records(message, "keys", "")
    if [record.status for record in keys].count(KeyStatus.ACTIVE) != 1:
        raise invalid("/keys", "exactly one key is active")
    return InstanceDocument(
        instance_id=read_uuid(message, "instanceId", ""),
        name=read_text(message, "name", "", MAX_NAME),
        base_url=read_origin(message, "baseUrl", ""),
        software_name=read_text(software, "name", "/software", MAX_NAME),
        software_version=read_text(software, "version", "/software", MAX_NAME),
        versions=read_names(message, "versions", "", MAX_VERSIONS, MAX_VERSION),
        features=read_features(message, "features", ""),
        server_time=read_integer(message, "serverTime", ""),
        valid_until=read_integer(message, "validUntil", ""),
        keys=keys,
        limits=_parse_limits(read_member_object(message, "limits", "")),
        key_id=read_key_id(message, "keyId", ""),
        signature=read_base64(message, "signature", ""),
        body=body,
    )


def _parse_limits(limits: Object) -> Limits:
    max_event_bytes = read_integer(limits, "maxEventBytes", "/limits", 1)
    return Limits(
        max_event_bytes=max_event_bytes,
        max_batch_events=read_integer(limits, "maxBatchEvents", "/limits", 1),
        max_request_bytes=read_integer(limits, "maxRequestBytes", "/limits", max_event_bytes + 1024),
        retention_ms=read_integer(limits, "retentionMs", "/limits"),
    )


def verify_document(
    document: InstanceDocument, *, base_url: str, now_ms: int, pinned: Sequence[KeyRecord] | None = None
) -> VerifiedDocument:
    """The document, if it is of this origin, of now, and signed by a key that may.

    The key is one of the `pinned`, where there are any; else one of the document's own,
    which proves only that it was not altered since. InvalidRequest, KeyUntrusted or
    AuthenticationFailed else.
    """
    if document.base_url != base_url:
        raise invalid("/baseUrl", "is not where the document was fetched from")
    if not now_ms <= document.valid_until <= now_ms + MAX_VALIDITY_MS + MAX_AHEAD_MS:
        raise invalid("/validUntil", "has passed, or is more than 24 h ahead", "range")
    keys = document.keys if pinned is None else pinned
    verify_signed(Kind.INSTANCE, document, find_key(keys, document.key_id), KeyUntrusted)
    return VerifiedDocument(document)


def sign_document(
    signer: Signer,
    *,
    name: str,
    base_url: str,
    software: tuple[str, str],
    now_ms: int,
    keys: Iterable[KeyRecord],
    features: Sequence[str],
    limits: Limits,
) -> bytes:
    """The wire form of our own document, valid for 24 h. `software` is (name, version)."""
    message = {
        "protocol": "tidings",
        "versions": [SPEC_VERSION],
        "instanceId": signer.instance_id,
        "name": name,
        "baseUrl": base_url,
        "software": {"name": software[0], "version": software[1]},
        "serverTime": now_ms,
        "validUntil": now_ms + MAX_VALIDITY_MS,
        "keys": [record.to_wire() for record in keys],
        "features": list(features),
        "limits": limits.to_wire(),
    }
    return signer.sign_to_wire(Kind.INSTANCE, message)
