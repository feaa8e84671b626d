"""`flask init`, `workspace`, `user`, `token`, `key`, `instance`."""

from typing import Any

import pytest
import sqlalchemy as sa

from app.access import tokens, users
from app.database import db
from app.models import SigningKey, Token, User
from tests.cli.conftest import RunFlask


def test_init_makes_an_instance_that_can_be_used(flask: RunFlask) -> None:
    made = flask("init", "-o", "json").json

    assert set(made) == {"instanceId", "workspace", "adminEmail", "adminPassword", "token"}
    assert made["workspace"] == "default"
    bearer = tokens.find(made["token"])
    assert bearer is not None
    assert bearer.scopes == {"admin"}
    admin = users.by_email(made["adminEmail"])
    assert admin is not None
    assert users.password_matches(admin, made["adminPassword"])


def test_init_again_changes_nothing_and_shows_no_secret(flask: RunFlask, made: Any) -> None:
    keys = db.session.scalars(sa.select(SigningKey.private_key_sealed)).all()

    again = flask("init", "-o", "json").json

    assert again == made | {"adminPassword": None, "token": None}
    assert db.session.scalars(sa.select(SigningKey.private_key_sealed)).all() == keys
    assert len(db.session.scalars(sa.select(User)).all()) == 1
    assert len(db.session.scalars(sa.select(Token)).all()) == 1


def test_init_makes_a_token_again_when_all_were_revoked(flask: RunFlask, made: Any) -> None:
    [token] = flask("token", "list", "-o", "json").json["data"]
    flask("token", "revoke", token["id"])

    again = flask("init", "-o", "json").json

    assert again["token"].startswith("tdg_")
    assert again["adminPassword"] is None


def test_init_takes_the_address_of_the_first_user(flask: RunFlask) -> None:
    assert flask("init", "--email", "Ops@example.org", "-o", "json").json["adminEmail"] == "ops@example.org"


def test_a_token_has_the_scopes_that_were_named(flask: RunFlask, made: Any) -> None:
    flask("workspace", "create", "story")

    said = flask(
        "token",
        "create",
        "--workspace",
        "story",
        "--scope",
        "events:read",
        "--scope",
        "events:publish",
        "-o",
        "json",
    ).json

    bearer = tokens.find(said["token"])
    assert bearer is not None
    assert bearer.scopes == {"events:read", "events:publish"}
    assert said["workspace"] == "story"
    assert said["token"] not in flask("token", "list", "--workspace", "story", "-o", "json").out


def test_a_token_may_do_everything_unless_scopes_are_named(flask: RunFlask, made: Any) -> None:
    assert flask("token", "create", "-o", "json").json["scopes"] == ["admin"]


def test_a_token_is_revoked_by_the_beginning_of_its_id(flask: RunFlask, made: Any) -> None:
    said = flask("token", "create", "-o", "json").json

    revoked = flask("token", "revoke", said["id"][:8], "-o", "json").json

    assert revoked["revokedAt"] is not None
    assert tokens.find(said["token"]) is None


def test_a_beginning_that_fits_several_is_no_id(flask: RunFlask, made: Any) -> None:
    flask("token", "create")

    said = flask("token", "revoke", "")

    assert said.code == 2
    assert "Several tokens begin with" in said.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["token", "create", "--scope", "everything"], 2, "events:publish"),
        (["token", "create", "--workspace", "nowhere"], 3, "There are: default."),
        (["token", "revoke", "ffffffff"], 3, "`flask token list`"),
        (["workspace", "create", "Not A Slug"], 2, "a-z"),
        (["workspace", "create", "default"], 2, "Choose another one."),
        (["user", "create", "nobody"], 2, "e-mail"),
        (["user", "create", "a@b.c", "--role", "king"], 2, "viewer"),
        (["connection", "show", "ffffffff"], 3, "`flask connection list`"),
        (["event", "show", "last"], 3, "`flask event list`"),
        (["nothing"], 2, "nothing"),
    ],
)
def test_mistakes_have_a_code_and_say_what_to_do(
    flask: RunFlask, made: Any, args: list[str], code: int, words: str
) -> None:
    said = flask(*args)

    assert said.code == code
    assert words in said.err
    assert said.out == ""


def test_a_user_is_made_with_a_password_from_stdin(flask: RunFlask, made: Any) -> None:
    said = flask(
        "user", "create", "maria@example.org", "--role", "viewer", "--password-stdin", "-o", "json",
        given="correct horse battery\n",
    ).json  # fmt: skip

    maria = users.by_email("maria@example.org")
    assert maria is not None
    assert users.password_matches(maria, "correct horse battery")
    assert (said["role"], said["password"]) == ("viewer", None)


def test_a_password_that_was_made_up_is_shown_once(flask: RunFlask, made: Any) -> None:
    said = flask("user", "create", "maria@example.org", "-o", "json").json

    maria = users.by_email("maria@example.org")
    assert maria is not None
    assert users.password_matches(maria, said["password"])


def test_the_workspaces_are_listed_by_slug(flask: RunFlask, made: Any) -> None:
    flask("workspace", "create", "story", "--name", "The story")

    listed = flask("workspace", "list", "-o", "json").json["data"]

    assert [(row["slug"], row["name"], row["isDefault"]) for row in listed] == [
        ("default", "default", True),
        ("story", "The story", False),
    ]


def test_the_instance_is_shown_as_peers_see_it(flask: RunFlask, made: Any) -> None:
    document = flask("instance", "show", "-o", "json").json
    [key] = flask("key", "list", "-o", "json").json["data"]
    shown = flask("instance", "show").out

    assert document["instanceId"] == made["instanceId"]
    assert "signature" in document
    assert (key["keyId"], key["status"]) == (document["keyId"], "active")
    assert key["fingerprint"] in shown
    assert "PRIVATE" not in flask("key", "list", "-o", "json").out


def test_a_database_without_tables_is_told_in_one_line(flask: RunFlask, app: Any) -> None:
    db.drop_all()

    said = flask("token", "list")

    assert said.code == 1
    assert said.err == "Error: The database has no tables yet. Run `flask init` first.\n"
