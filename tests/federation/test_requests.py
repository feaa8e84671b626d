"""Requests of strangers: kept within bounds, checked later, dropped without a word."""

import uuid
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app import clock
from app.database import db, transaction
from app.federation import connections, identity, requests
from app.models import Connection, ControlReceived, Peer
from app.protocol.errors import InvalidState
from app.protocol.http_signature import sign_request
from app.protocol.keys import Algorithm, generate, load_private_key, seal
from app.protocol.signing import Kind, Signer
from tests.federation.conftest import MakeSide, Pair

PATH = "/api/v1/federation/incoming/connection"


def ask(pair: Pair, signer: Signer | None = None, **changes: Any) -> TestResponse:
    """A request of alpha at beta's door, as alpha signs it or as somebody else does."""
    with pair.alpha.app.app_context():
        signer = signer or identity.signer()
    payload = {
        "baseUrl": pair.alpha.url,
        "workspace": {"slug": "default", "name": "Default"},
        "offer": {"versions": ["1.0"], "features": []},
    } | changes.pop("payload", {})
    message = {
        "messageId": str(uuid.uuid4()),
        "instanceId": signer.instance_id,
        "type": "connection.request",
        "connectionId": str(uuid.uuid4()),
        "controlSequence": 1,
        "payload": payload,
        "timestamp": clock.now_ms(),
    } | changes
    return post(pair, signer, signer.sign_to_wire(Kind.CONTROL, message))


def post(pair: Pair, signer: Signer, body: bytes) -> TestResponse:
    """A body with a transport signature, at beta's door."""
    headers = sign_request(
        signer,
        method="POST",
        target_uri=pair.beta.url + PATH,
        body=body,
        created_s=clock.now_ms() // 1000,
        nonce=uuid.uuid4().hex,
    )
    return pair.beta.app.test_client().post(PATH, data=body, headers=headers)


def impostor(instance_id: str | None = None) -> Signer:
    """A signer that nobody knows, who may claim to be somebody."""
    made = generate(Algorithm.ED25519)
    return Signer(instance_id or str(uuid.uuid4()), made.key_id, load_private_key(made.private_key_pem))


def test_a_request_is_shown_to_nobody_before_it_was_checked(pair: Pair) -> None:
    answer = ask(pair)
    assert (answer.status_code, answer.json["status"]) == (202, "pending")
    assert pair.beta.connection().checked_at is None
    assert pair.beta.connection().peer_id is None

    pair.beta.work()

    assert pair.beta.connection().checked_at is not None
    assert pair.beta.rows(Peer)[0].base_url == pair.alpha.url


def test_the_same_request_again_gets_the_stored_answer_before_and_after_the_check(pair: Pair) -> None:
    with pair.alpha.app.app_context():
        signer = identity.signer()
    ids = {"messageId": str(uuid.uuid4()), "connectionId": str(uuid.uuid4()), "timestamp": clock.now_ms()}

    first = ask(pair, signer, **ids)
    second = ask(pair, signer, **ids)
    pair.beta.work()
    third = ask(pair, signer, **ids)

    assert first.data == second.data == third.data
    assert len(pair.beta.rows(Connection)) == 1


def test_another_request_under_the_same_id_is_a_conflict(pair: Pair) -> None:
    ids = {"messageId": str(uuid.uuid4()), "connectionId": str(uuid.uuid4())}
    ask(pair, **ids, timestamp=clock.now_ms())

    answer = ask(pair, **ids, timestamp=clock.now_ms() - 1_000)

    assert (answer.status_code, answer.json["code"]) == (409, "message_id_conflict")


def test_who_claims_an_instance_but_has_not_its_key_is_dropped(pair: Pair) -> None:
    claimed = pair.alpha.do(identity.local_instance).instance_id

    answer = ask(pair, impostor(claimed))
    pair.beta.work()

    assert answer.status_code == 202
    assert pair.beta.rows(Connection) == []
    assert pair.beta.rows(ControlReceived) == []


def test_who_claims_to_be_myself_is_dropped(pair: Pair) -> None:
    answer = ask(pair, payload={"baseUrl": pair.beta.url})

    assert answer.status_code == 202
    assert pair.beta.rows(Connection) == []


def test_a_document_that_cannot_be_read_is_tried_again_some_minutes_and_then_given_up(pair: Pair) -> None:
    ask(pair)
    pair.alpha.server.shutdown()
    pair.alpha.server.server_close()

    with clock.frozen_at(clock.now_ms()) as frozen:
        for _ in range(requests.MAX_CHECKS - 1):
            pair.beta.work()
            [waiting] = pair.beta.rows(Connection)
            assert waiting.retry_at > frozen.now_ms
            frozen.now_ms = waiting.retry_at
        pair.beta.work()

    assert pair.beta.rows(Connection) == []


def test_an_origin_has_a_quota_of_requests_that_wait(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_WAITING_PER_ORIGIN", 2)

    statuses = [ask(pair).status_code for _ in range(3)]

    assert statuses == [202, 202, 429]


def test_an_address_has_a_quota_of_requests(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "ADDRESS_PER_MINUTE", 2)

    answers = [ask(pair) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [202, 202, 429]
    assert int(answers[-1].headers["Retry-After"]) >= 1


def test_a_request_by_pinned_keys_is_shown_at_once(connected: Pair) -> None:
    answer = ask(connected)

    assert answer.status_code == 202
    newest = connected.beta.connection()
    assert newest.checked_at is not None
    assert newest.replaces_id == connected.beta.rows(Connection)[0].id


def test_a_peer_that_moved_is_a_stranger_at_its_new_address(connected: Pair) -> None:
    answer = ask(connected, payload={"baseUrl": "http://127.0.0.1:9"})

    assert answer.status_code == 202
    newest = connected.beta.connection()
    assert (newest.checked_at, newest.claimed_base_url) == (None, "http://127.0.0.1:9")


def test_a_peer_that_lost_its_keys_is_shown_beside_what_is_pinned(connected: Pair) -> None:
    with connected.alpha.app.app_context():
        made = generate(Algorithm.RSA)
        with transaction():
            key = identity.list_keys()[0]
            key.private_key_sealed = _sealed(made.private_key_pem, connected)
            key.key_id, key.fingerprint, key.public_key_pem = (
                made.key_id,
                made.fingerprint,
                made.public_key_pem,
            )
        identity.forget()

    answer = ask(connected)
    connected.beta.work()

    assert answer.status_code == 202
    [pinned, claimed] = connected.beta.rows(Peer)
    assert pinned.instance_id == claimed.instance_id
    newest = connected.beta.connection()
    assert (newest.peer_id, newest.replaces_id) == (claimed.id, connected.beta.rows(Connection)[0].id)


def test_a_request_that_policy_would_accept_but_we_cannot_waits_for_a_person(make_side: MakeSide) -> None:
    alpha = make_side()
    pair = Pair(alpha, make_side(FEDERATION_AUTO_ACCEPT=alpha.url))

    answer = ask(pair, payload={"offer": {"versions": ["2.0"], "features": []}})
    pair.beta.work()

    assert answer.status_code == 202
    asked = pair.beta.connection()
    assert (asked.status, asked.checked_at is not None) == ("pending", True)
    with pytest.raises(InvalidState, match="no version"):
        pair.beta.do(connections.accept, asked.id)


def test_a_lost_job_is_found_by_the_sweep(pair: Pair) -> None:
    ask(pair)

    assert pair.beta.do(requests.check_due) == 1
    assert pair.beta.do(lambda: db.session.scalar(db.select(Connection.retry_at))) == 0


def _sealed(pem: str, pair: Pair) -> str:
    return seal(pem, pair.alpha.app.extensions["tidings"].secret_key)
