"""The published requests (`tests/vectors/requests.json`), each played against the whole app.

The file says what instance b, in the state `context`, answers to instance a. Nothing can be fetched from a.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
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

FOLDER = Path(__file__).parent.parent / "vectors"
VECTORS = json.loads((FOLDER / "requests.json").read_text())
DOCUMENT = (FOLDER / "instance.json").read_text()
CONTEXT, CASES = VECTORS["context"], {case["name"]: case for case in VECTORS["cases"]}


@pytest.fixture
def receiver(make_app: MakeApp) -> Iterator[Flask]:
    """Instance b in the state that the file describes, at the time that it names."""
    with clock.frozen_at(CONTEXT["now"]):
        app = make_app(BASE_URL=CONTEXT["receiver"]["baseUrl"], INSTANCE_ID=CONTEXT["receiver"]["instanceId"])
        with app.app_context():
            identity.ensure_identity(app.extensions["tidings"])
            with transaction():
                _set_up()
            yield app


@pytest.mark.parametrize("name", CASES)
def test_published_request_is_answered_as_published(receiver: Flask, name: str) -> None:
    case, client = CASES[name], receiver.test_client()
    for earlier in case.get("before", ()):
        send(client, CASES[earlier]["request"])

    response = send(client, case["request"])

    assert response.status_code == case["expect"]["status"], response.text
    check(response, case["expect"])


def send(client: FlaskClient, request: dict[str, Any]) -> TestResponse:
    """One request, byte by byte as published."""
    return client.open(
        request["url"],
        base_url=CONTEXT["receiver"]["baseUrl"],
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


def _set_up() -> None:
    workspace = ensure_default()
    pinned, now_ms = CONTEXT["pinned"], CONTEXT["now"]
    peer = Peer(
        instance_id=pinned["instanceId"],
        base_url=pinned["baseUrl"],
        name="Instance a",
        document=DOCUMENT,
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
        wire_connection_id=CONTEXT["connection"]["connectionId"],
        direction=Direction.INCOMING,
        status=ConnectionStatus.ACTIVE,
        claimed_instance_id=peer.instance_id,
        request_message_id="00000000-0000-4000-8000-000000000002",
        offer='{"versions": ["1.0"], "features": []}',
        last_control_out=0,
        last_control_in=CONTEXT["connection"]["lastControlSequence"],
        checked_at=now_ms,
        activated_at=now_ms,
        created_at=now_ms,
        updated_at=now_ms,
    )
    db.session.add(connection)
    db.session.flush()
    for number, subscription in enumerate(CONTEXT["subscriptions"]):
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
