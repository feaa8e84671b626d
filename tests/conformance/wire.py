"""The wire of tidings/1 as docs/protocol.md tells it: keys, canonical bytes, both signatures, documents.

Written from that page alone and independent of app/: it imports nothing of it,
so that a mistake of ours cannot agree with itself here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

FEDERATION = "/api/v1/federation"
DOCUMENT_PATH = "/.well-known/tidings-instance"
COVER = '("@method" "@target-uri" "content-digest")'

#: A Signature-Input in the canonical form of RFC 8941, with the one cover of §1.4.
SIGNATURE_INPUT = re.compile(
    r'(?P<label>[a-z*][a-z0-9_.*-]*)=\("@method" "@target-uri" "content-digest"\)'
    r'(?P<parameters>(?:;[a-z]+=(?:[1-9][0-9]*|"[ !#-\[\]-~]*"))+)'
)

Message = dict[str, Any]
#: A member with this value is left out of the message that is made.
MISSING: Any = object()


def now_ms() -> int:
    """Wall time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """A new lower-case UUID."""
    return str(uuid.uuid4())


def to_base64(data: bytes) -> str:
    """Standard padded Base64."""
    return base64.b64encode(data).decode()


def sha256_base64(data: bytes) -> str:
    """Base64 of SHA-256."""
    return to_base64(hashlib.sha256(data).digest())


def with_members(message: Message, changes: Message) -> Message:
    """The message with some members replaced; a value of MISSING takes the member out."""
    return {name: value for name, value in {**message, **changes}.items() if value is not MISSING}


# --- §1.2 message signature ---------------------------------------------------------------------


def signing_input(kind: str, message: Message) -> bytes:
    """The bytes that a message signature covers."""
    left_out = {"signature", "proof"} if kind == "event" else {"signature"}
    rest = {name: value for name, value in message.items() if name not in left_out}
    return f"tidings/1\n{kind}\n".encode() + rfc8785.dumps(rest)


def digest(kind: str, message: Message) -> str:
    """Base64 of SHA-256 over the signing input."""
    return sha256_base64(signing_input(kind, message))


# --- §1.3 one signature for many events ---------------------------------------------------------


def leaf(event: Message) -> bytes:
    """The hash that stands for an event in a tree."""
    return hashlib.sha256(b"\x00" + signing_input("event", event)).digest()


def root(leaves: list[bytes]) -> bytes:
    """The hash over all of them: the left half is the largest power of two that is less than all."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + root(leaves[:half]) + root(leaves[half:])).digest()


def audit_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """The hashes beside the way from a leaf to the root, from below."""
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if index < half:
        return [*audit_path(index, leaves[:half]), root(leaves[half:])]
    return [*audit_path(index - half, leaves[half:]), root(leaves[:half])]


def root_of(event: Message) -> bytes:
    """Where the proof of an event leads to; ValueError if it cannot be one."""
    proof = event["proof"]
    if not 2 <= proof["size"] <= 1024 or not 0 <= proof["index"] < proof["size"]:
        raise ValueError(f"no place in a tree: {proof}")
    path = [base64.b64decode(one, validate=True) for one in proof["path"]]
    found = _climb(leaf(event), proof["index"], proof["size"], path)
    if path or any(len(one) != 32 for one in path):
        raise ValueError(f"a path of another length: {proof}")
    return found


def _climb(found: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    if size == 1:
        return found
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        below = _climb(found, index, half, path)
        return hashlib.sha256(b"\x01" + below + path.pop(0)).digest()
    below = _climb(found, index - half, size - half, path)
    return hashlib.sha256(b"\x01" + path.pop(0) + below).digest()


def tree_input(root_hash: bytes) -> bytes:
    """The bytes that a shared signature covers."""
    return f"tidings/1\nevent-tree\n{to_base64(root_hash)}".encode()


@dataclass
class Key:
    """One key pair of a peer and what its record says."""

    private: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    status: str = "active"
    not_before: int = field(default_factory=lambda: now_ms() - 60_000)
    not_after: int | None = None
    revoked_at: int | None = None
    vouch: Message | None = None
    key_id: str = ""

    def __post_init__(self) -> None:
        self.key_id = self.key_id or f"k-{self.fingerprint[:12]}"

    @classmethod
    def rsa(cls, bits: int = 2048, exponent: int = 65537, **members: Any) -> Key:
        """A new RSA key."""
        return cls(rsa.generate_private_key(exponent, bits), **members)

    @classmethod
    def ed25519(cls, **members: Any) -> Key:
        """A new Ed25519 key."""
        return cls(ed25519.Ed25519PrivateKey.generate(), **members)

    @property
    def algorithm(self) -> str:
        return "rsa-v1_5-sha256" if isinstance(self.private, rsa.RSAPrivateKey) else "ed25519"

    @property
    def public_pem(self) -> str:
        return (
            self.private.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    @property
    def fingerprint(self) -> str:
        der = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(der).hexdigest()

    def record(self) -> Message:
        """The key record of §2."""
        record: Message = {
            "keyId": self.key_id,
            "algorithm": self.algorithm,
            "publicKeyPem": self.public_pem,
            "fingerprint": self.fingerprint,
            "status": self.status,
            "notBefore": self.not_before,
            "notAfter": self.not_after,
        }
        if self.revoked_at is not None:
            record["revokedAt"] = self.revoked_at
        if self.vouch is not None:
            record["vouch"] = self.vouch
        return record

    def sign_bytes(self, data: bytes) -> str:
        """Base64 of the signature over data."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return to_base64(self.private.sign(data, padding.PKCS1v15(), hashes.SHA256()))
        return to_base64(self.private.sign(data))

    def sign(self, kind: str, message: Message) -> Message:
        """The message with keyId and signature."""
        message = {"keyId": self.key_id, **message}
        return {**message, "signature": self.sign_bytes(signing_input(kind, message))}

    def vouch_for(self, instance_id: str, other: Key) -> None:
        """Sign the other key's record (kind `key`)."""
        said = {
            "instanceId": instance_id,
            "keyId": other.key_id,
            "algorithm": other.algorithm,
            "fingerprint": other.fingerprint,
            "notBefore": other.not_before,
        }
        other.vouch = {"by": self.key_id, "signature": self.sign_bytes(signing_input("key", said))}


def verifies(record: Message, signature: str, data: bytes) -> bool:
    """Whether the signature over data was made by the key of this record."""
    public = serialization.load_pem_public_key(record["publicKeyPem"].encode())
    try:
        raw = base64.b64decode(signature, validate=True)
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(raw, data, padding.PKCS1v15(), hashes.SHA256())
        else:
            assert isinstance(public, ed25519.Ed25519PublicKey)
            public.verify(raw, data)
    except (InvalidSignature, ValueError):
        return False
    return to_base64(raw) == signature


def pairing_code(fingerprint: str, other: str) -> str:
    """The code of §2 that both consoles show, five groups of it or more, without separators."""
    joined = "\n".join(sorted([fingerprint, other])).encode()
    raw = hashlib.sha256(joined).digest()[:24]
    return "".join(f"{int.from_bytes(raw[i : i + 4], 'big') % 100_000:05d}" for i in range(0, 24, 4))


# --- §1.4 transport signature -------------------------------------------------------------------


@dataclass
class Transport:
    """How a request is signed; every part can be made wrong on purpose."""

    key: Key | None = None
    key_id: str | None = None
    instance_id: str | None = None
    created: int | str | None = None
    #: Seconds ago that it was signed.
    age_s: int = 0
    nonce: str | None = None
    tag: str = "tidings"
    alg: str | None = None
    cover: str = COVER
    label: str = "tidings"
    target_uri: str | None = None
    method: str = "POST"
    digest_of: bytes | None = None
    more_parameters: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    without: frozenset[str] = frozenset()
    content_type: str = "application/json"
    signature_input: str | None = None

    def apply(self, key: Key, instance_id: str, target_uri: str, body: bytes) -> list[tuple[str, str]]:
        """The headers of one request."""
        key = self.key or key
        content_digest = f"sha-256=:{sha256_base64(self.digest_of if self.digest_of is not None else body)}:"
        parameters = self.parameters(key, self.instance_id or instance_id)
        covered = {
            "@method": self.method,
            "@target-uri": self.target_uri or target_uri,
            "content-digest": content_digest,
        }
        names = re.findall(r'"([^"]+)"', self.cover)
        lines = [f'"{name}": {covered.get(name, "")}' for name in names]
        base = "\n".join([*lines, f'"@signature-params": {parameters}'])
        headers = [
            ("Content-Type", self.content_type),
            ("Content-Digest", content_digest),
            ("Signature-Input", self.signature_input or f"{self.label}={parameters}"),
            ("Signature", f"{self.label}=:{key.sign_bytes(base.encode())}:"),
        ]
        return [(name, value) for name, value in headers if name not in self.without] + self.headers

    def parameters(self, key: Key, instance_id: str) -> str:
        created = int(time.time()) - self.age_s if self.created is None else self.created
        nonce = secrets.token_urlsafe(18) if self.nonce is None else self.nonce
        alg = f';alg="{self.alg}"' if self.alg else ""
        key_id = f"{instance_id}#{self.key_id or key.key_id}"
        return (
            f'{self.cover};created={created};keyid="{key_id}";nonce="{nonce}";tag="{self.tag}"'
            f"{alg}{self.more_parameters}"
        )


@dataclass(frozen=True)
class Claim:
    """What the transport signature of a request that came in says, before it is verified."""

    instance_id: str
    key_id: str
    created: int
    nonce: str
    signature: str
    base: bytes


def read_claim(headers: list[tuple[str, str]], base_url: str, target: str, body: bytes) -> Claim:
    """Read the signature headers as strictly as §1.4 asks; ValueError says what is wrong."""
    content_digest = only_header(headers, "content-digest")
    if content_digest != f"sha-256=:{sha256_base64(body)}:":
        raise ValueError("Content-Digest is not that of the body")
    match = SIGNATURE_INPUT.fullmatch(only_header(headers, "signature-input"))
    if match is None:
        raise ValueError("Signature-Input is not in canonical form")
    pairs = re.findall(r';([a-z]+)=("[^"]*"|[0-9]+)', match["parameters"])
    values = {name: value.strip('"') for name, value in pairs}
    wanted = {"created", "keyid", "nonce", "tag"}
    if len(values) != len(pairs) or not wanted <= set(values) <= wanted | {"alg"}:
        raise ValueError(f"parameters are {sorted(values)}")
    if values["tag"] != "tidings" or not re.fullmatch(r"[A-Za-z0-9_-]{16,64}", values["nonce"]):
        raise ValueError("wrong tag or nonce")
    signature = re.fullmatch(
        re.escape(match["label"]) + r"=:([A-Za-z0-9+/]+=*):", only_header(headers, "signature")
    )
    if signature is None:
        raise ValueError("Signature has another label or more than one member")
    instance_id, _, key_id = values["keyid"].partition("#")
    base = (
        f'"@method": POST\n"@target-uri": {base_url}{target}\n"content-digest": {content_digest}\n'
        f'"@signature-params": {COVER}{match["parameters"]}'
    )
    return Claim(instance_id, key_id, int(values["created"]), values["nonce"], signature[1], base.encode())


def only_header(headers: list[tuple[str, str]], name: str) -> str:
    """The value of a header that must occur exactly once."""
    values = [value for header, value in headers if header.lower() == name]
    if len(values) != 1:
        raise ValueError(f"{name} occurs {len(values)} times")
    return values[0]


# --- §1.1 and the documents of §2 ---------------------------------------------------------------


def encode(message: Any) -> bytes:
    """Any legal JSON text of the message; deliberately not the canonical one."""
    return json.dumps(message, ensure_ascii=False, indent=1).encode()


def decode(raw: bytes) -> Any:
    """Parse JSON, refusing duplicate members and NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> Message:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a member occurs twice")
        return members

    def refuse(text: str) -> Any:
        raise ValueError(f"{text} is not JSON")

    return json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=refuse)


def check_document(document: Message, base_url: str) -> None:
    """Check an instance document as §2 asks of whoever fetches it (AssertionError)."""
    assert document["protocol"] == "tidings"
    assert "1.0" in document["versions"]
    assert document["baseUrl"] == base_url
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["instanceId"])
    assert 0 < len(document["name"]) <= 200
    assert set(document["software"]) >= {"name", "version"}
    assert abs(document["serverTime"] - now_ms()) < 300_000
    assert now_ms() < document["validUntil"] <= now_ms() + 86_400_000 + 300_000
    assert len(document["features"]) <= 32
    assert all(re.fullmatch(r"[a-z0-9_-]{1,64}", feature) for feature in document["features"])
    limits = document["limits"]
    assert limits["maxRequestBytes"] >= limits["maxEventBytes"] + 1024
    assert limits["maxBatchEvents"] >= 1
    assert limits["retentionMs"] >= 0
    assert [key["status"] for key in document["keys"]].count("active") == 1
    assert len(document["keys"]) <= 16
    for record in document["keys"]:
        check_record(record)
    signer = next(record for record in document["keys"] if record["keyId"] == document["keyId"])
    assert signer["status"] in {"active", "next"}
    assert verifies(signer, document["signature"], signing_input("instance", document))


def check_record(record: Message) -> None:
    """Check a key record's own members (AssertionError)."""
    public = serialization.load_pem_public_key(record["publicKeyPem"].encode())
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert record["fingerprint"] == hashlib.sha256(der).hexdigest()
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", record["keyId"])
    assert record["algorithm"] in {"rsa-v1_5-sha256", "ed25519"}
    assert "notAfter" in record
    assert isinstance(record["notBefore"], int)
    assert (record["status"] == "revoked") == ("revokedAt" in record)
    assert record["status"] != "retired" or isinstance(record["notAfter"], int)


# --- §3 event types and patterns ----------------------------------------------------------------


def matches(pattern: str, event_type: str) -> bool:
    """Whether a pattern of §3 matches an event type."""
    if pattern == "**":
        return True
    wanted, given = pattern.split("."), event_type.split(".")
    if wanted[-1] == "**":
        return len(given) >= len(wanted) and given[: len(wanted) - 1] == wanted[:-1]
    if wanted[-1] == "*":
        return len(given) == len(wanted) and given[:-1] == wanted[:-1]
    return given == wanted


def is_subset(narrow: str, wide: str) -> bool:
    """P ⊆ Q of §3."""
    if narrow == wide or wide == "**":
        return True
    if wide.endswith(".**"):
        return narrow.startswith(wide[:-2])
    return wide.endswith(".*") and "*" not in narrow and matches(wide, narrow)
