"""The door: what every public POST passes before anything in it is believed (§9).

    method, type ─► size ─► address bucket ─► transport signature ─► nonce ─► strict JSON    `admit`
    shape (the view parses) ─► issuer, block list      `check_sender`
    ─► connection                                      `sender_connection`
    ─► message signature                               `verify_message`
    ─► instance bucket                                 `charge`

Until the transport signature has verified, a caller learns nothing but `authentication_failed` or
`clock_skew`; the local log has the whole signature base.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import sqlalchemy as sa
from flask import Request, request

from app import clock, limits, metrics, queue
from app.config import settings
from app.database import db
from app.federation import peers
from app.federation.identity import MAX_REQUEST_BYTES
from app.federation.peers import PinnedKey
from app.models import Connection, Peer
from app.protocol.canonical import loads
from app.protocol.control import ControlType
from app.protocol.errors import (
    AccessDenied,
    AuthenticationFailed,
    Blocked,
    ClockSkew,
    InvalidIssuer,
    KeyUntrusted,
    Problem,
    RateLimited,
    TooLarge,
)
from app.protocol.http_signature import (
    TransportSignature,
    check_media_type,
    read_signature,
    target_uri,
)
from app.protocol.keys import KeyRecord, load_public_key

log = logging.getLogger(__name__)

#: Headers of the transport signature, kept with a stranger's request.
_SIGNATURE_HEADERS = ("Content-Digest", "Signature-Input", "Signature")
#: A body that is only a little too large is read, so that its sender sees the answer and no broken pipe.
_DRAIN_BYTES = 4 * MAX_REQUEST_BYTES
#: A stranger's request is kept until it is checked; nobody may fill our disk with what is in it.
MAX_STRANGER_BYTES = 65_536
#: Refused requests of one address that are told of in the log, a minute; each line may have some kilobytes.
REFUSED_LINES_PER_MINUTE = 60

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who signed the request: an instance, by a key that is pinned for these peers."""

    instance_id: str
    key_id: str
    peer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed the door. A stranger's, whose signature nobody could verify, has no `peer_ids`.

    `evidence` is the request as it came, for who can verify it later.
    """

    sender: Sender
    raw: bytes
    value: Any
    evidence: dict[str, Any]


def admit(incoming: Request | None = None, *, strangers: bool = False) -> Admitted:
    """Check type, size, address, transport signature and JSON of a request, in this order.

    strangers: let a `connection.request` pass whose key is not pinned, unverified, with its evidence.
    Raises the Problem that the caller is told; refused requests are logged.
    """
    incoming = incoming or request
    check_media_type(incoming.headers.get("Content-Type"), incoming.headers.get("Content-Encoding"))
    raw = _read_body(incoming)
    limits.check("address", network_of(incoming), per_minute=settings().rate_limit_address)
    signature: TransportSignature | None = None
    try:
        target = target_uri(settings().base_url, _raw_target(incoming))
        signature = read_signature(
            incoming.headers.getlist,
            method=incoming.method,
            target_uri=target,
            body=raw,
            now_ms=clock.now_ms(),
        )
        evidence = _evidence(incoming, raw, target)
        if strangers and not peers.keys_of(signature.instance_id, signature.key_id):
            value = _stranger_request(raw)
            if value is not None:
                if len(raw) > MAX_STRANGER_BYTES:
                    raise TooLarge(
                        f"A request of an unknown instance has at most {MAX_STRANGER_BYTES} bytes."
                    )
                return Admitted(Sender(signature.instance_id, signature.key_id, ()), raw, value, evidence)
        sender = _verify(signature)
    except (AuthenticationFailed, ClockSkew, KeyUntrusted) as problem:
        _log_refused(incoming, problem, signature)
        raise
    if not queue.first_use_of_nonce(signature.instance_id, signature.nonce):
        replayed = AuthenticationFailed("the nonce was used before")
        _log_refused(incoming, replayed, signature)
        raise replayed
    return Admitted(sender, raw, loads(raw), evidence)


def check_sender(sender: Sender, instance_id: str, base_url: str | None = None) -> None:
    """That a message is of the instance that signed the request, and of one that is not blocked.

    Raises InvalidIssuer, Blocked.
    """
    if instance_id != sender.instance_id:
        raise InvalidIssuer()
    origins: Iterable[str | None] = [base_url]
    if settings().federation_blocked and sender.peer_ids:
        origins = [
            base_url,
            *db.session.scalars(sa.select(Peer.base_url).where(Peer.id.in_(sender.peer_ids))),
        ]
    if any(peers.is_blocked(instance_id, origin) for origin in origins):
        raise Blocked()


def sender_connection(sender: Sender, wire_connection_id: str) -> Connection:
    """The connection that the sender means.

    Raises AccessDenied, the same for an unknown one and for somebody else's.
    """
    connection = find_connection(sender, wire_connection_id)
    if connection is None:
        raise AccessDenied()
    return connection


def find_connection(sender: Sender, wire_connection_id: str) -> Connection | None:
    """The connection that the sender means, None if there is none."""
    return db.session.scalar(_MEANT, {"wire_id": wire_connection_id, "peers": list(sender.peer_ids)})


_MEANT = (
    sa.select(Connection)
    .where(
        Connection.wire_connection_id == sa.bindparam("wire_id"),
        Connection.peer_id.in_(sa.bindparam("peers", expanding=True)),
        Connection.checked_at.is_not(None),
    )
    .order_by(Connection.id.desc())
    .limit(1)
)


def message_key(peer_id: int, instance_id: str, key_id: str) -> KeyRecord | None:
    """The record of the key that a peer's message names; None if it is unknown.

    An unknown key is looked for in the peer's document, at most once in 10 s. Commits; no transaction may
    be open.
    """
    record = peers.message_key([peer_id], key_id)
    if record is None:
        peers.adopt_key(instance_id, key_id)
        record = peers.message_key([peer_id], key_id)
    return record


def verify_message(
    message: Any, connection: Connection, verify: Callable[[Any, KeyRecord | None], Message]
) -> Message:
    """The verified message, if a key of the connection's peer signed it and may have.

    verify: verify_control, verify_event, verify_event_ack or verify_ack_batch. Raises AuthenticationFailed,
    or KeyUntrusted if a key of the peer's document signed it that no vouch leads to.
    """
    if connection.peer_id is None:
        raise AuthenticationFailed("nobody knows the connection's peer yet")
    return verify_of_peer(message, connection.peer_id, verify)


def verify_of_peer(message: Any, peer_id: int, verify: Callable[[Any, KeyRecord | None], Message]) -> Message:
    """As `verify_message`, for a peer that has no such connection yet."""
    record = message_key(peer_id, message.instance_id, message.key_id)
    if record is not None:
        return verify(message, record)
    for key in peers.untrusted_keys(message.instance_id, message.key_id):
        if key.peer_id == peer_id:
            # Raises AuthenticationFailed unless it is really that key's.
            verify(message, key.record)
            peers.require_review(key.peer_id, key.record.fingerprint)
            raise KeyUntrusted()
    raise AuthenticationFailed("the message's key is not known")


def charge(sender: Sender, cost: int = 1) -> None:
    """Take `cost` events from the sender's bucket. Raises RateLimited.

    The bucket is that of the pinned identity: whoever claims the instanceId of another spends his own.
    """
    who = f"{sender.instance_id}:{max(sender.peer_ids, default=0)}"
    limits.check("peer", who, cost, per_second=settings().rate_limit_peer)


def address_of(incoming: Request | None = None) -> str:
    """Who is calling, as far as the network says."""
    return (incoming or request).remote_addr or "unknown"


def network_of(incoming: Request | None = None) -> str:
    """Who is calling, for buckets: a /64 of IPv6 is one caller's, who takes as many addresses as he likes."""
    address = address_of(incoming)
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, IPv4Address):
        return address
    return str(ip.ipv4_mapped) if ip.ipv4_mapped else str(IPv6Network((int(ip) >> 64 << 64, 64)))


def _read_body(incoming: Request) -> bytes:
    """The body, if it is small enough as declared and as it really is."""
    declared = incoming.content_length
    if declared is not None and declared > MAX_REQUEST_BYTES:
        if declared <= _DRAIN_BYTES:
            incoming.stream.read(declared)
        raise TooLarge(f"A request has at most {MAX_REQUEST_BYTES} bytes.")
    raw = incoming.stream.read(MAX_REQUEST_BYTES + 1)
    if len(raw) > MAX_REQUEST_BYTES:
        incoming.stream.read(_DRAIN_BYTES)
        raise TooLarge(f"A request has at most {MAX_REQUEST_BYTES} bytes.")
    return raw


def _raw_target(incoming: Request) -> str:
    """Path and query as they came, byte by byte; Flask's own are decoded."""
    raw: str = incoming.environ.get("RAW_URI") or incoming.environ.get("REQUEST_URI") or ""
    if raw.startswith("/"):
        return raw
    # The absolute form of RFC 9112: the origin in it is no more to be trusted than Host.
    try:
        parts = urlsplit(raw)
    except ValueError:
        raise AuthenticationFailed("the request target is malformed") from None
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _verify(signature: TransportSignature) -> Sender:
    """Who signed it, by pinned keys, or by a key that vouches lead to."""
    pinned = peers.keys_of(signature.instance_id, signature.key_id)
    if not pinned:
        pinned = peers.adopt_key(signature.instance_id, signature.key_id)
    signed = _signed_by(signature, peers.key_that_signed(pinned))
    if signed:
        return Sender(signature.instance_id, signature.key_id, tuple(key.peer_id for key in signed))
    if not pinned:
        untrusted = peers.untrusted_keys(signature.instance_id, signature.key_id)
        for key in _signed_by(signature, peers.key_that_signed(untrusted)):
            peers.require_review(key.peer_id, key.record.fingerprint)
            raise KeyUntrusted()
    raise AuthenticationFailed("no pinned key of this name made the transport signature")


def _signed_by(signature: TransportSignature, keys: Iterable[PinnedKey]) -> list[PinnedKey]:
    found = []
    for key in keys:
        try:
            signature.verify(load_public_key(key.record.public_key_pem))
        except AuthenticationFailed:
            continue
        found.append(key)
    return found


def _stranger_request(raw: bytes) -> dict[str, Any] | None:
    """A `connection.request`, None if the body is anything else; then nobody but pinned keys speak."""
    try:
        value = loads(raw)
    except Problem:
        return None
    if isinstance(value, dict) and value.get("type") == ControlType.CONNECTION_REQUEST.value:
        return value
    return None


def _evidence(incoming: Request, raw: bytes, target: str) -> dict[str, Any]:
    return {
        "headers": [[name, incoming.headers.get(name, "")] for name in _SIGNATURE_HEADERS],
        "target": target,
        "body": raw,
        "at": clock.now_ms(),
    }


def _log_refused(incoming: Request, problem: Problem, signature: TransportSignature | None) -> None:
    """What an operator needs to see which side signed what: the base that we expect, and what came."""
    metrics.PEER_REFUSED.inc(problem.code)
    try:
        limits.check("refused-lines", network_of(incoming), per_minute=REFUSED_LINES_PER_MINUTE)
    except RateLimited:
        # Counted all the same: nobody fills our disk by being refused.
        return
    log.info(
        "peer.refused",
        extra={
            "code": problem.code,
            "reason": getattr(problem, "reason", "") or problem.detail,
            "address": address_of(incoming),
            "path": incoming.path,
            "instance_id": signature.instance_id if signature else None,
            "key_id": signature.key_id if signature else None,
            "expected_base": signature.base if signature else None,
            "signature_input": incoming.headers.get("Signature-Input", "")[:1024],
            "content_digest": incoming.headers.get("Content-Digest", "")[:256],
        },
    )
