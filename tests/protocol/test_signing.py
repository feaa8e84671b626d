"""Message signatures: one input for one kind, made once, put into the stored body at the end."""

import pytest

from app.protocol import signing
from app.protocol.canonical import canonical, loads
from app.protocol.errors import AuthenticationFailed
from app.protocol.keys import load_public_key
from app.protocol.signing import Kind


@pytest.mark.parametrize("kind", Kind)
def test_signed_message_verifies_as_its_own_kind_alone(ed25519_signer, ed25519_record, kind):
    key = load_public_key(ed25519_record.public_key_pem)

    message = ed25519_signer.sign(kind, {"b": 1, "a": "x"})

    assert message["keyId"] == ed25519_signer.key_id
    signing.verify(kind, message, key)
    for other in set(Kind) - {kind}:
        with pytest.raises(AuthenticationFailed):
            signing.verify(other, message, key)


@pytest.mark.parametrize("signature", [None, 1, "", "AAAA", "not base64", []])
def test_missing_or_malformed_signature_is_refused(ed25519_record, signature):
    key = load_public_key(ed25519_record.public_key_pem)

    with pytest.raises(AuthenticationFailed):
        signing.verify(Kind.EVENT, {"a": 1, "signature": signature}, key)
    with pytest.raises(AuthenticationFailed):
        signing.verify(Kind.EVENT, {"a": 1}, key)


def test_proof_is_left_out_of_events_and_covered_elsewhere():
    message = {"a": 1, "proof": {}, "signature": "x"}

    assert signing.signing_input(Kind.EVENT, message) == b'tidings/1\nevent\n{"a":1}'
    assert signing.signing_input(Kind.ACK, message) == b'tidings/1\nack\n{"a":1,"proof":{}}'


def test_body_is_signed_and_sent_as_it_is_stored(signer, rsa_record):
    body = canonical({"keyId": signer.key_id, "z": "grüße"})

    signature = signer.sign_body(Kind.CONTROL, body)
    wire = signing.with_signature(body, signature)

    assert wire == signing.with_signature(body.decode(), signature)
    assert loads(wire) == signer.sign(Kind.CONTROL, {"z": "grüße"})
    assert wire == signer.sign_to_wire(Kind.CONTROL, {"z": "grüße"})
    signing.verify_body(Kind.CONTROL, body, signature, load_public_key(rsa_record.public_key_pem))
