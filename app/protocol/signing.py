"""Message signatures (§1.2): what is signed, by whom, and the check.

    signing input = "tidings/1" LF kind LF JCS(message without "signature", of an event also without "proof")

The kind separates the domains: a signature over one kind is worthless under another. The
JCS without signature is called the *body*; it is made once, signed once, stored, and sent
with the signature put in at its end.
"""

from enum import StrEnum
from hashlib import sha256
from typing import Any

from app.protocol.canonical import canonical
from app.protocol.errors import AuthenticationFailed
from app.protocol.keys import PrivateKey, PublicKey
from app.protocol.members import decode_base64, encode_base64


class Kind(StrEnum):
    EVENT = "event"  #: EventMessage
    ACK = "ack"  #: EventAck
    ACK_BATCH = "ack-batch"  #: EventAckBatch
    CONTROL = "control"  #: control message
    CONTROL_ACK = "control-ack"  #: its answer
    INSTANCE = "instance"  #: instance document
    KEY = "key"  #: vouch of an older key for a newer one


_PREFIXES = {kind: f"tidings/1\n{kind.value}\n".encode("ascii") for kind in Kind}


def unsigned(kind: Kind, message: dict[str, Any]) -> dict[str, Any]:
    """The members that the signature covers."""
    left_out = ("signature", "proof") if kind is Kind.EVENT else ("signature",)
    return {name: value for name, value in message.items() if name not in left_out}


def body_of(kind: Kind, message: dict[str, Any]) -> bytes:
    """The body: JCS of what the signature covers."""
    return canonical(unsigned(kind, message))


def body_input(kind: Kind, body: bytes) -> bytes:
    """The signing input of a body."""
    return _PREFIXES[kind] + body


def signing_input(kind: Kind, message: dict[str, Any]) -> bytes:
    """The signing input of a message, with or without its signature."""
    return _PREFIXES[kind] + body_of(kind, message)


def digest(signing_input: bytes) -> str:
    """Base64 of SHA-256 over the signing input."""
    return encode_base64(sha256(signing_input).digest())


class Signer:
    """An instance's key in use: what signs everything that we send."""

    __slots__ = ("instance_id", "key_id", "private_key")

    def __init__(self, instance_id: str, key_id: str, private_key: PrivateKey) -> None:
        self.instance_id = instance_id
        self.key_id = key_id
        self.private_key = private_key

    def sign(self, kind: Kind, message: dict[str, Any]) -> dict[str, Any]:
        """The message with our keyId and signature."""
        named = message | {"keyId": self.key_id}
        return named | {"signature": self.sign_body(kind, body_of(kind, named))}

    def sign_body(self, kind: Kind, body: bytes) -> str:
        """The signature of a body, which must name our keyId."""
        return encode_base64(self.private_key.sign(_PREFIXES[kind] + body))

    def sign_to_wire(self, kind: Kind, message: dict[str, Any]) -> bytes:
        """The wire form of the message with our keyId and signature; JCS is made once."""
        body = body_of(kind, message | {"keyId": self.key_id})
        return with_signature(body, self.sign_body(kind, body))


def verify(kind: Kind, message: dict[str, Any], key: PublicKey) -> None:
    """AuthenticationFailed unless the message's `signature` is that key's."""
    signature = message.get("signature")
    verify_body(kind, body_of(kind, message), signature if isinstance(signature, str) else "", key)


def verify_body(kind: Kind, body: bytes, signature: str, key: PublicKey) -> None:
    """AuthenticationFailed unless the signature of the body is that key's."""
    data = decode_base64(signature)
    if data is None or not key.verify(data, _PREFIXES[kind] + body):
        raise AuthenticationFailed(f"the signature over the {kind.value} is not by the named key")


def with_signature(body: str | bytes, signature: str) -> bytes:
    """The wire form: the body with `signature` as its last member."""
    data = body.encode("utf-8") if isinstance(body, str) else body
    return b'%b,"signature":"%b"}' % (data[:-1], signature.encode("ascii"))
