"""The published requests, each played against the whole app: those of an independent peer, and our own.

`requests.json` says what the receiver, in the state `context`, answers to the sender. Nothing can be fetched
from the sender. Our own (`docs/vectors`) say the same of the database, so one engine is enough for them.
"""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import clock
from app.access.workspaces import ensure_default
from app.database import db, transaction
from app.federation import identity, peers
from app.models import Connection, Direction, Peer, Subscription
from app.protocol.keys import parse_key_record
from app.protocol.states import ConnectionStatus, SubscriptionStatus
from tests.conftest import MakeApp
from tests.protocol import vectors

Context = dict[str, Any]


def names(which: str) -> list[str]:
    """The cases of one set."""
    return [case["name"] for case in vectors.read(which, "requests.json")["cases"]]


@pytest.fixture
def context(which: str) -> Context:
    """The state that every case of the set starts from."""
    return vectors.read(which, "requests.json")["context"]


@pytest.fixture
def receiver(make_app: MakeApp, which: str, context: Context) -> Iterator[Flask]:
    """The receiver in the state that the file describes, at the time that it names."""
    with clock.frozen_at(context["now"]):
        app = make_app(BASE_URL=context["receiver"]["baseUrl"], INSTANCE_ID=context["receiver"]["instanceId"])
        with app.app_context():
            identity.ensure_identity(app.extensions["tidings"])
            with transaction():
                _set_up(context, vectors.text(which, "instance.json"))
            yield app


@pytest.mark.parametrize("which", ["shared"])
@pytest.mark.parametrize("name", names("shared"))
def test_shared_request_is_answered_as_written(receiver: Flask, which: str, name: str) -> None:
    expect, response = play(receiver, which, name)

    assert response.status_code == expect["status"], response.text
    check(response, expect)


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("which", ["published"])
@pytest.mark.parametrize("name", names("published"))
def test_published_request_is_answered_as_written(receiver: Flask, which: str, name: str) -> None:
    expect, response = play(receiver, which, name)

    assert response.status_code == expect["status"], response.text
    check(response, expect)


def play(receiver: Flask, which: str, name: str) -> tuple[dict[str, Any], TestResponse]:
    """What is expected of a case and what came, after the cases that come before it."""
    published = vectors.read(which, "requests.json")
    cases, client = {case["name"]: case for case in published["cases"]}, receiver.test_client()
    base_url = published["context"]["receiver"]["baseUrl"]
    for earlier in cases[name].get("before", ()):
        before = send(client, base_url, cases[earlier]["request"])
        assert before.status_code == cases[earlier]["expect"]["status"], before.text
    return cases[name]["expect"], send(client, base_url, cases[name]["request"])


def send(client: FlaskClient, base_url: str, request: dict[str, Any]) -> TestResponse:
    """One request, byte by byte as published."""
    return client.open(
        request["url"],
        base_url=base_url,
        method=request["method"],
        headers=[(name, value) for name, value in request["headers"]],
        data=request["body"].encode() if "body" in request else base64.b64decode(request["bodyBase64"]),
    )


def check(response: TestResponse, expect: dict[str, Any]) -> None:
    """The members of the answer that the file names."""
    if "code" in expect:
        assert response.mimetype == "application/problem+json"
        assert response.json["code"] == expect["code"], response.text
    if "pointer" in expect:
        assert expect["pointer"] in [error["pointer"] for error in response.json["errors"]]
    if "lastControlSequence" in expect:
        assert response.json["lastControlSequence"] == expect["lastControlSequence"]
    if "ackStatus" in expect:
        assert response.json["status"] == expect["ackStatus"]
    if "acks" in expect:
        assert [_verdict(entry) for entry in response.json["acks"]] == expect["acks"]
    if "contiguous" in expect:
        assert response.json["contiguous"] == expect["contiguous"]


def _verdict(entry: dict[str, Any]) -> str:
    return str(entry["error"]["code"] if "error" in entry else entry["status"])


def _set_up(context: Context, document: str) -> None:
    workspace = ensure_default()
    pinned, now_ms = context["pinned"], context["now"]
    peer = Peer(
        instance_id=pinned["instanceId"],
        base_url=pinned["baseUrl"],
        name="The sender",
        document=document,
        document_read_at=now_ms,
        key_lookup_at=now_ms,
        refused_keys="[]",
        max_event_bytes=65_536,
        max_batch_events=100,
        max_request_bytes=1_048_576,
        created_at=now_ms,
    )
    db.session.add(peer)
    db.session.flush()
    peers.write_keys(peer.id, [parse_key_record(record) for record in pinned["keys"]])
    connection = Connection(
        public_id="00000000-0000-4000-8000-000000000001",
        workspace_id=workspace.id,
        peer_id=peer.id,
        wire_connection_id=context["connection"]["connectionId"],
        direction=Direction.INCOMING,
        status=ConnectionStatus.ACTIVE,
        claimed_instance_id=peer.instance_id,
        request_message_id="00000000-0000-4000-8000-000000000002",
        offer='{"versions": ["1.0"], "features": []}',
        last_control_out=0,
        last_control_in=context["connection"]["lastControlSequence"],
        checked_at=now_ms,
        activated_at=now_ms,
        created_at=now_ms,
        updated_at=now_ms,
    )
    db.session.add(connection)
    db.session.flush()
    for number, subscription in enumerate(context["subscriptions"]):
        db.session.add(
            Subscription(
                public_id=f"00000000-0000-4000-8000-0000000001{number:02}",
                workspace_id=workspace.id,
                connection_id=connection.id,
                direction=Direction.INCOMING,
                wire_subscription_id=subscription["subscriptionId"],
                event_type=subscription["eventType"],
                granted_event_type=subscription["eventType"],
                status=SubscriptionStatus(subscription["state"]),
                lease_seconds=86_400,
                lease_expires_at=subscription["leaseExpiresAt"],
                created_at=now_ms,
                updated_at=now_ms,
            )
        )
