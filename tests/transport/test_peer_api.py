"""The calls to a peer: what they ask for, how they sign, what they make of the answer."""

import pytest

from app import clock
from app.protocol.http_signature import read_signature
from app.protocol.keys import Algorithm, generate, load_private_key, load_public_key
from app.protocol.signing import Signer
from app.transport import peer_api
from app.transport.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    InvalidOrigin,
    RedirectRefused,
)
from tests.transport.hostile import always, answer

INSTANCE_ID = "0eb61d5e-37c1-5b5a-9ac2-216da30062a0"
KEYS = {algorithm: generate(algorithm) for algorithm in Algorithm}


def signer_of(key):
    return Signer(INSTANCE_ID, key.key_id, load_private_key(key.private_key_pem))


def origin_of(server):
    return f"http://127.0.0.1:{server.port}"


# Documents


def test_a_document_is_read_from_its_well_known_place_as_it_is(serve, client):
    server = serve(always(answer(b'{"a": 1}')))

    raw, got = peer_api.fetch_document(client, origin_of(server))

    assert (raw, got.status) == (b'{"a": 1}', 200)
    assert server.requests[0].line == "GET /.well-known/tidings-instance HTTP/1.1"
    assert "signature" not in dict(server.requests[0].headers)


@pytest.mark.parametrize("status", ["404 Not Found", "503 Service Unavailable"])
def test_the_caller_judges_a_document_that_is_not_there(serve, client, status):
    server = serve(always(answer(b"sorry", status=status)))

    raw, got = peer_api.fetch_document(client, origin_of(server))

    assert (raw, got.status) == (b"sorry", int(status[:3]))


def test_a_document_has_at_most_50_kib(serve, client):
    fits, too_large = serve(always(answer(bytes(50 * 1024)))), serve(always(answer(bytes(50 * 1024 + 1))))

    raw, _ = peer_api.fetch_document(client, origin_of(fits))
    with pytest.raises(AnswerTooLarge):
        peer_api.fetch_document(client, origin_of(too_large))

    assert len(raw) == 50 * 1024


def test_a_document_that_moved_is_not_followed(serve, client):
    server = serve(always(answer(status="301 Moved", headers=("Location: /here",))))

    with pytest.raises(RedirectRefused):
        peer_api.fetch_document(client, origin_of(server))


@pytest.mark.parametrize(
    "base_url", ["http://127.0.0.1/", "http://127.0.0.1:80", "HTTP://127.0.0.1", "http://127.0.0.1/a"]
)
def test_an_origin_in_another_spelling_is_refused(client, base_url):
    with pytest.raises(InvalidOrigin):
        peer_api.fetch_document(client, base_url)


# Signed requests


def read(server, request):
    """The transport signature as the receiver reads it, for its own baseUrl."""
    method, target, _ = request.line.split(" ")
    return read_signature(
        request.headers,
        method=method,
        target_uri=origin_of(server) + target,
        body=request.body,
        now_ms=clock.now_ms(),
    )


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_signed_request_verifies_at_the_receiver(serve, client, algorithm):
    key = KEYS[algorithm]
    server = serve(always(answer(b"ack")))

    got = peer_api.send_signed(
        client,
        signer_of(key),
        origin_of(server),
        "/api/v1/federation/incoming/event?connectionId=a%2Fb",
        b"{}",
    )

    [request] = server.requests
    signature = read(server, request)
    signature.verify(load_public_key(key.public_key_pem))
    assert (signature.instance_id, signature.key_id) == (INSTANCE_ID, key.key_id)
    assert request.line == "POST /api/v1/federation/incoming/event?connectionId=a%2Fb HTTP/1.1"
    assert (request.body, got.body) == (b"{}", b"ack")
    assert dict(request.headers)["content-type"] == "application/json"


def test_a_signature_is_created_when_our_clock_says_so(serve, client):
    server = serve(always(answer()))

    with clock.frozen_at(1767225600999):
        peer_api.send_signed(client, signer_of(KEYS[Algorithm.ED25519]), origin_of(server), "/a", b"{}")
        signature = read(server, server.requests[0])

    assert signature.created == 1767225600


def test_every_attempt_has_a_signature_of_its_own_even_one_that_nobody_sees(serve, client):
    """The receiver may have stored what the broken connection brought, and with it the nonce."""

    def script(visit):
        visit.read_request()
        visit.send(answer())
        visit.read_request()

    server = serve(script)
    key = KEYS[Algorithm.ED25519]

    for _ in range(2):
        peer_api.send_signed(client, signer_of(key), origin_of(server), "/a", b"{}")

    signatures = [read(server, request) for request in server.requests]
    for signature in signatures:
        signature.verify(load_public_key(key.public_key_pem))
    assert len({signature.nonce for signature in signatures}) == 3


def test_the_deadline_is_the_callers_to_shorten(serve, client):
    server = serve(lambda visit: visit.is_over.wait())

    with pytest.raises(DeadlineExceeded):
        peer_api.send_signed(
            client, signer_of(KEYS[Algorithm.ED25519]), origin_of(server), "/a", b"{}", deadline_s=0.2
        )


def test_a_problem_of_the_peer_is_an_answer(serve, client):
    server = serve(always(answer(b"{}", status="429 Slow", headers=("Retry-After: 7",))))

    got = peer_api.send_signed(client, signer_of(KEYS[Algorithm.ED25519]), origin_of(server), "/a", b"{}")

    assert (got.status, got.headers["retry-after"]) == (429, "7")
