"""Test keys and a signer, from the published vectors."""

import pytest
from hypothesis import settings

from app.protocol.keys import KeyRecord, load_private_key, parse_key_record
from app.protocol.signing import Signer
from tests.protocol import vectors

# Fixed examples, and no deadline: the machine may be busy.
settings.register_profile("protocol", deadline=None, derandomize=True)
settings.load_profile("protocol")


@pytest.fixture(scope="session")
def rsa_record() -> KeyRecord:
    return parse_key_record(vectors.read("shared", "keys.json")["keys"]["rsa"]["record"])


@pytest.fixture(scope="session")
def ed25519_record() -> KeyRecord:
    return parse_key_record(vectors.read("shared", "keys.json")["keys"]["ed25519"]["record"])


@pytest.fixture(scope="session")
def signer() -> Signer:
    """Signs as the sender of the vectors, by RSA."""
    shared = vectors.read("shared", "keys.json")
    key = shared["keys"]["rsa"]
    return Signer(shared["instanceId"], key["record"]["keyId"], load_private_key(key["privateKeyPem"]))


@pytest.fixture(scope="session")
def ed25519_signer() -> Signer:
    """Signs as the sender of the vectors, by Ed25519, which is fast."""
    shared = vectors.read("shared", "keys.json")
    key = shared["keys"]["ed25519"]
    return Signer(shared["instanceId"], key["record"]["keyId"], load_private_key(key["privateKeyPem"]))
