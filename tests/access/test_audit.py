"""The audit log: it says who, what and from where, and is only ever added to."""

from contextlib import suppress

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.exc import DBAPIError

from app.access import audit, tokens, workspaces
from app.access.audit import Actor
from app.database import db, transaction
from app.models import AuditEntry


def test_a_change_is_noted_with_who_made_it(app: Flask) -> None:
    workspace = workspaces.ensure_default()
    audit.act_as(Actor("user", "u-1", "ann@test.example", "192.0.2.7"))

    token, secret = tokens.create(workspace.id, "erp", ["events:read"])

    audit.act_as_instance()
    entry = db.session.scalars(sa.select(AuditEntry)).one()
    assert (entry.actor_kind, entry.actor_name, entry.address) == ("user", "ann@test.example", "192.0.2.7")
    assert (entry.action, entry.object_id, entry.workspace_id) == (
        "token.create",
        token.public_id,
        workspace.id,
    )
    assert orjson.loads(entry.after or "") == {
        "name": "erp",
        "prefix": token.prefix,
        "scopes": ["events:read"],
    }
    assert secret not in (entry.after or "")


def test_a_change_that_fails_leaves_no_entry(app: Flask) -> None:
    workspace = workspaces.ensure_default()

    with suppress(ZeroDivisionError), transaction():
        tokens.create(workspace.id)
        raise ZeroDivisionError

    assert db.session.scalars(sa.select(AuditEntry)).all() == []


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_entry SET actor_name = 'bob'", "DELETE FROM audit_entry"]
)
def test_the_database_refuses_to_change_an_entry(app: Flask, statement: str) -> None:
    audit.note("test.done", "test", "1")

    with pytest.raises(DBAPIError, match="only added to"), transaction():
        db.session.execute(sa.text(statement))

    assert db.session.scalars(sa.select(AuditEntry.actor_name)).all() == ["this instance"]
