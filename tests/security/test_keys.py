"""Attacks on keys: weak ones, ended ones, swapped ones, and somebody else's name."""

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from app.models import PeerKey, SigningKey
from tests.conformance import wire
from tests.conformance.foreign_peer import EVENTS, Answer, ForeignPeer, reply
from tests.conformance.wire import DOCUMENT_PATH, MISSING, Key, Message, Transport, now_ms
from tests.security.conftest import (
    LOOKED_UP,
    SEEN,
    Bond,
    MakeBond,
    MakeVictim,
    Victim,
    bind,
    refusal,
    some_key,
)

UNAUTHENTICATED = (401, "authentication_failed")

MakePeer = Callable[..., ForeignPeer]


def announce(bond: Bond, *keys: Key | Message, by: Key | None = None) -> Answer:
    """Send keys.changed with these records, signed by the peer's key or another."""
    records = [key.record() if isinstance(key, Key) else key for key in keys]
    message = bond.peer.control_message(bond.link, "keys.changed", {"keys": records})
    if by is not None:
        unsigned = wire.with_members(message, {"signature": MISSING, "keyId": by.key_id})
        message = by.sign("control", unsigned)
    return bond.peer.send_control(bond.link, message)


def pinned(bond: Bond) -> dict[str, str]:
    """Fingerprint of each key that is pinned for the peer of the bond."""
    connection = bond.reload()
    return {
        key.key_id: key.fingerprint
        for key in bond.victim.rows(PeerKey, PeerKey.peer_id == connection.peer_id)
    }


def signed_by(key: Key, event: Message) -> Message:
    """The event, signed by that key instead."""
    return key.sign("event", wire.with_members(event, {"signature": MISSING, "keyId": key.key_id}))


def next_key(bond: Bond, **members: Any) -> Key:
    """A new key that the peer's own key vouches for."""
    key = some_key(status="next", **members)
    bond.peer.key.vouch_for(bond.peer.instance_id, key)
    return key


def der_length(size: int) -> bytes:
    if size < 128:
        return bytes([size])
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(raw)]) + raw


def der(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + der_length(len(content)) + content


def rsa_record(bits: int, exponent: int) -> Message:
    """A key record of an RSA key that no library would make."""

    def integer(value: int) -> bytes:
        return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    modulus = (1 << (bits - 1)) | 0b1011
    key = der(0x30, integer(modulus) + integer(exponent))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    spki = der(0x30, algorithm + der(3, b"\0" + key))
    text = base64.b64encode(spki).decode()
    lines = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    fingerprint = hashlib.sha256(spki).hexdigest()
    return {
        "keyId": f"k-{fingerprint[:12]}",
        "algorithm": "rsa-v1_5-sha256",
        "publicKeyPem": f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n",
        "fingerprint": fingerprint,
        "status": "active",
        "notBefore": now_ms() - 1000,
        "notAfter": None,
    }


# --- weak keys ---


@pytest.mark.parametrize("bits, exponent", [(1024, 65537), (2048, 3)], ids=["weak", "exponent-3"])
def test_a_request_under_a_weak_key_is_dropped(
    victim: Victim, make_peer: MakePeer, bits: int, exponent: int
) -> None:
    peer = make_peer(key=Key.rsa(bits, exponent))

    with victim.unchanged():
        answer = peer.request_connection(victim.base_url)
        victim.settle()

    assert len(peer.seen(DOCUMENT_PATH)) == 1
    assert answer.status == "requested"


@pytest.mark.parametrize(
    "bits, exponent", [(512, 65537), (64, 65537), (1024, 65537), (2048, 3), (2048, 1), (16_384, 65537)]
)
def test_a_tiny_weak_or_huge_key_cannot_be_announced(make_bond: MakeBond, bits: int, exponent: int) -> None:
    bond = make_bond()
    record = {**rsa_record(bits, exponent), "status": "next"}
    said = {"instanceId": bond.peer.instance_id}
    said |= {name: record[name] for name in ("keyId", "algorithm", "fingerprint", "notBefore")}
    signature = bond.peer.key.sign_bytes(wire.signing_input("key", said))
    record["vouch"] = {"by": bond.peer.key.key_id, "signature": signature}

    with bond.victim.unchanged(SEEN, "control_received", "connection.last_control_in"):
        answer = announce(bond, record)

    assert refusal(answer) == (400, "invalid_request")


# --- keys that ended ---


def rotated(bond: Bond, status: str, **members: Any) -> Key:
    """Rotate to a new key and end the old one, which is returned."""
    old, new = bond.peer.key, next_key(bond)
    assert announce(bond, new).status == 200
    new.status, old.status = "active", status
    for name, value in members.items():
        setattr(old, name, value)
    bond.peer.key = new
    bond.peer.keys = [old, new]
    assert announce(bond, old, new).status == 200
    return old


def test_a_revoked_key_signs_nothing(make_bond: MakeBond) -> None:
    bond = make_bond()
    old = rotated(bond, "revoked", revoked_at=now_ms(), not_after=now_ms())
    event = old.sign(
        "event",
        wire.with_members(bond.peer.event("task.created"), {"signature": MISSING, "keyId": old.key_id}),
    )

    with bond.victim.unchanged(SEEN, *LOOKED_UP):
        by_transport = bond.peer.send_event(
            bond.link.remote, bond.peer.event("task.created"), bond.link, Transport(key=old)
        )
        by_message = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert refusal(by_transport) == UNAUTHENTICATED
    assert by_message.status == 401


def test_a_retired_key_signs_nothing_new(make_bond: MakeBond) -> None:
    bond = make_bond()
    old = rotated(bond, "retired", not_after=now_ms() - 1000)
    event = old.sign(
        "event",
        wire.with_members(bond.peer.event("task.created"), {"signature": MISSING, "keyId": old.key_id}),
    )

    with bond.victim.unchanged(SEEN, *LOOKED_UP):
        by_transport = bond.peer.send_event(
            bond.link.remote, bond.peer.event("task.created"), bond.link, Transport(key=old)
        )
        by_message = bond.peer.send_event(bond.link.remote, event, bond.link)

    assert refusal(by_transport) == UNAUTHENTICATED
    assert by_message.status == 401


# --- swapped keys ---


def test_another_key_under_a_known_name_is_refused(make_bond: MakeBond) -> None:
    bond = make_bond()
    before = pinned(bond)
    swapped = some_key(key_id=bond.peer.key.key_id)

    with bond.victim.unchanged(SEEN, "control_received", "connection.last_control_in"):
        answer = announce(bond, swapped)

    assert refusal(answer) == (400, "invalid_request")
    assert pinned(bond) == before


def test_a_document_with_another_key_under_a_known_name_changes_nothing(make_bond: MakeBond) -> None:
    bond = make_bond()
    before = pinned(bond)
    swapped = some_key(key_id=bond.peer.key.key_id)
    bond.peer.keys, bond.peer.key = [swapped], swapped

    with bond.victim.unchanged(*LOOKED_UP):
        answer = bond.peer.send_event(bond.link.remote, bond.peer.event("task.created"), bond.link)

    assert refusal(answer) == UNAUTHENTICATED
    assert pinned(bond) == before


def test_a_new_key_without_a_vouch_signs_nothing_and_is_shown(make_bond: MakeBond) -> None:
    bond = make_bond()
    before = pinned(bond)
    new = some_key()
    bond.peer.keys, bond.peer.key = [new], new

    with bond.victim.unchanged("connection.key_review", "connection.updated_at", *LOOKED_UP):
        answer = bond.peer.send_event(bond.link.remote, bond.peer.event("task.created"), bond.link)

    assert refusal(answer) == (401, "key_untrusted")
    assert bond.reload().key_review
    assert pinned(bond) == before


def by_nobody(bond: Bond, new: Key) -> None:
    new.vouch = None


def by_itself(bond: Bond, new: Key) -> None:
    new.vouch_for(bond.peer.instance_id, new)


def by_a_stranger(bond: Bond, new: Key) -> None:
    some_key(key_id=bond.peer.key.key_id).vouch_for(bond.peer.instance_id, new)


def for_another_instance(bond: Bond, new: Key) -> None:
    bond.peer.key.vouch_for("11111111-1111-4111-8111-111111111111", new)


@pytest.mark.parametrize("vouch", [by_nobody, by_itself, by_a_stranger, for_another_instance])
def test_a_vouch_that_does_not_hold_adds_no_key(
    make_bond: MakeBond, vouch: Callable[[Bond, Key], None]
) -> None:
    bond = make_bond()
    new = some_key(status="next")
    vouch(bond, new)

    with bond.victim.unchanged(SEEN, "control_received", "connection.last_control_in"):
        answer = announce(bond, new)

    assert refusal(answer) == (400, "invalid_request")


def test_a_revoked_key_does_not_come_back(make_bond: MakeBond) -> None:
    bond = make_bond()
    old = rotated(bond, "revoked", revoked_at=now_ms(), not_after=now_ms())
    old.status, old.revoked_at = "active", None

    with bond.victim.unchanged(SEEN, "control_received", "connection.last_control_in"):
        answer = announce(bond, old)

    assert refusal(answer) == (400, "invalid_request")


# --- confused algorithms ---


@pytest.mark.parametrize("alg", ["ed25519", "hmac-sha256", "none", "rsa-pss-sha512", "rsa-v1_5-sha1"])
def test_a_request_that_names_another_algorithm_is_refused(bond: Bond, alg: str) -> None:
    event = bond.peer.event("task.created")

    with bond.victim.unchanged():
        answer = bond.peer.send_event(bond.link.remote, event, bond.link, Transport(alg=alg))

    assert refusal(answer) == UNAUTHENTICATED


class PublicKeyAsSecret(Key):
    """Signs with HMAC, and the public key for its secret."""

    def sign_bytes(self, data: bytes) -> str:
        return base64.b64encode(hmac.digest(self.public_pem.encode(), data, "sha256")).decode()


class Pss(Key):
    """Signs with RSASSA-PSS instead of PKCS #1 v1.5."""

    def sign_bytes(self, data: bytes) -> str:
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        return base64.b64encode(self.private.sign(data, pss, hashes.SHA256())).decode()  # type: ignore[call-arg]


class Sha1(Key):
    """Signs a SHA-1."""

    def sign_bytes(self, data: bytes) -> str:
        signed = self.private.sign(data, padding.PKCS1v15(), hashes.SHA1())  # type: ignore[call-arg] # noqa: S303
        return base64.b64encode(signed).decode()


@pytest.mark.parametrize("kind", [PublicKeyAsSecret, Pss, Sha1])
def test_a_signature_by_another_algorithm_is_refused(bond: Bond, kind: type[Key]) -> None:
    confused = kind(bond.peer.key.private, key_id=bond.peer.key.key_id)
    good = bond.peer.event("task.created")
    bad = confused.sign("event", wire.with_members(good, {"signature": MISSING}))

    with bond.victim.unchanged():
        by_transport = bond.peer.send_event(bond.link.remote, good, bond.link, Transport(key=confused))
        by_message = bond.peer.send_event(bond.link.remote, bad, bond.link)

    assert refusal(by_transport) == refusal(by_message) == UNAUTHENTICATED


@pytest.mark.parametrize("is_rsa", [True, False])
def test_a_record_that_calls_a_key_by_another_algorithm_is_refused(make_bond: MakeBond, is_rsa: bool) -> None:
    bond = make_bond()
    new = some_key(status="next") if is_rsa else Key.ed25519(status="next")
    bond.peer.key.vouch_for(bond.peer.instance_id, new)
    record = {**new.record(), "algorithm": "ed25519" if is_rsa else "rsa-v1_5-sha256"}

    with bond.victim.unchanged(SEEN, "control_received", "connection.last_control_in"):
        answer = announce(bond, record)

    assert refusal(answer) == (400, "invalid_request")


# --- somebody else's name ---


def test_an_instance_id_is_not_taken_over_from_another_origin(
    make_bond: MakeBond, make_peer: MakePeer, caplog: pytest.LogCaptureFixture
) -> None:
    bond = make_bond()
    before = pinned(bond)
    thief = make_peer(instance_id=bond.peer.instance_id)
    with caplog.at_level(logging.WARNING):
        claim = thief.request_connection(bond.base_url)
        bond.victim.settle()

    with bond.victim.unchanged():
        over_theirs = thief.send_event(bond.link.remote, thief.event("task.created"), bond.link)
    over_its_own = thief.send_event(bond.link.remote, thief.event("task.created"), claim)
    genuine = bond.peer.send_event(bond.link.remote, bond.peer.event("task.created"), bond.link)

    assert refusal(over_theirs) == (403, "access_denied")
    assert refusal(over_its_own) == (409, "invalid_state")
    assert genuine.status == 200
    assert pinned(bond) == before
    assert bond.victim.connection(claim).status == "pending"
    assert "peer.identity_conflict" in [record.message for record in caplog.records]


def test_who_claims_a_name_cannot_spend_what_its_owner_may_send(
    make_victim: MakeVictim, make_peer: MakePeer
) -> None:
    victim = make_victim(RATE_LIMIT_PEER="20")
    owner = make_peer()
    bond = bind(victim, owner)
    thief = make_peer(instance_id=owner.instance_id)
    claim = thief.request_connection(victim.base_url)
    victim.settle()

    spending = thief.batch(claim, [(n, thief.event("task.created")) for n in range(1, 101)])
    for _ in range(2):
        spent = thief.post(victim.base_url, EVENTS, spending)
    genuine = owner.send_event(bond.link.remote, owner.event("task.created"), bond.link)

    assert refusal(spent) == (429, "rate_limited")
    assert genuine.status == 200


def test_a_document_of_another_origin_is_not_believed(victim: Victim, make_peer: MakePeer) -> None:
    genuine, thief = make_peer(), make_peer()
    thief.document_changes = {"baseUrl": genuine.base_url}

    with victim.unchanged():
        thief.request_connection(victim.base_url)
        victim.settle()

    assert len(thief.seen(DOCUMENT_PATH)) == 1


def test_a_request_in_the_name_of_another_origin_is_dropped(victim: Victim, make_peer: MakePeer) -> None:
    genuine, thief = make_peer(), make_peer()

    with victim.unchanged():
        thief.request_connection(victim.base_url, baseUrl=genuine.base_url)
        victim.settle()

    assert len(genuine.seen(DOCUMENT_PATH)) == 1


def test_a_document_that_its_key_did_not_sign_is_not_believed(victim: Victim, make_peer: MakePeer) -> None:
    thief = make_peer()
    forger = some_key(key_id=thief.key.key_id)
    document = forger.sign("instance", wire.with_members(thief.document(), {"signature": MISSING}))
    thief.always_answer(DOCUMENT_PATH, reply(document))

    with victim.unchanged():
        thief.request_connection(victim.base_url)
        victim.settle()

    assert len(thief.seen(DOCUMENT_PATH)) == 1


@pytest.mark.parametrize("key_id", ["../../x", "a#b", "%2e%2e", "k' OR '1'='1", "x" * 65, ""])
def test_a_key_name_that_is_none_is_not_looked_up(bond: Bond, key_id: str) -> None:
    event = bond.peer.event("task.created")
    fetched = len(bond.peer.seen(DOCUMENT_PATH))
    parameters = Transport(nonce="n" * 20).parameters(bond.peer.key, bond.peer.instance_id)
    named = parameters.replace(f"#{bond.peer.key.key_id}", f"#{key_id}")

    with bond.victim.unchanged():
        answer = bond.peer.send_event(
            bond.link.remote, event, bond.link, Transport(signature_input=f"tidings={named}")
        )

    assert refusal(answer) == UNAUTHENTICATED
    assert len(bond.peer.seen(DOCUMENT_PATH)) == fetched


# --- our own keys ---


def test_a_copy_of_the_database_has_no_key_that_could_sign(victim: Victim) -> None:
    [key] = victim.rows(SigningKey)

    everything = json.dumps(victim.everything(), default=str)

    assert key.key_id in everything
    assert "PRIVATE KEY" not in everything
