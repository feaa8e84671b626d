"""Keys: records on the wire, signing and verifying, trust from a pinned key to a new one (§1.2, §2).

A key is trusted because it was pinned when a connection was made, or because a chain of
vouches leads to it from one that was. The algorithm belongs to the record, never to a
message, so nobody can choose a weaker one.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from app.protocol.canonical import canonical
from app.protocol.errors import InvalidRequest, invalid
from app.protocol.members import (
    Object,
    decode_base64,
    encode_base64,
    optional,
    read_array,
    read_base64,
    read_choice,
    read_fingerprint,
    read_integer,
    read_key_id,
    read_member_object,
    read_object,
    read_text,
)

#: Most records in a document or in `keys.changed` (§1.1).
MAX_KEYS = 16
#: Most pinned keys that may sign: a document has no room for more, and one active and one next are enough.
MAX_LIVE_KEYS = 16
MAX_PEM = 4096


class Algorithm(StrEnum):
    RSA = "rsa-v1_5-sha256"  #: RSASSA-PKCS1-v1_5 with SHA-256, 2048 to 4096 bits, e = 65537
    ED25519 = "ed25519"  #: only toward peers that list the feature `ed25519`


class KeyStatus(StrEnum):
    NEXT = "next"  #: announced, may sign everything, not in use yet
    ACTIVE = "active"  #: signs everything; an instance has exactly one
    RETIRED = "retired"  #: its messages up to `notAfter` stay valid; no transport signatures
    REVOKED = "revoked"  #: signs nothing, for ever


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One entry of `keys[]` (§2). Times are Unix ms; `fingerprint` is of the SPKI DER."""

    key_id: str
    algorithm: Algorithm
    public_key_pem: str
    fingerprint: str
    status: KeyStatus
    not_before: int
    not_after: int | None = None
    revoked_at: int | None = None
    vouch_by: str | None = None
    vouch_signature: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """The record as in an instance document."""
        record: dict[str, Any] = {
            "keyId": self.key_id,
            "algorithm": self.algorithm.value,
            "publicKeyPem": self.public_key_pem,
            "fingerprint": self.fingerprint,
            "status": self.status.value,
            "notBefore": self.not_before,
            "notAfter": self.not_after,
        }
        if self.revoked_at is not None:
            record["revokedAt"] = self.revoked_at
        if self.vouch_by is not None:
            record["vouch"] = {"by": self.vouch_by, "signature": self.vouch_signature}
        return record


def parse_key_record(value: object, pointer: str = "") -> KeyRecord:
    """Read one record and load its key: type, strength and fingerprint must be as it says."""
    record = read_object(value, pointer)
    algorithm = read_choice(record, "algorithm", pointer, Algorithm)
    pem = read_text(record, "publicKeyPem", pointer, MAX_PEM)
    fingerprint = read_fingerprint(record, "fingerprint", pointer)
    _check_key(pem, algorithm, fingerprint, pointer)
    status = read_choice(record, "status", pointer, KeyStatus)
    vouch_by, vouch_signature = _parse_vouch(record, pointer)
    return KeyRecord(
        key_id=read_key_id(record, "keyId", pointer),
        algorithm=algorithm,
        public_key_pem=pem,
        fingerprint=fingerprint,
        status=status,
        not_before=read_integer(record, "notBefore", pointer),
        not_after=_parse_not_after(record, status, pointer),
        revoked_at=optional(read_integer, record, "revokedAt", pointer),
        vouch_by=vouch_by,
        vouch_signature=vouch_signature,
    )


def parse_key_records(message: Object, name: str, pointer: str) -> tuple[KeyRecord, ...]:
    """Read a member that holds 1 to 16 records, each of another keyId."""
    values = read_array(message, name, pointer, MAX_KEYS)
    where = f"{pointer}/{name}"
    if not values:
        raise invalid(where, "is empty", "limit")
    records = tuple(parse_key_record(value, f"{where}/{i}") for i, value in enumerate(values))
    if len({record.key_id for record in records}) != len(records):
        raise invalid(where, "has a keyId twice")
    return records


def find_key(records: Iterable[KeyRecord], key_id: str) -> KeyRecord | None:
    """The record of that keyId, or None."""
    return next((record for record in records if record.key_id == key_id), None)


def _check_key(pem: str, algorithm: Algorithm, fingerprint: str, pointer: str) -> None:
    try:
        key = load_public_key(pem)
    except InvalidRequest as error:
        raise invalid(f"{pointer}/publicKeyPem", error.detail) from None
    if key.algorithm is not algorithm:
        raise invalid(f"{pointer}/algorithm", "is not that of publicKeyPem")
    if key.fingerprint != fingerprint:
        raise invalid(f"{pointer}/fingerprint", "is not that of publicKeyPem")


def _parse_not_after(record: Object, status: KeyStatus, pointer: str) -> int | None:
    if "notAfter" in record and record["notAfter"] is None and status is not KeyStatus.RETIRED:
        return None
    return read_integer(record, "notAfter", pointer)


def _parse_vouch(record: Object, pointer: str) -> tuple[str | None, str | None]:
    vouch = optional(read_member_object, record, "vouch", pointer)
    if vouch is None:
        return None, None
    where = f"{pointer}/vouch"
    return read_key_id(vouch, "by", where), read_base64(vouch, "signature", where)


# Public and private keys


class PublicKey:
    """A loaded public key of a known kind and sufficient strength."""

    __slots__ = ("_verify", "algorithm", "fingerprint")

    def __init__(
        self, algorithm: Algorithm, fingerprint: str, verify: Callable[[bytes, bytes], None]
    ) -> None:
        self.algorithm = algorithm
        self.fingerprint = fingerprint
        self._verify = verify

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether the signature over the data is this key's."""
        try:
            self._verify(signature, data)
        except InvalidSignature:
            return False
        return True


@lru_cache(maxsize=1024)
def load_public_key(pem: str) -> PublicKey:
    """The key of a PEM text, or InvalidRequest: RSA of 2048 to 4096 bits with e = 65537, or Ed25519."""
    try:
        key = serialization.load_pem_public_key(pem.encode("utf-8"))
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest("not a public key in PEM") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return PublicKey(Algorithm.ED25519, _fingerprint(key), key.verify)
    if isinstance(key, rsa.RSAPublicKey):
        _check_strength(key)
        return PublicKey(Algorithm.RSA, _fingerprint(key), _rsa_verifier(key))
    raise InvalidRequest("neither an RSA nor an Ed25519 key")


def _check_strength(key: rsa.RSAPublicKey) -> None:
    if not 2048 <= key.key_size <= 4096:
        raise InvalidRequest("an RSA key has 2048 to 4096 bits")
    if key.public_numbers().e != 65537:
        raise InvalidRequest("the exponent of an RSA key is 65537")


_PADDING = padding.PKCS1v15()
_HASH = hashes.SHA256()


def _rsa_verifier(key: rsa.RSAPublicKey) -> Callable[[bytes, bytes], None]:
    return lambda signature, data: key.verify(signature, data, _PADDING, _HASH)


def _fingerprint(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sha256(der).hexdigest()


class PrivateKey:
    """A loaded private key of our own."""

    __slots__ = ("_sign", "algorithm", "fingerprint", "public_key_pem")

    def __init__(self, key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> None:
        public = key.public_key()
        self.public_key_pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode("ascii")
        self.fingerprint = _fingerprint(public)
        self._sign: Callable[[bytes], bytes]
        if isinstance(key, rsa.RSAPrivateKey):
            self.algorithm = Algorithm.RSA
            self._sign = _rsa_signer(key)
        else:
            self.algorithm = Algorithm.ED25519
            self._sign = key.sign

    def sign(self, data: bytes) -> bytes:
        """The signature over the data. RSA-2048 costs 0.26 ms and releases the GIL."""
        return self._sign(data)


def _rsa_signer(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    return lambda data: key.sign(data, _PADDING, _HASH)


@lru_cache(maxsize=64)
def load_private_key(pem: str, fast: bool = True) -> PrivateKey:
    """A private key of our own from PKCS#8 PEM; ValueError if it is none.

    `fast` leaves out the primality checks of RSA (36 ms), which a key that we made and kept
    sealed needs no more.
    """
    key = serialization.load_pem_private_key(pem.encode("ascii"), None, unsafe_skip_rsa_key_validation=fast)
    if not isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        raise ValueError("neither an RSA nor an Ed25519 key")
    return PrivateKey(key)


class GeneratedKey(NamedTuple):
    """A new key pair; `key_id` is "k-" and the first 12 digits of the fingerprint."""

    private_key_pem: str
    public_key_pem: str
    fingerprint: str
    key_id: str


def generate(algorithm: Algorithm) -> GeneratedKey:
    """Make a key pair: RSA-2048 or Ed25519."""
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    if algorithm is Algorithm.RSA:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made = PrivateKey(key)
    return GeneratedKey(
        pem.decode("ascii"), made.public_key_pem, made.fingerprint, f"k-{made.fingerprint[:12]}"
    )


# Private keys at rest


class UnsealFailed(Exception):
    """The sealed text is damaged, or was sealed under another secret."""


_SEAL_VERSION = "v1"


def seal(pem: str, secret: str) -> str:
    """Encrypt a private key under a key derived from SECRET_KEY.

    "v1:" and Base64 of salt (16) ‖ nonce (12) ‖ AES-256-GCM ciphertext and tag; the key is
    HKDF-SHA256 of the secret with that salt.
    """
    salt, nonce = os.urandom(16), os.urandom(12)
    text = _cipher(secret, salt).encrypt(nonce, pem.encode("ascii"), _SEAL_VERSION.encode("ascii"))
    return f"{_SEAL_VERSION}:{encode_base64(salt + nonce + text)}"


def unseal(sealed: str, secret: str) -> str:
    """The private key that `seal` sealed, or UnsealFailed."""
    version, _, text = sealed.partition(":")
    data = decode_base64(text)
    if version != _SEAL_VERSION or data is None or len(data) < 28:
        raise UnsealFailed("not a sealed key of a known version")
    try:
        pem = _cipher(secret, data[:16]).decrypt(data[16:28], data[28:], version.encode("ascii"))
    except InvalidTag:
        raise UnsealFailed("sealed under another secret, or damaged") from None
    return pem.decode("ascii")


def _cipher(secret: str, salt: bytes) -> AESGCM:
    derived = HKDF(algorithm=_HASH, length=32, salt=salt, info=b"tidings/1 private key")
    return AESGCM(derived.derive(secret.encode("utf-8")))


# Vouching, trust, rotation


def vouch_input(instance_id: str, record: KeyRecord) -> bytes:
    """The signing input of a vouch (kind `key`, §2): exactly five members of the record."""
    message = {
        "instanceId": instance_id,
        "keyId": record.key_id,
        "algorithm": record.algorithm.value,
        "fingerprint": record.fingerprint,
        "notBefore": record.not_before,
    }
    return b"tidings/1\nkey\n" + canonical(message)


def vouch(instance_id: str, record: KeyRecord, by: str, private_key: PrivateKey) -> KeyRecord:
    """The record, vouched for by the key named `by`."""
    signature = encode_base64(private_key.sign(vouch_input(instance_id, record)))
    return replace(record, vouch_by=by, vouch_signature=signature)


def is_vouched(instance_id: str, record: KeyRecord, voucher: KeyRecord) -> bool:
    """Whether the voucher's key signed the record's vouch. Statuses are not looked at."""
    if record.vouch_by != voucher.key_id or record.vouch_signature is None:
        return False
    signature = decode_base64(record.vouch_signature)
    key = load_public_key(voucher.public_key_pem)
    return signature is not None and key.verify(signature, vouch_input(instance_id, record))


def trusted_records(
    instance_id: str, pinned: Sequence[KeyRecord], document: Sequence[KeyRecord]
) -> list[KeyRecord]:
    """The records of a document that are newly trusted: a chain of vouches leads to each from a pinned one.

    Every link must be unrevoked in both; a retired key may have vouched (§2). In the
    document's order.
    """
    revoked = {record.key_id for record in (*pinned, *document) if record.status is KeyStatus.REVOKED}
    known = {record.key_id for record in pinned}
    links = {record.key_id: record for record in pinned if record.key_id not in revoked}
    candidates = [record for record in document if record.key_id not in known | revoked]
    trusted = _follow_vouches(instance_id, links, candidates)
    return [record for record in candidates if record.key_id in trusted]


def _follow_vouches(
    instance_id: str, links: Mapping[str, KeyRecord], candidates: Iterable[KeyRecord]
) -> Mapping[str, KeyRecord]:
    """The links, and every candidate that a chain of vouches joins to them."""
    trusted = dict(links)
    waiting = list(candidates)
    while joined := [record for record in waiting if _is_joined(instance_id, record, trusted)]:
        trusted |= {record.key_id: record for record in joined}
        waiting = [record for record in waiting if record.key_id not in trusted]
    return trusted


def _is_joined(instance_id: str, record: KeyRecord, trusted: Mapping[str, KeyRecord]) -> bool:
    voucher = trusted.get(record.vouch_by or "")
    return voucher is not None and is_vouched(instance_id, record, voucher)


def merge_changed_keys(
    instance_id: str,
    pinned: Sequence[KeyRecord],
    announced: Sequence[KeyRecord],
    pointer: str = "/payload/keys",
) -> list[KeyRecord]:
    """All records after `keys.changed`: the pinned ones, updated, then the new ones (§2).

    InvalidRequest if a record changes algorithm or key, comes back from revoked, or is new
    without a valid vouch, or if afterwards not exactly one key is active, or too many are to follow it.
    """
    known = {record.key_id: record for record in pinned}
    merged = dict(known)
    for i, record in enumerate(announced):
        if record.key_id in known:
            _check_update(known[record.key_id], record, f"{pointer}/{i}")
        merged[record.key_id] = record
    _check_vouches(instance_id, known, merged, pointer)
    statuses = [record.status for record in merged.values()]
    if statuses.count(KeyStatus.ACTIVE) != 1:
        raise invalid(pointer, "exactly one key is active")
    if statuses.count(KeyStatus.NEXT) >= MAX_LIVE_KEYS:
        raise invalid(pointer, f"at most {MAX_LIVE_KEYS} keys are active or next")
    return list(merged.values())


def _check_update(old: KeyRecord, new: KeyRecord, pointer: str) -> None:
    if (old.algorithm, old.fingerprint) != (new.algorithm, new.fingerprint):
        raise invalid(f"{pointer}/fingerprint", "a record never changes its key")
    if old.status is KeyStatus.REVOKED and new.status is not KeyStatus.REVOKED:
        raise invalid(f"{pointer}/status", "a revoked key never returns")


def _check_vouches(
    instance_id: str, known: Mapping[str, KeyRecord], merged: Mapping[str, KeyRecord], pointer: str
) -> None:
    # A key that this very message revokes may have vouched before for the one that follows
    # it, so links are judged by what was pinned.
    links = {key_id: record for key_id, record in known.items() if record.status is not KeyStatus.REVOKED}
    new = [record for record in merged.values() if record.key_id not in known]
    trusted = _follow_vouches(instance_id, links, new)
    for record in new:
        if record.key_id not in trusted:
            raise invalid(pointer, f"{record.key_id} is new and has no valid vouch")


def may_sign_message(record: KeyRecord, timestamp_ms: int) -> bool:
    """Whether the key may have signed a message of that time (§2)."""
    if record.status is KeyStatus.RETIRED:
        return record.not_after is not None and timestamp_ms <= record.not_after
    return record.status is not KeyStatus.REVOKED


def may_sign_transport(record: KeyRecord) -> bool:
    """Whether the key may sign requests: only `active` and `next` ones do (§2)."""
    return record.status in (KeyStatus.ACTIVE, KeyStatus.NEXT)


def pairing_code(fingerprint_a: str, fingerprint_b: str) -> str:
    """Six groups of five digits, equal on both sides (§2), joined by spaces."""
    both = "\n".join(sorted((fingerprint_a, fingerprint_b)))
    digest = sha256(both.encode("ascii")).digest()
    numbers = (int.from_bytes(digest[i : i + 4], "big") % 100_000 for i in range(0, 24, 4))
    return " ".join(f"{number:05}" for number in numbers)
