"""Puts the requests of requests.json together: messages, their transport signatures, and the answers.

A request that keeps the rules is signed by our own code; one that breaks those of transport
signatures (§1.4) is put together by hand.
"""

import base64
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from app.protocol import control, http_signature, keys, messages, signing
from app.protocol.control import ControlType
from app.protocol.keys import Algorithm, KeyRecord, KeyStatus
from app.protocol.messages import AckStatus
from app.protocol.signing import Kind
from docs.vectors.cast import (
    CONNECTION,
    DAY,
    EPOCH,
    NOW,
    RECEIVER_URL,
    SENDER,
    Pair,
    uuid,
)

Case = dict[str, Any]
Message = dict[str, Any]

#: The receiver has this subscription at the sender, and has seen this control message last.
SUBSCRIPTION, PATTERN, LAST_CONTROL = uuid("granted subscription"), "order.**", 41
#: The longest gap that one control message may tell (§6).
MAX_GAP = 1_000_000

#: What a transport signature covers, and its parameters, to be filled in.
COVER = '("@method" "@target-uri" "content-digest")'
PARAMETERS = ';created={created};keyid="{keyid}";nonce="{nonce}";tag="tidings"'
COVERED = COVER + PARAMETERS


# Answers


def stored(status: str = "stored") -> Message:
    """200 with an ack, or with the answer to a control message, of that status."""
    return {"status": 200, "ackStatus": status}


def batch_ack(*acks: str, contiguous: int) -> Message:
    """200 with an ack batch: the verdict of each entry, and how far there is no hole."""
    return {"status": 200, "acks": list(acks), "contiguous": contiguous}


def refused(status: int, code: str, **members: Any) -> Message:
    """A problem document."""
    return {"status": status, "code": code, **members}


def invalid(pointer: str | None = None) -> Message:
    """400 invalid_request, at that member if one is to blame."""
    return refused(400, "invalid_request", **({} if pointer is None else {"pointer": pointer}))


UNAUTHENTICATED = refused(401, "authentication_failed")


# Messages


def draft(name: str, **members: Any) -> Message:
    """An event of the sender without its signature; a member that is `...` is left out."""
    message = {
        "messageId": uuid(f"order {name}"),
        "instanceId": SENDER,
        "eventType": "order.placed",
        "payload": {
            "order": name,
            "lines": [{"item": "Käse", "grams": 250}, {"item": "Brot", "grams": 1000}],
        },
        "timestamp": NOW - 2000,
        **members,
    }
    return {member: value for member, value in message.items() if value is not ...}


def wire(pair: Pair, message: Message, kind: Kind = Kind.EVENT) -> bytes:
    """The message, signed."""
    return pair.signer().sign_to_wire(kind, message)


def control_wire(
    pair: Pair,
    name: str,
    control_type: ControlType,
    payload: control.ControlPayload | Message,
    number: int = LAST_CONTROL + 1,
) -> bytes:
    """A control message, signed."""
    signer = pair.signer()
    body = control.control_body(
        message_id=uuid(f"control {name}"),
        instance_id=SENDER,
        control_type=control_type,
        connection_id=CONNECTION,
        control_sequence=number,
        payload=payload,
        timestamp=NOW - 2000,
        key_id=signer.key_id,
    )
    return signing.with_signature(body, signer.sign_body(Kind.CONTROL, body))


def batch(*entries: tuple[int, bytes]) -> bytes:
    """An envelope around signed events, each with its sequence; it has no signature of its own."""
    events = b",".join(b'{"sequence":%d,"event":%b}' % entry for entry in entries)
    head = f'{{"batchId":"{uuid("order batch")}","connectionId":"{CONNECTION}","streamEpoch":"{EPOCH}",'
    return b'%b"events":[%b]}' % (head.encode(), events)


def ack_wire(pair: Pair, connection_id: str = CONNECTION) -> bytes:
    """A late ack of an event that the receiver no longer knows, signed by the sender."""
    return messages.sign_event_ack(
        pair.signer(),
        message_id=uuid("late ack"),
        correlation_id=uuid("event of long ago"),
        connection_id=connection_id,
        timestamp=NOW,
        status=AckStatus.STORED,
        digest=base64.b64encode(sha256(b"event of long ago").digest()).decode(),
    )


def newcomer() -> KeyRecord:
    """The record of a key that nobody vouched for; its seed is a digest, so it is always the same."""
    seed = sha256(b"tidings vectors: newcomer").digest()
    # PKCS #8 around the seed of an Ed25519 key (RFC 8410 §7).
    der = bytes.fromhex("302e020100300506032b657004220420") + seed
    pem = f"-----BEGIN PRIVATE KEY-----\n{base64.b64encode(der).decode()}\n-----END PRIVATE KEY-----\n"
    private = keys.load_private_key(pem)
    return KeyRecord(
        key_id=f"k-{private.fingerprint[:12]}",
        algorithm=Algorithm.ED25519,
        public_key_pem=private.public_key_pem,
        fingerprint=private.fingerprint,
        status=KeyStatus.NEXT,
        not_before=NOW - DAY,
        not_after=None,
        revoked_at=None,
    )


# Requests


class Desk:
    """Puts requests together; the nonce of each follows from its name."""

    def __init__(self, pairs: dict[str, Pair]) -> None:
        self.pairs = pairs
        self.rsa = pairs["rsa"]

    def case(
        self,
        name: str,
        expect: Message,
        body: bytes,
        path: str = "event",
        *,
        before: Sequence[str] = (),
        key: str = "rsa",
        needs_ed25519: bool = False,
    ) -> Case:
        """A request whose transport signature keeps the rules. `before` names cases that come first."""
        url = f"/api/v1/federation/incoming/{path}"
        headers = http_signature.sign_request(
            self.pairs[key].signer(),
            method="POST",
            target_uri=http_signature.target_uri(RECEIVER_URL, url),
            body=body,
            created_s=NOW // 1000,
            nonce=uuid(f"nonce {name}"),
        )
        needs = ["ed25519"] if needs_ed25519 or key != "rsa" else []
        return _case(name, expect, url, [list(line) for line in headers.items()], body, before, needs)

    def control(
        self,
        name: str,
        expect: Message,
        control_type: ControlType,
        payload: control.ControlPayload | Message,
        *,
        number: int = LAST_CONTROL + 1,
        before: Sequence[str] = (),
        key: str = "rsa",
        same_id_as: str = "",
    ) -> Case:
        """A control message, posted where its type belongs."""
        body = control_wire(self.pairs[key], same_id_as or name, control_type, payload, number)
        path = "connection" if control_type in control.CONNECTION_TYPES else "subscription"
        return self.case(name, expect, body, path, before=before, key=key)

    def by_hand(
        self,
        name: str,
        expect: Message = UNAUTHENTICATED,
        *,
        signed: str = COVERED,
        sent: str | None = None,
        key: str = "rsa",
        under: str | None = None,
        base_url: str = RECEIVER_URL,
        nonce: str | None = None,
        created: int = NOW // 1000,
        order: str = "1",
        before: Sequence[str] = (),
    ) -> Case:
        """An event under a transport signature that is unusual in one point.

        `signed` is covered and `sent` (the same if None) goes out as Signature-Input; `key` signs,
        under the keyId `under` (its own if None), for the host `base_url`.
        """
        pair, url = self.pairs[key], "/api/v1/federation/incoming/event"
        body = wire(self.rsa, draft(order))
        values = {
            "created": created,
            "keyid": f"{SENDER}#{under or pair.record.key_id}",
            "nonce": nonce or uuid(f"nonce {name}"),
        }
        digest_line = http_signature.content_digest(body)
        base = signature_base(signed.format(**values), base_url + url, digest_line)
        signature = base64.b64encode(pair.private.sign(base)).decode()
        headers = [
            ["Content-Type", "application/json"],
            ["Content-Digest", digest_line],
            ["Signature-Input", "tidings=" + (sent or signed).format(**values)],
            ["Signature", f"tidings=:{signature}:"],
        ]
        needs = [] if key == "rsa" else ["ed25519"]
        return _case(name, expect, url, headers, body, before, needs)


def signature_base(covered: str, target_uri: str, digest_line: str) -> bytes:
    """The signature base (RFC 9421 §2.5) of the components that `covered` names, in its order."""
    values = {"@method": "POST", "@target-uri": target_uri, "content-digest": digest_line}
    names = re.findall(r'"([^"]+)"', covered.partition(")")[0])
    lines = [f'"{name}": {values[name]}' for name in names]
    return "\n".join([*lines, f'"@signature-params": {covered}']).encode()


def _case(
    name: str,
    expect: Message,
    url: str,
    headers: list[list[str]],
    body: bytes,
    before: Sequence[str],
    needs: Sequence[str],
) -> Case:
    case: Case = {"name": name}
    if before:
        case["before"] = list(before)
    if needs:
        case["needs"] = list(needs)
    case["request"] = {"method": "POST", "url": url, "headers": headers, **_body_member(body)}
    case["expect"] = expect
    return case


def _body_member(body: bytes) -> Message:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode()}


def with_header(case: Case, name: str, value: str | None) -> Case:
    """The case with that header in place of those of its name; None: without it."""
    request = case["request"]
    others = [line for line in request["headers"] if line[0] != name]
    added = [] if value is None else [[name, value]]
    return case | {"request": request | {"headers": others + added}}
