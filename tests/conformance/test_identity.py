"""§2: the instance document, key records, and pinning as seen from outside."""

import pytest

from tests.conformance import wire
from tests.conformance.conftest import MakePeer
from tests.conformance.foreign_peer import ForeignPeer, Reply, reply
from tests.conformance.subject import Subject
from tests.conformance.wire import DOCUMENT_PATH, FEDERATION, MISSING, Key, now_ms


def test_the_document_holds_at_both_addresses(subject: Subject, peer: ForeignPeer) -> None:
    remote = peer.pin(subject.base_url)

    alias = peer.get(subject.base_url, f"{FEDERATION}/instance")

    wire.check_document(alias.value, subject.base_url)
    assert (alias.status, alias.value["instanceId"]) == (200, remote.instance_id)
    assert alias.headers["content-type"].startswith("application/json")


def test_a_key_is_served_as_its_bare_record(subject: Subject, peer: ForeignPeer) -> None:
    [record] = [key for key in peer.pin(subject.base_url).keys.values() if key["status"] == "active"]

    answer = peer.get(subject.base_url, f"{FEDERATION}/keys/{record['keyId']}")

    assert (answer.status, answer.value) == (200, record)


@pytest.mark.parametrize("key_id", ["k-000000000000", "%20", "a" * 65])
def test_an_unknown_key_is_not_found(subject: Subject, peer: ForeignPeer, key_id: str) -> None:
    answer = peer.get(subject.base_url, f"{FEDERATION}/keys/{key_id}")

    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("path", [DOCUMENT_PATH, f"{FEDERATION}/keys/k-000000000000"])
def test_documents_are_read_only(subject: Subject, peer: ForeignPeer, path: str) -> None:
    answer = peer.post(subject.base_url, path, {})

    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize("body", [{}, None])
def test_a_preview_tells_the_remote_and_stores_nothing(
    subject: Subject, peer: ForeignPeer, body: object
) -> None:
    answer = subject.call("POST", "/connections/preview", {"remoteUrl": peer.base_url})

    assert answer.status == 200
    assert peer.key.fingerprint in answer.body.decode()
    assert peer.instance_id in answer.body.decode()
    assert subject.connections(peer) == []


DOCUMENTS = {
    "another baseUrl": {"baseUrl": "http://127.0.0.1:1"},
    "another protocol": {"protocol": "tidying"},
    "no version that we speak": {"versions": ["2.0"]},
    "no longer valid": {"validUntil": now_ms() - 400_000},
    "valid for too long": {"validUntil": now_ms() + 2 * 86_400_000},
    "no keys": {"keys": []},
    "no active key": "next",
    "17 keys": "seventeen",
    "a fingerprint of another key": "fingerprint",
    "an RSA key of 1024 bits": "short",
    "an upper-case instanceId": {"instanceId": wire.new_id().upper()},
    "no name": {"name": MISSING},
    "a name of 201": {"name": "n" * 201},
    "33 features": {"features": [f"f{n}" for n in range(33)]},
    "maxRequestBytes too small": "limits",
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_that_does_not_hold_is_refused(subject: Subject, peer: ForeignPeer, case: str) -> None:
    changes = DOCUMENTS[case]
    record = peer.key.record()
    if changes == "next":
        changes = {"keys": [{**record, "status": "next"}]}
    elif changes == "seventeen":
        changes = {"keys": [record] + [{**record, "keyId": f"k-{n}", "status": "next"} for n in range(16)]}
    elif changes == "fingerprint":
        changes = {"keys": [{**record, "fingerprint": "0" * 64}]}
    elif changes == "short":
        peer.key = Key.rsa(bits=1024)
        changes = {"keys": [peer.key.record()]}
    elif changes == "limits":
        changes = {"limits": {**peer.limits, "maxRequestBytes": peer.limits["maxEventBytes"] + 1023}}
    peer.document_changes = changes

    answer = subject.call("POST", "/connections/initiate", {"remoteUrl": peer.base_url})

    assert (answer.status, answer.code) == (502, "remote_invalid")
    assert peer.seen("connection.request") == []


def forged(peer: ForeignPeer) -> Reply:
    return reply({**peer.document(), "name": "Somebody else"})


def too_large(peer: ForeignPeer) -> Reply:
    return reply(peer.key.sign("instance", {**peer.document(), "more": "x" * 50 * 1024, "signature": ""}))


def redirect(peer: ForeignPeer) -> Reply:
    return Reply(302, b"", (("Location", f"{peer.base_url}{FEDERATION}/instance"),))


def page(peer: ForeignPeer) -> Reply:
    return Reply(200, b"<html>", (("Content-Type", "text/html"),))


def failure(peer: ForeignPeer) -> Reply:
    return Reply(500, b"")


@pytest.mark.parametrize("make", [forged, too_large, redirect, page, failure])
def test_an_answer_that_is_no_document_is_refused(subject: Subject, peer: ForeignPeer, make: object) -> None:
    assert callable(make)
    peer.always_answer(DOCUMENT_PATH, make(peer))

    answer = subject.call("POST", "/connections/initiate", {"remoteUrl": peer.base_url})

    assert answer.status == 502
    assert answer.code in {"remote_invalid", "remote_unreachable"}
    assert peer.seen("connection.request") == []


def test_a_peer_that_is_not_there_is_unreachable(subject: Subject, peer: ForeignPeer) -> None:
    peer.stop()

    answer = subject.call("POST", "/connections/initiate", {"remoteUrl": peer.base_url})

    assert (answer.status, answer.code) == (502, "remote_unreachable")


def test_the_document_is_fetched_before_the_request_is_sent(subject: Subject, peer: ForeignPeer) -> None:
    subject.initiate(peer)

    peer.take("connection.request")

    assert [one.path for one in peer.received][:1] == [DOCUMENT_PATH]


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_keys_of_every_size_are_verified(subject: Subject, make_peer: MakePeer, bits: int) -> None:
    peer = make_peer(key=Key.rsa(bits))

    details = subject.initiate(peer)

    assert details["fingerprint"] == peer.key.fingerprint
    assert peer.take("connection.request").reply.status == 202


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/path",
        "http://127.0.0.1:1/",
        "http://127.0.0.1:1?query",
        "http://user:secret@127.0.0.1:1",
        "HTTP://127.0.0.1:1",
        "https://Example.org",
        "https://example.org:443",
        "ftp://example.org",
        "example.org",
        "http://[",
        "http://127.0.0.1:port",
        "",
    ],
)
def test_a_remote_url_that_is_no_base_url_is_named_or_not_reached(subject: Subject, url: str) -> None:
    answer = subject.call("POST", "/connections/preview", {"remoteUrl": url})

    assert (answer.status, answer.code) in {
        (400, "invalid_request"),
        (502, "remote_unreachable"),
        (502, "remote_invalid"),
    }
    assert answer.status != 400 or answer.pointers == ["/remoteUrl"]


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1",
        "http://169.254.169.254",
        "http://[::1]",
        "http://[::ffff:10.0.0.1]",
        "http://[64:ff9b::a00:1]",
        "http://0.0.0.0",
        "http://224.0.0.1",
    ],
)
def test_private_networks_that_are_not_named_are_never_called(subject: Subject, url: str) -> None:
    answer = subject.call("POST", "/connections/preview", {"remoteUrl": url})

    assert (answer.status, answer.code) == (502, "remote_unreachable")
