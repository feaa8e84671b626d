"""Proof: what shows, to anybody and without this software, who said what and who received it.

An event is its signed bytes, a signature and the public key that was trusted for its sender; a receipt is
the same of the ack, whose digest is that of the event. Nothing here asks anybody: all of it was kept.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db
from app.federation import identity, peers
from app.models import Attempt, Connection, Delivery, Direction, Event, EventSignature, Peer, event_named
from app.protocol.canonical import canonical, loads
from app.protocol.errors import NotFound, Problem
from app.protocol.keys import KeyRecord, KeyStatus, load_public_key, may_sign_message, parse_key_record
from app.protocol.members import decode_base64
from app.protocol.messages import AckStatus, sign_event_ack
from app.protocol.signing import Kind, body_input, body_of, digest, tree_input, with_signature
from app.protocol.states import DeliveryState
from app.protocol.tree import Proof as TreeProof
from app.protocol.tree import parse_proof
from app.reports.times import rfc3339


class Signed(NamedTuple):
    """A signed message and the key that is to have signed it."""

    kind: Kind
    #: JCS of the message without its signature and proof.
    body: bytes
    #: Base64.
    signature: str
    key_id: str
    #: When it was said, by its own word, Unix ms.
    timestamp: int
    #: None if no such key is kept.
    key: KeyRecord | None
    #: Who signed it, in words.
    signer: str
    #: The event's place among those that it shares the signature with.
    place: TreeProof | None = None

    @property
    def signing_input(self) -> bytes:
        """What stands for the message: the bytes of which its digest is made."""
        return body_input(self.kind, self.body)

    @property
    def signed_bytes(self) -> bytes:
        """Exactly what the signature is over: the signing input, or the root of the tree it is a leaf of."""
        return self.signing_input if self.place is None else tree_input(self.body, self.place)

    @property
    def raw_signature(self) -> bytes:
        """The signature's own bytes; empty if it is not Base64."""
        return decode_base64(self.signature) or b""

    @property
    def wire(self) -> bytes:
        """The message as it is sent."""
        return with_signature(self.body, self.signature, self.place)

    @property
    def digest(self) -> str:
        """Base64 SHA-256 of the signing input: what receipts name."""
        return digest(self.signing_input)

    def is_genuine(self) -> bool:
        """Whether that key made the signature."""
        return self.key is not None and load_public_key(self.key.public_key_pem).verify(
            self.raw_signature, self.signed_bytes
        )


class Receipt(NamedTuple):
    """An ack, or one entry of an ack of many events."""

    ack: Signed
    #: API id of the connection.
    connection_id: str
    #: `stored`, `duplicate` or `rejected`.
    status: str
    #: Base64; of which content the ack speaks.
    digest: str


class Proof(NamedTuple):
    """All that is kept of an event."""

    message_id: str
    direction: Direction
    event: Signed
    #: As it was noted when the event was stored.
    noted_digest: str
    #: Its further signatures: by a key that was revoked since, or its own beside a shared one. Receipts may
    #: be for these.
    former: list[Signed]
    receipts: list[Receipt]
    #: API ids of connections where it arrived, but whose ack is not kept.
    without_receipt: list[str]


class Result(StrEnum):
    HOLDS = "holds"  #: checked, and so
    FAILS = "fails"  #: checked, and not so
    MISSING = "missing"  #: there is nothing to check


class Finding(NamedTuple):
    """One check, and what it showed, in words."""

    check: str
    result: Result
    detail: str


def read_proof(workspace_id: int, message_id: str) -> Proof:
    """What is kept of one event of a workspace. Raises NotFound."""
    event = db.session.scalars(
        sa.select(Event)
        .where(event_named(workspace_id, message_id))
        .order_by(Event.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if event is None:
        raise NotFound("There is no such event in this workspace.")
    former = db.session.scalars(sa.select(EventSignature).where(EventSignature.event_id == event.id))
    receipts, without = _receipts(event) if event.direction is Direction.OUTGOING else ([], [])
    return Proof(
        message_id,
        event.direction,
        _signed_event(event, event),
        event.digest,
        [_signed_event(event, row) for row in former],
        receipts,
        without,
    )


def own_receipt(workspace_id: int, message_id: str) -> Receipt | None:
    """Our receipt for an event of a peer, signed now: those that we sent are kept by who got them.

    None for an event of our own.
    """
    row = db.session.execute(
        sa.select(Event.digest, Connection.public_id, Connection.wire_connection_id)
        .join(Connection, Connection.id == Event.connection_id)
        .where(event_named(workspace_id, message_id))
        .order_by(Event.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    ours = identity.signer()
    wire = sign_event_ack(
        ours,
        message_id=str(uuid4()),
        correlation_id=message_id,
        connection_id=row.wire_connection_id,
        timestamp=now_ms(),
        status=AckStatus.DUPLICATE,
        digest=row.digest,
    )
    ack = _signed_ack(loads(wire), _own_key(ours.key_id), _ourselves())
    return Receipt(ack, row.public_id, AckStatus.DUPLICATE.value, row.digest)


def findings(proof: Proof) -> list[Finding]:
    """Check everything. Pure."""
    checked = [
        _signature_finding("signature", proof.event),
        _key_finding("key", proof.event),
        _digest_finding(proof),
    ]
    digests = {proof.event.digest, *(signed.digest for signed in proof.former)}
    for receipt in proof.receipts:
        checked += _receipt_findings(receipt, digests)
    checked += [
        Finding("receipt", Result.MISSING, f"It arrived over {connection}, but the ack is not kept.")
        for connection in proof.without_receipt
    ]
    if proof.direction is Direction.INCOMING:
        checked.append(
            Finding("receipt", Result.MISSING, "Its sender has our receipt; export signs another one.")
        )
    elif not proof.receipts and not proof.without_receipt:
        checked.append(Finding("receipt", Result.MISSING, "Nobody has acknowledged it."))
    return checked


def _signature_finding(check: str, signed: Signed) -> Finding:
    if signed.key is None:
        return Finding(check, Result.FAILS, f"No key {signed.key_id} of {signed.signer} is kept.")
    if not signed.is_genuine():
        return Finding(check, Result.FAILS, f"It was not made by the key {signed.key_id} of {signed.signer}.")
    shared = (
        "" if signed.place is None else f" It is shared by {signed.place.size} events, this one among them."
    )
    return Finding(
        check,
        Result.HOLDS,
        f"Made by the key {signed.key_id} of {signed.signer} ({signed.key.algorithm.value}, fingerprint "
        f"{signed.key.fingerprint}).{shared}",
    )


def _key_finding(check: str, signed: Signed) -> Finding:
    key, said = signed.key, rfc3339(signed.timestamp)
    if key is None:
        return Finding(check, Result.FAILS, f"No key {signed.key_id} is kept.")
    if key.status is KeyStatus.REVOKED:
        when = f" at {rfc3339(key.revoked_at)}" if key.revoked_at is not None else ""
        return Finding(
            check,
            Result.FAILS,
            f"It was revoked{when}: since then anybody may have signed with it, and dated it {said}.",
        )
    if key.status is KeyStatus.RETIRED:
        ends = rfc3339(key.not_after) if key.not_after is not None else "an unknown time"
        if not may_sign_message(key, signed.timestamp):
            return Finding(check, Result.FAILS, f"It was retired at {ends}, and this is of {said}, later.")
        return Finding(check, Result.HOLDS, f"It was valid at {said}; it was retired at {ends}.")
    return Finding(check, Result.HOLDS, f"It was valid at {said}, and still is ({key.status.value}).")


def _digest_finding(proof: Proof) -> Finding:
    if proof.event.digest != proof.noted_digest:
        return Finding("digest", Result.FAILS, "It is not the one that was noted when the event was stored.")
    if canonical(loads(proof.event.body)) != proof.event.body:
        return Finding("digest", Result.FAILS, "The text is not in its canonical form (RFC 8785).")
    return Finding("digest", Result.HOLDS, f"SHA-256 of its signing input, Base64: {proof.event.digest}")


def _receipt_findings(receipt: Receipt, digests: set[str]) -> list[Finding]:
    name = f"receipt {receipt.connection_id}"
    checked = [
        _signature_finding(f"{name} signature", receipt.ack),
        _key_finding(f"{name} key", receipt.ack),
    ]
    said = f"{receipt.status} at {rfc3339(receipt.ack.timestamp)}, by {receipt.ack.signer}"
    if receipt.digest in digests:
        checked.append(Finding(name, Result.HOLDS, f"It says {said}; its digest is that of this event."))
    else:
        checked.append(Finding(name, Result.FAILS, f"It says {said}, but of other content."))
    return checked


def _signed_event(event: Event, version: Event | EventSignature) -> Signed:
    key, who = _key_of_sender(event, version.key_id)
    place = None if version.proof is None else parse_proof(version.proof)
    return Signed(
        Kind.EVENT, version.body.encode(), version.signature, version.key_id, event.timestamp, key, who, place
    )


def _key_of_sender(event: Event, key_id: str) -> tuple[KeyRecord | None, str]:
    if event.direction is Direction.OUTGOING:
        return _own_key(key_id), _ourselves()
    peer = db.session.scalars(
        sa.select(Peer)
        .join(Connection, Connection.peer_id == Peer.id)
        .where(Connection.id == event.connection_id)
    ).one()
    return peers.message_key([peer.id], key_id), _peer_in_words(peer)


def _receipts(event: Event) -> tuple[list[Receipt], list[str]]:
    """The acks of an event of ours, and the connections where it arrived without one that is kept."""
    rows = db.session.execute(
        sa.select(Connection.public_id, Peer, Delivery.state, Attempt.ack)
        .join_from(Delivery, Connection, Connection.id == Delivery.connection_id)
        .join(Peer, Peer.id == Connection.peer_id)
        .outerjoin(Attempt, Attempt.id == Delivery.attempt_id)
        .where(Delivery.event_id == event.id)
        .order_by(Delivery.id)
    ).all()
    receipts: list[Receipt] = []
    without: list[str] = []
    for connection_id, peer, state, text in rows:
        found = _receipts_in(text, connection_id, peer, event.message_id)
        receipts += found
        if not found and state is DeliveryState.DELIVERED:
            without.append(connection_id)
    return receipts, without


def _receipts_in(text: str | None, connection_id: str, peer: Peer, message_id: str) -> list[Receipt]:
    if text is None:
        return []
    ack: dict[str, Any] = loads(text.encode())
    signed = _signed_ack(ack, peers.message_key([peer.id], ack["keyId"]), _peer_in_words(peer))
    entries: Sequence[dict[str, Any]] = ack.get("acks", [ack])
    return [
        Receipt(signed, connection_id, entry["status"], entry["digest"])
        for entry in entries
        if entry["correlationId"] == message_id
    ]


def _signed_ack(ack: dict[str, Any], key: KeyRecord | None, signer: str) -> Signed:
    kind = Kind.ACK_BATCH if "acks" in ack else Kind.ACK
    return Signed(kind, body_of(kind, ack), ack["signature"], ack["keyId"], ack["timestamp"], key, signer)


def _own_key(key_id: str) -> KeyRecord | None:
    record = identity.key_record(key_id)
    try:
        return None if record is None else parse_key_record(record)
    except Problem:
        return None


def _ourselves() -> str:
    local = identity.local_instance()
    return f"{local.base_url} (instance {local.instance_id}, this one)"


def _peer_in_words(peer: Peer) -> str:
    return f"{peer.base_url} (instance {peer.instance_id})"
