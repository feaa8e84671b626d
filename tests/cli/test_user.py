"""`flask user link`, whom the audit log names for a command, and the setup token in the log."""

import getpass
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.access import audit, links, setup
from app.cli import up
from app.database import db
from app.models import AuditEntry
from tests.cli.conftest import RunFlask


def test_a_link_signs_in_the_user_that_it_was_made_for(flask: RunFlask, made: Any) -> None:
    said = flask("user", "link", made["adminEmail"].upper(), "--minutes", "5", "-o", "json").json

    secret = said["url"].removeprefix("http://127.0.0.1:5000/login/link/")
    assert links.find(secret).user.email == made["adminEmail"]
    assert said["minutes"] == 5


def test_there_is_no_link_for_somebody_who_is_not_there(flask: RunFlask, made: Any) -> None:
    said = flask("user", "link", "nobody@test.example")

    assert said.code == 3
    assert "there is no user nobody@test.example" in said.err.lower()


def test_what_a_command_changes_is_noted_with_the_account_that_typed_it(flask: RunFlask, made: Any) -> None:
    audit.act_as_instance()

    flask("token", "create", "--name", "erp")

    entry = db.session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    audit.act_as_instance()
    assert entry is not None
    assert (entry.action, entry.actor_kind, entry.actor_name) == ("token.create", "system", getpass.getuser())


def test_the_log_shows_the_setup_token_until_there_is_a_user(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        up.prepare_to_run()
    first = [vars(record) for record in caplog.records if record.message == "setup.waits"]
    setup.create_first(setup.token(), "ann@test.example", "correct horse battery")
    caplog.clear()

    with caplog.at_level("WARNING"):
        up.prepare_to_run()

    assert [(line["page"], line["code"]) for line in first] == [
        ("http://127.0.0.1:5000/setup", setup.token())
    ]
    assert [record.message for record in caplog.records if record.message == "setup.waits"] == []
