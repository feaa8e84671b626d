"""Who we are: one identity, its keys at rest, and the document."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flask import Flask

from app import clock
from app.config import Config
from app.federation import identity
from app.protocol.errors import InvalidState
from app.protocol.messages import parse_instance_document, verify_document
from tests.conftest import MakeApp
from tests.federation.conftest import Pair


def config_of(app: Flask) -> Config:
    config: Config = app.extensions["tidings"]
    return config


def test_an_identity_is_made_once_and_never_overwritten(app: Flask) -> None:
    identity.ensure_identity(config_of(app))
    first = identity.local_instance()

    identity.ensure_identity(config_of(app))
    identity.forget()

    assert identity.local_instance() == first
    assert len(identity.list_keys()) == 1


def test_processes_that_start_at_once_make_one_identity(make_app: MakeApp) -> None:
    app = make_app()

    def start(_number: int) -> str:
        with app.app_context():
            identity.ensure_identity(config_of(app))
            return identity.local_instance().key_id

    with ThreadPoolExecutor(4) as threads:
        seen = set(threads.map(start, range(4)))

    assert len(seen) == 1
    with app.app_context():
        assert len(identity.list_keys()) == 1


def test_a_given_instance_id_is_taken_and_another_one_later_refused(make_app: MakeApp) -> None:
    mine = "0eb61d5e-37c1-5b5a-9ac2-216da30062a0"
    app = make_app(INSTANCE_ID=mine)
    with app.app_context():
        identity.ensure_identity(config_of(app))

        assert identity.local_instance().instance_id == mine
        with pytest.raises(InvalidState, match="belongs to"):
            identity.ensure_identity(replace(config_of(app), instance_id=mine.replace("0eb", "1eb")))


def test_without_an_identity_nothing_is_signed(app: Flask) -> None:
    with pytest.raises(InvalidState, match="flask init"):
        identity.signer()


def test_private_keys_are_sealed_under_the_secret_key(app: Flask) -> None:
    identity.ensure_identity(config_of(app))
    [key] = identity.list_keys()
    assert "PRIVATE" not in key.private_key_sealed

    app.extensions["tidings"] = replace(config_of(app), secret_key="another secret key")
    with pytest.raises(InvalidState, match="SECRET_KEY is not the one"):
        identity.signer()

    old = "a secret key for tests alone"
    app.extensions["tidings"] = replace(config_of(app), secret_key_previous=old)
    assert identity.signer().key_id == key.key_id


def test_the_document_verifies_and_is_signed_once_a_second(app: Flask) -> None:
    identity.ensure_identity(config_of(app))
    with clock.frozen_at(1_767_225_600_000) as frozen:
        first = identity.instance_document()
        frozen.advance(999)
        same = identity.instance_document()
        frozen.advance(1)
        next_one = identity.instance_document()

        parsed = parse_instance_document(json.loads(json.dumps(next_one)))
        verified = verify_document(parsed, base_url=config_of(app).base_url, now_ms=clock.now_ms())

    assert first is same
    assert next_one["serverTime"] == first["serverTime"] + 1_000
    assert (verified.instance_id, verified.valid_until - verified.server_time) == (
        identity.local_instance().instance_id,
        86_400_000,
    )


def test_the_document_and_the_key_are_served_to_everybody(pair: Pair) -> None:
    client = pair.alpha.app.test_client()

    for path in ("/.well-known/tidings-instance", "/api/v1/federation/instance"):
        response = client.get(path)
        assert (response.status_code, response.mimetype) == (200, "application/json")
    record = client.get(f"/api/v1/federation/keys/{response.json['keyId']}").json
    missing = client.get("/api/v1/federation/keys/k-none")

    assert record == response.json["keys"][0]
    assert (missing.status_code, missing.json["code"]) == (404, "not_found")
