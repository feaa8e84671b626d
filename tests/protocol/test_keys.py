"""Keys: what is a good one, how they are kept, and how trust goes from an old one to a new one."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.protocol import keys
from app.protocol.errors import InvalidRequest
from app.protocol.keys import Algorithm, KeyRecord, KeyStatus, parse_key_record
from tests.protocol import vectors

INSTANCE = "00000000-0000-4000-8000-000000000001"
DAY = 86_400_000


def public_pem(private_key) -> str:
    return (
        private_key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def rsa_pem(bits: int, exponent: int = 65537) -> str:
    """A public key of that size, which nobody holds the private half of."""
    key = rsa.RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1).public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def make(
    status: KeyStatus = KeyStatus.ACTIVE, not_after: int | None = None
) -> tuple[KeyRecord, keys.PrivateKey]:
    made = keys.generate(Algorithm.ED25519)
    record = KeyRecord(
        made.key_id, Algorithm.ED25519, made.public_key_pem, made.fingerprint, status, 1, not_after
    )
    return record, keys.load_private_key(made.private_key_pem)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_generated_key_signs_what_its_public_half_verifies(algorithm):
    made = keys.generate(algorithm)

    private, public = keys.load_private_key(made.private_key_pem), keys.load_public_key(made.public_key_pem)
    signature = private.sign(b"data")

    assert public.verify(signature, b"data")
    assert not public.verify(signature, b"Data")
    assert not public.verify(signature[:-1], b"data")
    assert not public.verify(b"", b"data")
    assert private.algorithm == public.algorithm == algorithm
    assert private.fingerprint == public.fingerprint == made.fingerprint
    assert made.key_id == f"k-{made.fingerprint[:12]}"
    assert private.public_key_pem == made.public_key_pem


def test_private_key_that_is_damaged_is_refused():
    with pytest.raises(ValueError, match="PEM"):
        keys.load_private_key("no key")


def test_own_key_may_be_checked_in_full():
    pem = vectors.read("shared", "keys.json")["keys"]["rsa"]["privateKeyPem"]

    checked, unchecked = keys.load_private_key(pem, fast=False), keys.load_private_key(pem)

    assert checked.sign(b"data") == unchecked.sign(b"data")


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(rsa_pem(2047), id="RSA of 2047 bits"),
        pytest.param(rsa_pem(4097), id="RSA of 4097 bits"),
        pytest.param(rsa_pem(2048, 3), id="RSA with e = 3"),
        pytest.param(public_pem(ec.generate_private_key(ec.SECP256R1())), id="elliptic curve"),
        pytest.param("", id="nothing"),
        pytest.param("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", id="no key inside"),
        pytest.param("schlüssel", id="not ASCII"),
    ],
)
def test_weak_or_foreign_key_is_refused(pem):
    with pytest.raises(InvalidRequest):
        keys.load_public_key(pem)


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_key_of_2048_to_4096_bits_is_accepted(bits):
    assert keys.load_public_key(rsa_pem(bits)).algorithm is Algorithm.RSA


RECORD = vectors.read("shared", "instance.json")["keys"][1]


@pytest.mark.parametrize(
    "members, pointer",
    [
        ({"keyId": "k k"}, "/keyId"),
        ({"algorithm": "rsa-v1_5-sha256"}, "/algorithm"),
        ({"algorithm": "rsa"}, "/algorithm"),
        ({"publicKeyPem": "x"}, "/publicKeyPem"),
        ({"publicKeyPem": "x" * 4097}, "/publicKeyPem"),
        ({"fingerprint": "a" * 64}, "/fingerprint"),
        ({"fingerprint": RECORD["fingerprint"].upper()}, "/fingerprint"),
        ({"status": "old"}, "/status"),
        ({"notBefore": -1}, "/notBefore"),
        ({"notBefore": None}, "/notBefore"),
        ({"notAfter": "x"}, "/notAfter"),
        ({"status": "retired", "notAfter": None}, "/notAfter"),
        ({"revokedAt": None}, "/revokedAt"),
        ({"vouch": None}, "/vouch"),
        ({"vouch": {"by": "k"}}, "/vouch/signature"),
        ({"vouch": {"by": 1, "signature": "AAAA"}}, "/vouch/by"),
    ],
    ids=str,
)
def test_bad_member_of_a_record_is_named(members, pointer):
    with pytest.raises(InvalidRequest) as refused:
        parse_key_record(RECORD | members, "/keys/0")

    assert refused.value.errors[0].pointer == f"/keys/0{pointer}"


def test_record_without_not_after_is_refused():
    record = {name: value for name, value in RECORD.items() if name != "notAfter"}

    with pytest.raises(InvalidRequest) as refused:
        parse_key_record(record)

    assert refused.value.errors[0].pointer == "/notAfter"


def test_sealed_key_is_opened_by_its_secret_alone():
    pem = keys.generate(Algorithm.ED25519).private_key_pem

    sealed = keys.seal(pem, "secret")

    assert keys.unseal(sealed, "secret") == pem
    assert keys.seal(pem, "secret") != sealed
    assert "PRIVATE" not in sealed
    version, _, data = sealed.partition(":")
    for broken, secret in (
        (sealed, "Secret"),
        (f"{version}:A{data[1:]}", "secret"),
        (f"v2:{data}", "secret"),
        (data, "secret"),
        (f"{version}:AAAA", "secret"),
        ("", "secret"),
    ):
        with pytest.raises(keys.UnsealFailed):
            keys.unseal(broken, secret)


def test_each_status_signs_what_it_may():
    record, _ = make()
    table = {
        KeyStatus.NEXT: (True, True, True),
        KeyStatus.ACTIVE: (True, True, True),
        KeyStatus.RETIRED: (True, False, False),
        KeyStatus.REVOKED: (False, False, False),
    }

    for status, (until, after, transport) in table.items():
        changed = replace(record, status=status, not_after=100)
        assert keys.may_sign_message(changed, 100) is until
        assert keys.may_sign_message(changed, 101) is after
        assert keys.may_sign_transport(changed) is transport


# keys.changed


def test_announced_key_is_added_and_activated():
    old, private = make()
    new, _ = make(KeyStatus.NEXT)
    new = keys.vouch(INSTANCE, new, old.key_id, private)

    announced = keys.merge_changed_keys(INSTANCE, [old], [new])
    retired, active = (
        replace(old, status=KeyStatus.RETIRED, not_after=5),
        replace(new, status=KeyStatus.ACTIVE),
    )
    activated = keys.merge_changed_keys(INSTANCE, announced, [active, retired])

    assert announced == [old, new]
    assert activated == [retired, active]


def test_records_that_are_not_announced_stay():
    old, _ = make()
    other, _ = make(KeyStatus.RETIRED, 5)

    assert keys.merge_changed_keys(INSTANCE, [other, old], [old]) == [other, old]


def test_new_keys_may_be_vouched_for_in_a_chain():
    first, first_private = make()
    second, second_private = make(KeyStatus.NEXT)
    third, _ = make(KeyStatus.NEXT)
    second = keys.vouch(INSTANCE, second, first.key_id, first_private)
    third = keys.vouch(INSTANCE, third, second.key_id, second_private)

    assert keys.merge_changed_keys(INSTANCE, [first], [third, second]) == [first, third, second]


def test_change_that_breaks_a_rule_is_refused():
    old, private = make()
    revoked, revoked_private = make(KeyStatus.REVOKED)
    new, _ = make(KeyStatus.NEXT)
    good = keys.vouch(INSTANCE, new, old.key_id, private)
    other, _ = make()
    cases = {
        "no vouch": [new],
        "vouched for to another instance": [keys.vouch(vectors.ROOT.name, new, old.key_id, private)],
        "vouched for by a revoked key": [keys.vouch(INSTANCE, new, revoked.key_id, revoked_private)],
        "vouched for by nobody known": [keys.vouch(INSTANCE, new, "k-unknown", private)],
        "another key": [replace(other, key_id=old.key_id)],
        "back from revoked": [replace(revoked, status=KeyStatus.RETIRED, not_after=5)],
        "two are active": [replace(good, status=KeyStatus.ACTIVE)],
        "none is active": [replace(old, status=KeyStatus.REVOKED)],
    }

    for name, announced in cases.items():
        with pytest.raises(InvalidRequest) as refused:
            keys.merge_changed_keys(INSTANCE, [old, revoked], announced)
        assert refused.value.errors[0].pointer.startswith("/payload/keys"), name
    assert keys.merge_changed_keys(INSTANCE, [old, revoked], [good]) == [old, revoked, good]


def test_keys_that_may_sign_are_not_announced_without_end():
    old, private = make()
    following = [keys.vouch(INSTANCE, make(KeyStatus.NEXT)[0], old.key_id, private) for _ in range(16)]

    pinned = keys.merge_changed_keys(INSTANCE, [old], following[:15])

    assert len(pinned) == 16
    with pytest.raises(InvalidRequest):
        keys.merge_changed_keys(INSTANCE, pinned, following[15:])


def test_document_may_not_swap_the_key_of_a_pinned_id():
    pinned, _ = make()
    forged, forged_private = make()
    forged = replace(forged, key_id=pinned.key_id)
    new, _ = make(KeyStatus.NEXT)
    new = keys.vouch(INSTANCE, new, pinned.key_id, forged_private)

    assert keys.trusted_records(INSTANCE, [pinned], [forged, new]) == []


def test_circle_of_vouches_leads_nowhere():
    first, first_private = make()
    second, second_private = make()
    pinned, _ = make()
    first = keys.vouch(INSTANCE, first, second.key_id, second_private)
    second = keys.vouch(INSTANCE, second, first.key_id, first_private)

    assert keys.trusted_records(INSTANCE, [pinned], [first, second]) == []


def test_ed25519_is_told_from_rsa_by_the_key_itself():
    key = keys.load_public_key(public_pem(ed25519.Ed25519PrivateKey.generate()))

    assert key.algorithm is Algorithm.ED25519
