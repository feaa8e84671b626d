"""`flask key`: rotate, revoke and re-encrypt, with nobody connected."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.database import db
from app.federation import identity
from app.models import SigningKey
from tests.cli.conftest import RunFlask


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
