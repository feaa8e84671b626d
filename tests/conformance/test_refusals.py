"""§1.4, §9: what the door refuses, in which order, and that it tells nobody what exists."""

import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conformance import wire
from tests.conformance.conftest import MakeBond
from tests.conformance.foreign_peer import (
    CONNECTION,
    EVENT,
    EVENT_ACK,
    EVENTS,
    SUBSCRIPTION,
    Answer,
    ForeignPeer,
    Link,
    exchange,
)
from tests.conformance.subject import Bond, Subject
from tests.conformance.wire import COVER, FEDERATION, Key, Transport, new_id, now_ms

ENDPOINTS = [EVENT, EVENTS, EVENT_ACK, CONNECTION, SUBSCRIPTION]


def verification(bond: Bond, transport: Transport | None = None) -> Answer:
    message = bond.peer.control_message(bond.link, "verification", {"state": "x"})
    return bond.peer.send_control(bond.link, message, transport)


def seconds() -> int:
    return int(time.time())


# --- the transport signature ---

TRANSPORTS: dict[str, Transport] = {
    "another key under this keyid": Transport(key=Key.rsa()),
    "keyId that is not known": Transport(key_id="k-unknown"),
    "another instance": Transport(instance_id=new_id()),
    "keyid without a #": Transport(instance_id="", key_id="#"),
    "nonce of 15": Transport(nonce="n" * 15),
    "nonce of 65": Transport(nonce="n" * 65),
    "nonce in base64": Transport(nonce="n" * 16 + "+/"),
    "another tag": Transport(tag="tiding"),
    "alg of another key": Transport(alg="ed25519"),
    "an unknown parameter": Transport(more_parameters=';expires="1"'),
    "a parameter twice": Transport(more_parameters=';tag="tidings"'),
    "cover in another order": Transport(cover='("@target-uri" "@method" "content-digest")'),
    "cover of more": Transport(cover='("@method" "@target-uri" "content-digest" "content-type")'),
    "cover of less": Transport(cover='("@method" "@target-uri")'),
    "cover with two spaces": Transport(cover='("@method"  "@target-uri" "content-digest")'),
    "created of a text": Transport(created=f'"{seconds()}"'),
    "created with a fraction": Transport(created=f"{seconds()}.0"),
    "signed for another host": Transport(target_uri=f"http://127.0.0.2:1{CONNECTION}"),
    "signed for another path": Transport(target_uri=f"http://127.0.0.1:1{EVENTS}"),
    "digest of another body": Transport(digest_of=b"{}"),
    "no Signature": Transport(without=frozenset({"Signature"})),
    "no Signature-Input": Transport(without=frozenset({"Signature-Input"})),
    "no Content-Digest": Transport(without=frozenset({"Content-Digest"})),
    "Signature twice": Transport(headers=[("Signature", "other=:AAAA:")]),
    "Signature-Input twice": Transport(headers=[("Signature-Input", f"other={COVER}")]),
    "Content-Digest twice": Transport(headers=[("Content-Digest", "sha-512=:AAAA:")]),
    "no signature at all": Transport(without=frozenset({"Signature", "Signature-Input", "Content-Digest"})),
    "Signature-Input that is nonsense": Transport(signature_input="tidings"),
    "Signature-Input of another label": Transport(signature_input=f"other={COVER};created=1"),
}


@pytest.mark.parametrize("case", TRANSPORTS)
def test_a_transport_signature_that_is_not_as_the_page_says_is_refused(standing: Bond, case: str) -> None:
    answer = verification(standing, TRANSPORTS[case])

    assert (answer.status, answer.code) == (401, "authentication_failed")
    assert answer.value["retryable"] is False


@pytest.mark.parametrize(
    "transport",
    [
        Transport(label="sig1"),
        Transport(label="*a-b_c.d"),
        Transport(alg="rsa-v1_5-sha256"),
        Transport(nonce="-" * 16),
        Transport(nonce="_" * 64),
        Transport(age_s=290),
        Transport(age_s=-290),
        Transport(content_type="application/json; charset=utf-8"),
        Transport(content_type="application/json;charset=UTF-8"),
    ],
)
def test_what_the_page_leaves_free_is_taken(standing: Bond, transport: Transport) -> None:
    answer = verification(standing, transport)

    assert answer.status == 200


@pytest.mark.parametrize("age_s", [310, -310, 10_000_000])
def test_an_old_or_early_signature_is_a_clock_skew_with_the_time(standing: Bond, age_s: int) -> None:
    answer = verification(standing, Transport(age_s=age_s))

    assert (answer.status, answer.code, answer.value["retryable"]) == (401, "clock_skew", True)
    assert abs(answer.value["serverTime"] - now_ms()) < 60_000


def test_a_nonce_is_taken_once(standing: Bond) -> None:
    answers = [verification(standing, Transport(nonce="n" * 20)) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 401]
    assert answers[1].code == "authentication_failed"


def test_a_nonce_belongs_to_its_instance(make_bond: MakeBond) -> None:
    nonce = new_id()

    answers = [verification(make_bond(), Transport(nonce=nonce)) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]


def test_a_nonce_is_not_used_up_by_a_request_that_does_not_verify(standing: Bond) -> None:
    nonce = new_id()
    refused = verification(standing, Transport(nonce=nonce, key=Key.rsa(key_id=standing.peer.key.key_id)))

    taken = verification(standing, Transport(nonce=nonce))

    assert (refused.status, taken.status) == (401, 200)


def test_the_query_is_covered(standing: Bond) -> None:
    event = standing.peer.event(f"{standing.topic}.x")
    bare = standing.subject.base_url + EVENT

    answer = standing.peer.send_event(standing.link.remote, event, standing.link, Transport(target_uri=bare))

    assert (answer.status, answer.code) == (401, "authentication_failed")


def test_the_host_header_does_not_matter(standing: Bond) -> None:
    message = standing.peer.control_message(standing.link, "verification", {"state": "x"})
    body = wire.encode(message)
    signed = Transport().apply(
        standing.peer.key, standing.peer.instance_id, standing.subject.base_url + CONNECTION, body
    )
    head = [f"POST {CONNECTION} HTTP/1.1", "Host: elsewhere.example", f"Content-Length: {len(body)}"]
    lines = [*head, *[f"{name}: {value}" for name, value in signed], "Connection: close"]

    status, _ = speak(standing.subject, "\r\n".join([*lines, "", ""]).encode() + body)

    assert status == 200


def speak(subject: Subject, raw: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; the status and everything that came back."""
    parts = urlsplit(subject.base_url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as wire_:
        wire_.sendall(raw)
        answer = b""
        while piece := wire_.recv(65_536):
            answer += piece
    return int(answer.split(b" ", 2)[1]), answer


def test_the_signature_of_an_escaped_path_is_over_the_raw_path(standing: Bond) -> None:
    path = f"{EVENT}?connectionId=%61bc"

    answer = standing.peer.post(standing.subject.base_url, path, standing.peer.event(f"{standing.topic}.x"))

    # It got past the signature: what is wrong now is the id.
    assert (answer.status, answer.pointers) == (400, ["/connectionId"])


# --- method, type, size ---


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_posts_come_in(subject: Subject, path: str, method: str) -> None:
    answer = exchange(subject.base_url, method, path, [], None)

    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]


def test_an_unknown_endpoint_is_not_found(subject: Subject, peer: ForeignPeer) -> None:
    answer = peer.post(subject.base_url, f"{FEDERATION}/incoming/nothing", {})

    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "transport",
    [
        Transport(content_type="text/plain"),
        Transport(content_type="application/jsonp"),
        Transport(content_type="application/json; charset=latin-1"),
        Transport(headers=[("Content-Encoding", "gzip")]),
        Transport(headers=[("Content-Encoding", "identity")]),
    ],
)
def test_another_type_or_an_encoding_is_unsupported(standing: Bond, path: str, transport: Transport) -> None:
    answer = standing.peer.post(standing.subject.base_url, path, {}, transport)

    assert (answer.status, answer.code) == (415, "unsupported_media_type")


def test_the_declared_size_is_refused_before_the_body_is_read(standing: Bond) -> None:
    lines = [
        f"POST {EVENTS} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        "Content-Length: 99999999999",
        "Connection: close",
    ]

    status, answer = speak(standing.subject, "\r\n".join([*lines, "", ""]).encode())

    assert status == 413
    assert b'"too_large"' in answer


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n",
    ],
    ids=["no HTTP", "another version", "long path", "long header", "many headers"],
)
def test_what_the_server_refuses_by_itself_is_a_problem_document(subject: Subject, raw: bytes) -> None:
    status, answer = speak(subject, raw)

    assert 400 <= status < 600
    assert status != 500
    assert b"application/problem+json" in answer


# --- order of checks, and no oracle ---


def comparable(answer: Answer) -> tuple[int, dict[str, Any]]:
    body = {name: value for name, value in answer.value.items() if name != "requestId"}
    return answer.status, body


def test_an_unknown_instance_and_a_wrong_signature_look_alike(standing: Bond, make_bond: MakeBond) -> None:
    message = standing.peer.control_message(standing.link, "verification", {"state": "x"})
    stranger = ForeignPeer()

    answers = [
        standing.peer.send_control(
            standing.link, message, Transport(key=Key.rsa(key_id=standing.peer.key.key_id))
        ),
        standing.peer.send_control(standing.link, message, Transport(key_id="k-unknown")),
        stranger.post(standing.subject.base_url, CONNECTION, message),
    ]

    assert len({str(comparable(answer)) for answer in answers}) == 1


def test_an_unknown_connection_and_somebody_elses_look_alike(standing: Bond, make_bond: MakeBond) -> None:
    other = make_bond()
    links = [Link(new_id(), standing.link.remote, "active", {}), other.link]

    answers = [
        standing.peer.control(link, "verification", {"state": "x"}, controlSequence=9_000) for link in links
    ]

    assert comparable(answers[0]) == comparable(answers[1])
    assert (answers[0].status, answers[0].code, answers[0].value["retryable"]) == (403, "access_denied", True)


def test_before_the_signature_nothing_of_the_body_matters(standing: Bond) -> None:
    forged = Transport(key=Key.rsa(key_id=standing.peer.key.key_id))

    answers = [
        standing.peer.post(standing.subject.base_url, EVENT, raw, forged)
        for raw in (b"{", b"{}", b'{"a":1,"a":1}')
    ]

    assert {(answer.status, answer.code) for answer in answers} == {(401, "authentication_failed")}


def test_the_type_is_checked_before_the_signature(standing: Bond) -> None:
    answer = verification(standing, Transport(content_type="text/plain", key=Key.rsa()))

    assert answer.status == 415


def test_a_message_of_another_instance_is_an_invalid_issuer(standing: Bond) -> None:
    event = standing.peer.event(f"{standing.topic}.x", instanceId=new_id())
    control = standing.peer.control_message(
        standing.link, "verification", {"state": "x"}, instanceId=new_id()
    )

    answers = [
        standing.peer.send_event(standing.link.remote, event, standing.link),
        standing.peer.post(standing.subject.base_url, CONNECTION, control),
    ]

    assert {(answer.status, answer.code) for answer in answers} == {(403, "invalid_issuer")}


def test_the_connection_is_checked_before_the_message_signature(standing: Bond) -> None:
    unknown = Link(new_id(), standing.link.remote, "active", {})
    message = standing.peer.control_message(unknown, "verification", {"state": "x"})
    altered = {**message, "timestamp": 1}

    answer = standing.peer.send_control(unknown, altered)

    assert (answer.status, answer.code) == (403, "access_denied")


@pytest.mark.parametrize(
    "change",
    [
        {"payload": {"altered": True}},
        {"added": "afterwards"},
        {"signature": wire.to_base64(b"0" * 256)},
        {"keyId": "k-unknown"},
    ],
)
def test_a_message_that_is_not_as_signed_is_refused(standing: Bond, change: dict[str, Any]) -> None:
    standing.offer()
    event = {**standing.peer.event(f"{standing.topic}.x"), **change}

    single = standing.peer.send_event(standing.link.remote, event, standing.link)

    assert single.status == 401
    assert single.code in (
        {"authentication_failed", "key_untrusted"} if "keyId" in change else {"authentication_failed"}
    )
    assert standing.stored() == []


@pytest.mark.parametrize("kind", ["ack", "control", "instance"])
def test_a_message_signed_as_another_kind_is_refused(standing: Bond, kind: str) -> None:
    standing.offer()
    rest = {
        name: value
        for name, value in standing.peer.event(f"{standing.topic}.x").items()
        if name != "signature"
    }

    answer = standing.peer.send_event(standing.link.remote, standing.peer.key.sign(kind, rest), standing.link)

    assert (answer.status, answer.code) == (401, "authentication_failed")


@pytest.mark.parametrize("signature", ["A", "AAAA=", "AA-_", "QUJD\n", "QUI", "QUJ="])
def test_a_signature_that_is_not_canonical_base64_is_malformed(standing: Bond, signature: str) -> None:
    event = {**standing.peer.event(f"{standing.topic}.x"), "signature": signature}

    answer = standing.peer.send_event(standing.link.remote, event, standing.link)

    assert (answer.status, answer.pointers) == (400, ["/signature"])


def test_a_refusal_is_a_whole_problem_document(standing: Bond) -> None:
    answer = verification(standing, Transport(key=Key.rsa()))

    problem = answer.value
    assert problem["type"] == "urn:tidings:error:authentication_failed"
    assert (problem["status"], problem["code"]) == (401, "authentication_failed")
    assert problem["title"]
    assert problem["detail"]
    assert problem["requestId"]
