"""Two foreign peers against each other: the tool that the other files here trust."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import wire
from tests.conformance.foreign_peer import EVENTS, ForeignPeer, Link, problem
from tests.conformance.wire import Key, Transport

VECTORS = Path(__file__).parents[1] / "vectors"
Pair = tuple[ForeignPeer, Link, ForeignPeer, Link]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two peers, RSA and Ed25519, with an active connection that the first asked for."""
    with ForeignPeer() as a, ForeignPeer(key=Key.ed25519()) as b:
        asked = a.request_connection(b.base_url)
        pending = b.links[asked.connection_id]
        b.accept(pending)
        yield a, asked, b, pending
        assert a.violations == []
        assert b.violations == []


def test_a_request_that_is_accepted_is_active_on_both_sides(pair: Pair) -> None:
    a, asked, _b, pending = pair

    answer = a.control(asked, "verification", {"state": "s" * 128})

    assert answer.value["payload"] == {"state": "s" * 128}
    assert (asked.status, pending.status) == ("active", "active")


def test_only_the_side_that_suspended_may_resume(pair: Pair) -> None:
    a, asked, b, pending = pair
    a.suspend(asked)

    refused = b.control(pending, "connection.resume")
    resumed = a.resume(asked)

    assert (refused.status, refused.code) == (409, "invalid_state")
    assert (resumed.status, asked.status, pending.status) == (200, "active", "active")


def test_events_are_stored_once_and_acknowledged(pair: Pair) -> None:
    a, asked, b, pending = pair
    b.grants = ["**"]
    subscription, _ = a.subscribe(asked, "task.*")
    event = b.event("task.created", {"n": 1})

    first = b.publish(pending, event)
    second = b.send_batch(pending, b.batch(pending, [(1, event)]))

    assert subscription.status == "active"
    assert first.value["acks"][0]["status"] == "stored"
    assert second.value["acks"][0]["status"] == "duplicate"
    assert second.value["contiguous"] == 1
    assert a.take(EVENTS).events == [event]


def test_a_foreign_peer_refuses_what_is_forged(pair: Pair) -> None:
    a, _asked, b, pending = pair
    event = b.event("task.created", {"n": 1})

    answer = b.send_batch(pending, b.batch(pending, [(1, event)]), Transport(key=Key.rsa()))

    assert (answer.status, answer.code) == (401, "authentication_failed")
    assert a.violations.pop()


def test_answers_can_be_arranged(pair: Pair) -> None:
    a, _asked, b, pending = pair
    a.answer_with("verification", problem("overloaded", retry_after="3"))

    first = b.control(pending, "verification", {"state": "x"})
    second = b.control(pending, "verification", {"state": "x"})

    assert (first.status, first.headers["retry-after"], second.status) == (503, "3", 200)


def test_the_signature_of_a_request_agrees_with_an_independent_library(pair: Pair) -> None:
    signatures = pytest.importorskip("http_message_signatures")
    requests = pytest.importorskip("requests")
    key = Key.rsa()
    body = wire.encode({"a": 1})
    url = "https://b.example/api/v1/federation/incoming/event?connectionId=1"
    request = requests.Request("POST", url, data=body, headers=dict(Transport().apply(key, "i", url, body)))

    class Resolver(signatures.HTTPSignatureKeyResolver):
        def resolve_public_key(self, key_id: str) -> object:
            return key.private.public_key()

    verifier = signatures.HTTPMessageVerifier(
        signature_algorithm=signatures.algorithms.RSA_V1_5_SHA256, key_resolver=Resolver()
    )

    verified = verifier.verify(request.prepare(), expect_tag="tidings")

    assert set(verified[0].covered_components) >= {'"@method"', '"@target-uri"', '"content-digest"'}


def test_the_published_vectors_of_messages_are_reproduced() -> None:
    vectors = json.loads((VECTORS / "messages.json").read_text())["messages"]

    made = [
        (wire.signing_input(one["kind"], one["message"]), wire.digest(one["kind"], one["message"]))
        for one in vectors
    ]

    assert made == [(base64.b64decode(one["signingInput"]), one["digest"]) for one in vectors]


def test_the_published_vector_of_a_request_is_read() -> None:
    vector = json.loads((VECTORS / "http.json").read_text())
    keys = json.loads((VECTORS / "keys.json").read_text())["keys"]
    request = vector["request"]

    claim = wire.read_claim(request["headers"], vector["baseUrl"], request["url"], request["body"].encode())

    assert claim.base == vector["signatureBase"].encode()
    assert wire.verifies(keys[vector["key"]]["record"], claim.signature, claim.base)
