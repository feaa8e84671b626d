"""Our profile against an independent implementation of RFC 9421: each side verifies what the other signed."""

import datetime
from typing import Any

import http_message_signatures as independent
import pytest
import requests
from cryptography.hazmat.primitives import serialization

from app.protocol import http_signature
from app.protocol.keys import load_public_key
from tests.protocol import vectors

URI = "https://b.example:8443/api/v1/federation/incoming/event?connectionId=%2Fb"
BODY = b'{"a":1}'
COVER = ("@method", "@target-uri", "content-digest")
ALGORITHMS = {
    "rsa": independent.algorithms.RSA_V1_5_SHA256,
    "ed25519": independent.algorithms.ED25519,
}


class Keys(independent.HTTPSignatureKeyResolver):
    """The test keys, as the library wants them."""

    def __init__(self, pem: str) -> None:
        self.private_key = serialization.load_pem_private_key(pem.encode(), None)

    def resolve_private_key(self, key_id: str) -> Any:
        return self.private_key

    def resolve_public_key(self, key_id: str) -> Any:
        return self.private_key.public_key()


@pytest.fixture(params=ALGORITHMS)
def algorithm(request) -> str:
    return request.param


@pytest.fixture
def keys(algorithm) -> Keys:
    return Keys(vectors.read("shared", "keys.json")["keys"][algorithm]["privateKeyPem"])


@pytest.fixture
def own_signer(algorithm, signer, ed25519_signer):
    return signer if algorithm == "rsa" else ed25519_signer


def test_the_library_verifies_our_request(algorithm, keys, own_signer):
    created_s = int(datetime.datetime.now(datetime.UTC).timestamp())
    headers = http_signature.sign_request(
        own_signer,
        method="POST",
        target_uri=URI,
        body=BODY,
        created_s=created_s,
        nonce=http_signature.new_nonce(),
    )
    request = requests.Request("POST", URI, data=BODY, headers=headers).prepare()

    verifier = independent.HTTPMessageVerifier(signature_algorithm=ALGORITHMS[algorithm], key_resolver=keys)
    [verified] = verifier.verify(request, expect_tag="tidings")

    assert tuple(verified.covered_components) == (*(f'"{name}"' for name in COVER), '"@signature-params"')


def test_we_verify_the_request_of_the_library(algorithm, keys, own_signer):
    digest = http_signature.content_digest(BODY)
    request = requests.Request("POST", URI, data=BODY, headers={"Content-Digest": digest}).prepare()
    created = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.UTC)

    independent.HTTPMessageSigner(signature_algorithm=ALGORITHMS[algorithm], key_resolver=keys).sign(
        request,
        key_id=f"{own_signer.instance_id}#{own_signer.key_id}",
        created=created,
        nonce="nonce-of-a-library",
        tag="tidings",
        label="sig1",
        include_alg=False,
        covered_component_ids=COVER,
        use_existing_digest=True,
    )

    read = http_signature.read_signature(
        list(request.headers.items()),
        method="POST",
        target_uri=URI,
        body=BODY,
        now_ms=int(created.timestamp() * 1000),
    )
    read.verify(load_public_key(own_signer.private_key.public_key_pem))
    assert (read.instance_id, read.nonce) == (own_signer.instance_id, "nonce-of-a-library")
