"""Message signatures (§1.2): what is signed, by whom, and the check.

    signing input = "tidings/1" LF kind LF JCS(message without "signature", of an event also without "proof")

The kind separates the domains: a signature over one kind is worthless under another. The
JCS without signature is called the *body*; it is made once, signed once, stored, and sent
with the signature put in at its end.

Events that are published together may share one signature (§1.3): it is over the root of a
tree whose leaves are their signing inputs, and each carries the way from its leaf to the root.
"""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from app.protocol.canonical import canonical
from app.protocol.errors import AuthenticationFailed
from app.protocol.keys import PrivateKey, PublicKey, load_public_key
from app.protocol.members import decode_base64, encode_base64
from app.protocol.tree import Proof, Tree, fold, leaf


class Kind(StrEnum):
    EVENT = "event"  #: EventMessage
    EVENT_TREE = "event-tree"  #: Base64 of the root of a tree of events
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


class EventSignature(NamedTuple):
    """Base64; and if it is shared with other events, the event's place in their tree."""

    signature: str
    proof: Proof | None = None


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

    def sign_together(self, bodies: Sequence[bytes]) -> list[EventSignature]:
        """One signature for the bodies of 2 to 1,024 events, each with its own proof (§1.3)."""
        tree = Tree([event_leaf(body) for body in bodies])
        signature = self.sign_body(Kind.EVENT_TREE, encode_base64(tree.root).encode("ascii"))
        return [EventSignature(signature, tree.proof(index)) for index in range(len(bodies))]

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


def event_leaf(body: bytes) -> bytes:
    """The leaf hash of an event's body (§1.3)."""
    return leaf(_PREFIXES[Kind.EVENT] + body)


def tree_input(body: bytes, proof: Proof) -> bytes:
    """The signing input of a shared signature: it names the root that the event's proof leads to."""
    return body_input(Kind.EVENT_TREE, encode_base64(fold(event_leaf(body), proof)).encode("ascii"))


def verify_in_tree(body: bytes, signature: str, proof: Proof, public_key_pem: str) -> None:
    """AuthenticationFailed unless the signature is that key's over the root that the proof leads to."""
    if not _is_signed(tree_input(body, proof), signature, public_key_pem):
        raise AuthenticationFailed("the signature over the root of the event's tree is not by the named key")


@lru_cache(maxsize=4096)
def _is_signed(signing_input: bytes, signature: str, public_key_pem: str) -> bool:
    """Remembered, since a root comes with each of its events but need be verified only once."""
    data = decode_base64(signature)
    return data is not None and load_public_key(public_key_pem).verify(data, signing_input)


def with_signature(body: str | bytes, signature: str, proof: Proof | None = None) -> bytes:
    """The wire form: the body with `signature`, after a `proof` if there is one, as its last member."""
    data = body.encode("utf-8") if isinstance(body, str) else body
    place = b"" if proof is None else b',"proof":%b' % proof.to_json().encode("ascii")
    return b'%b%b,"signature":"%b"}' % (data[:-1], place, signature.encode("ascii"))
