"""The door: the order of the checks, and what a caller learns."""

import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import clock, queue
from app.database import db, transaction
from app.federation import identity
from app.models import Connection, ControlReceived
from app.protocol.http_signature import sign_request
from app.protocol.keys import load_private_key
from app.protocol.signing import Kind, Signer
from tests.conftest import MakeApp
from tests.exchange import RemotePeer, key_pair, make_scene

BASE_URL = "http://127.0.0.1:5000"
PATH = "/api/v1/federation/incoming/connection"


class Caller:
    """A peer with an active connection that calls one instance."""

    def __init__(self, app: Flask, wire_connection_id: str, signer: Signer) -> None:
        self.client: FlaskClient = app.test_client()
        self.wire_connection_id = wire_connection_id
        self.signer = signer

    def message(self, **changes: Any) -> bytes:
        """A signed verification."""
        message = {
            "messageId": str(uuid.uuid4()),
            "instanceId": self.signer.instance_id,
            "type": "verification",
            "connectionId": self.wire_connection_id,
            "controlSequence": 1,
            "payload": {"state": "x"},
            "timestamp": clock.now_ms(),
        } | changes
        return self.signer.sign_to_wire(Kind.CONTROL, message)

    def headers(self, body: bytes, target: str = PATH, **changes: Any) -> dict[str, str]:
        """Headers with a transport signature."""
        given = {"created_s": clock.now_ms() // 1000, "nonce": uuid.uuid4().hex} | changes
        return sign_request(self.signer, method="POST", target_uri=BASE_URL + target, body=body, **given)

    def post(self, body: bytes, path: str = PATH, **headers: str) -> TestResponse:
        """The body, signed for the path; headers replace what is signed."""
        return self.client.post(path, data=body, headers=self.headers(body, path) | headers)


@pytest.fixture
def caller(make_app: MakeApp) -> Iterator[Caller]:
    """Who calls; the app's context is pushed."""
    app = make_app(BASE_URL=BASE_URL)
    with app.app_context():
        scene = make_scene(RemotePeer())
        key = key_pair("peer")
        signer = Signer(scene.peer.instance_id, key.key_id, load_private_key(key.private_key_pem))
        yield Caller(app, scene.connection.wire_connection_id, signer)


def code(response: TestResponse) -> tuple[int, str]:
    """Status and code of a problem."""
    assert response.mimetype == "application/problem+json"
    return response.status_code, response.json["code"]


def test_a_signed_message_of_a_known_peer_is_answered_with_a_signed_ack(caller: Caller) -> None:
    response = caller.post(caller.message())

    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.json["status"] == "active"
    assert response.json["instanceId"] == identity.local_instance().instance_id


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused_with_those_that_are_allowed(caller: Caller, method: str) -> None:
    response = caller.client.open(PATH, method=method)

    assert code(response) == (405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "identity"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_the_type_is_looked_at_before_everything_else(caller: Caller, headers: dict[str, str]) -> None:
    response = caller.client.post(PATH, data=b"x" * 2_000_000, headers=headers)

    assert code(response) == (415, "unsupported_media_type")


def test_the_size_is_looked_at_before_the_signature(caller: Caller) -> None:
    response = caller.client.post(PATH, data=b" " * 1_048_577, content_type="application/json")

    assert code(response) == (413, "too_large")


def test_an_address_that_calls_too_often_is_told_to_wait_before_its_signature_is_checked(
    caller: Caller, make_app: MakeApp
) -> None:
    client = make_app(BASE_URL=BASE_URL, RATE_LIMIT_ADDRESS="2").test_client()

    answers = [client.post(PATH, data=b"{}", content_type="application/json") for _ in range(3)]

    assert [code(answer)[0] for answer in answers] == [401, 401, 429]
    assert int(answers[-1].headers["Retry-After"]) >= 1


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1,"a":2}', b"[]", b"null", b"\xff"])
def test_before_a_signature_verified_nothing_is_said_about_the_body(caller: Caller, body: bytes) -> None:
    stranger = Caller(
        caller.client.application,
        caller.wire_connection_id,
        Signer(str(uuid.uuid4()), "k-unknown", caller.signer.private_key),
    )

    assert code(stranger.post(body)) == (401, "authentication_failed")
    assert code(caller.post(body))[0] == 400


def test_an_unknown_connection_and_somebody_elses_read_the_same(caller: Caller) -> None:
    other = make_scene(RemotePeer())

    unknown = caller.post(caller.message(connectionId=str(uuid.uuid4())))
    others = caller.post(caller.message(connectionId=other.connection.wire_connection_id))

    assert code(unknown) == code(others) == (403, "access_denied")
    assert unknown.json["detail"] == others.json["detail"]


def test_a_message_of_another_instance_is_refused_before_its_connection_is_looked_up(
    caller: Caller,
) -> None:
    response = caller.post(caller.message(instanceId=str(uuid.uuid4()), connectionId=str(uuid.uuid4())))

    assert code(response) == (403, "invalid_issuer")


def test_the_shape_is_looked_at_before_the_issuer(caller: Caller) -> None:
    response = caller.post(caller.message(instanceId=str(uuid.uuid4()), payload={"state": ""}))

    assert code(response) == (400, "invalid_request")
    assert response.json["errors"][0]["pointer"] == "/payload/state"


def test_a_blocked_instance_is_told_so_once_its_signature_verified(make_app: MakeApp) -> None:
    peer = RemotePeer()
    app = make_app(BASE_URL=BASE_URL, FEDERATION_BLOCKED=peer.base_url)
    with app.app_context():
        scene = make_scene(peer)
        caller = Caller(app, scene.connection.wire_connection_id, peer.signer)

        assert code(caller.post(caller.message())) == (403, "blocked")
        assert caller.post(b"{").status_code == 400


def test_a_nonce_is_taken_once_and_a_wrong_signature_does_not_use_it_up(caller: Caller) -> None:
    body = caller.message()
    headers = caller.headers(body, nonce="n" * 16)
    forged = headers | {"Signature": "tidings=:" + "A" * 342 + "==:"}

    refused = caller.client.post(PATH, data=body, headers=forged)
    first = caller.client.post(PATH, data=body, headers=headers)
    again = caller.client.post(PATH, data=body, headers=headers)

    assert [refused.status_code, first.status_code, again.status_code] == [401, 200, 401]


def test_without_nonces_nothing_is_accepted(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_args: Any, **_named: Any) -> None:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(queue.redis_client(), "set", away)

    response = caller.post(caller.message())

    assert code(response) == (503, "overloaded")
    assert "Retry-After" in response.headers


def test_the_target_is_the_raw_path_below_our_own_base_url(caller: Caller) -> None:
    body = caller.message()
    signed = caller.headers(body, PATH + "?x=%7e")

    exact = caller.client.post(PATH + "?x=%7e", data=body, headers=signed, base_url="http://evil.example")
    decoded = caller.client.post(PATH + "?x=~", data=body, headers=caller.headers(body, PATH + "?x=%7e"))

    assert (exact.status_code, decoded.status_code) == (200, 401)


def test_a_clock_that_differs_is_told_ours(caller: Caller) -> None:
    body = caller.message()

    response = caller.client.post(
        PATH, data=body, headers=caller.headers(body, created_s=clock.now_ms() // 1000 - 302)
    )

    assert code(response) == (401, "clock_skew")
    assert abs(response.json["serverTime"] - clock.now_ms()) < 5_000


def test_the_same_message_gets_the_stored_answer_whatever_the_state_is_now(caller: Caller) -> None:
    body = caller.message()
    first = caller.post(body)
    with transaction():
        connection = db.session.scalars(sa.select(Connection)).one()
        connection.status = "disconnected"

    again = caller.post(body)
    other = caller.post(caller.message(controlSequence=2))

    assert first.data == again.data
    assert code(other) == (410, "connection_closed")


def test_a_stored_refusal_is_repeated_word_for_word(caller: Caller) -> None:
    body = caller.message(type="connection.accept", payload=ACCEPT)

    first, again = caller.post(body), caller.post(body)

    assert code(first) == (409, "invalid_state")
    assert first.data == again.data


def test_the_number_counts_once_the_signature_verified_whatever_the_verdict(caller: Caller) -> None:
    caller.post(caller.message(type="connection.accept", payload=ACCEPT, controlSequence=5))

    late = caller.post(caller.message(controlSequence=5))
    shape = caller.post(caller.message(controlSequence=9, payload={}))
    next_one = caller.post(caller.message(controlSequence=6))

    assert code(late) == (409, "sequence_conflict")
    assert late.json["lastControlSequence"] == 5
    assert (shape.status_code, next_one.status_code) == (400, 200)


def test_a_wrong_message_signature_stores_nothing(caller: Caller) -> None:
    message = json.loads(caller.message())
    message["payload"]["state"] = "y"

    response = caller.post(json.dumps(message).encode())

    assert code(response) == (401, "authentication_failed")
    assert db.session.scalars(sa.select(ControlReceived)).all() == []


def test_who_sends_too_many_is_told_to_wait_and_may_repeat_the_same_message(make_app: MakeApp) -> None:
    app = make_app(BASE_URL=BASE_URL, RATE_LIMIT_PEER="1")
    with app.app_context():
        peer = RemotePeer()
        scene = make_scene(peer)
        caller = Caller(app, scene.connection.wire_connection_id, peer.signer)
        bodies = [caller.message(controlSequence=number) for number in range(1, 6)]

        answers = [caller.post(body) for body in bodies]

        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(a for a in answers if a.status_code == 429)
        assert code(refused) == (429, "rate_limited")
        assert int(refused.headers["Retry-After"]) >= 1


def test_a_refused_request_is_logged_with_the_base_that_was_expected(
    caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    body = caller.message()
    with caplog.at_level(logging.INFO):
        caller.client.post(PATH, data=body, headers=caller.headers(body, PATH + "?other"))

    [line] = [record for record in caplog.records if record.message == "peer.refused"]
    assert f'"@target-uri": {BASE_URL}{PATH}'.encode() in line.expected_base
    assert line.code == "authentication_failed"


ACCEPT = {
    "requestMessageId": "0eb61d5e-37c1-5b5a-9ac2-216da30062a0",
    "version": "1.0",
    "features": [],
    "workspace": {"slug": "w", "name": "W"},
}
