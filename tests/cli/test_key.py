"""`flask key`: rotate, revoke and re-encrypt, with nobody connected."""

from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.database import db
from app.federation import identity
from app.models import SigningKey
from tests.cli.conftest import RunFlask
from tests.exchange import Scene


def statuses(flask: RunFlask) -> list[tuple[str, str]]:
    """(keyId, status) of all keys, the newest first."""
    db.session.expire_all()
    return [(row["keyId"], row["status"]) for row in flask("key", "list", "-o", "json").json["data"]]


def test_a_rotation_retires_the_key_in_use(flask: RunFlask, made: Any) -> None:
    [(first, _)] = statuses(flask)

    new = flask("key", "rotate", "--no-wait", "-o", "json").json

    assert new["status"] == "active"
    assert statuses(flask) == [(new["keyId"], "active"), (first, "retired")]
    assert identity.local_instance().key_id == new["keyId"]


def test_a_rotation_in_two_steps_uses_the_announced_key(flask: RunFlask, made: Any) -> None:
    announced = flask("key", "rotate", "--announce", "-o", "json").json
    between = statuses(flask)

    activated = flask("key", "rotate", "--activate", "-o", "json").json

    assert [status for _, status in between] == ["next", "active"]
    assert activated["keyId"] == announced["keyId"]
    assert [status for _, status in statuses(flask)] == ["active", "retired"]


def test_a_revoked_key_is_followed_by_another(flask: RunFlask, made: Any) -> None:
    [(first, _)] = statuses(flask)

    said = flask("key", "revoke", first, "--wait", "0")

    assert said.code == 0
    [(new, in_use), (old, ended)] = statuses(flask)
    assert (old, in_use, ended) == (first, "active", "revoked")
    assert new != first


def test_keys_that_are_encrypted_under_the_secret_key_are_left_alone(flask: RunFlask, made: Any) -> None:
    before = db.session.scalars(sa.select(SigningKey.private_key_sealed)).all()

    done = flask("key", "reencrypt", "-o", "json").json

    assert done == {"reencrypted": 0, "unchanged": 1}
    assert db.session.scalars(sa.select(SigningKey.private_key_sealed)).all() == before


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["rotate", "--announce", "--activate"], 2),
        (["rotate", "--activate", "--algorithm", "rsa"], 2),
        (["rotate", "--algorithm", "dsa"], 2),
        (["rotate", "--activate"], 1),
        (["revoke", "k-nobody"], 3),
    ],
)
def test_what_cannot_be_done_with_keys_changes_nothing(
    flask: RunFlask, made: Any, args: list[str], code: int
) -> None:
    before = statuses(flask)

    said = flask("key", *args)

    assert said.code == code
    assert said.out == ""
    assert statuses(flask) == before


def test_the_list_says_how_many_connections_know_a_key(flask: RunFlask, scene: Scene) -> None:
    flask("key", "rotate", "--announce")

    [new, old] = flask("key", "list", "-o", "json").json["data"]

    assert (new["known"], new["connections"]) == (0, 1)
    assert (old["known"], old["connections"]) == (1, 1)


def test_a_peer_that_does_not_know_the_key_yet_is_named(flask: RunFlask, scene: Scene) -> None:
    said = flask("key", "rotate", "--wait", "0")

    assert said.code == 0
    assert f"{scene.peer.base_url} does not know the key yet" in said.err


def test_a_peer_that_verifies_no_ed25519_is_named_in_one_line(flask: RunFlask, scene: Scene) -> None:
    said = flask("key", "rotate", "--algorithm", "ed25519", "--no-wait")

    assert (said.code, said.err.count("\n")) == (1, 1)
    assert scene.peer.base_url in said.err
    assert len(statuses(flask)) == 1


def test_another_secret_key_is_one_line_that_says_what_to_do(app: Flask, flask: RunFlask, made: Any) -> None:
    config = app.extensions["tidings"]
    app.extensions["tidings"] = replace(config, secret_key="quite another secret key")
    identity.forget()

    said = [flask("init"), flask("event", "publish", "task.created")]
    app.extensions["tidings"] = replace(
        config, secret_key="quite another secret key", secret_key_previous=config.secret_key
    )
    mended = flask("key", "reencrypt", "-o", "json").json

    for one in said:
        assert (one.code, one.err.count("\n")) == (1, 1), one
        assert "SECRET_KEY is not the one" in one.err
    assert mended == {"reencrypted": 1, "unchanged": 0}
