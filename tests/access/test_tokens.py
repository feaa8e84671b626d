"""Tokens: shown once, found by their secret, refused after their end."""

import pytest
import sqlalchemy as sa
from flask import Flask

from app import clock
from app.access import tokens, workspaces
from app.access.tokens import Scope
from app.database import db
from app.models import Token
from app.protocol.errors import InvalidRequest, NotFound


@pytest.fixture
def workspace_id(app: Flask) -> int:
    return workspaces.ensure_default().id


def test_a_new_token_is_found_by_its_secret(workspace_id: int) -> None:
    row, secret = tokens.create(workspace_id, "ci", [Scope.EVENTS_READ, Scope.EVENTS_PUBLISH])

    found = tokens.find(secret)

    assert found is not None
    assert (found.token_id, found.workspace_id) == (row.id, workspace_id)
    assert found.scopes == {"events:publish", "events:read"}


def test_only_a_hash_of_the_secret_is_kept(workspace_id: int) -> None:
    _, secret = tokens.create(workspace_id)

    [kept] = db.session.execute(sa.select(Token.__table__)).mappings()

    assert secret.startswith("tdg_")
    assert secret not in {str(value) for value in kept.values()}


@pytest.mark.parametrize(
    "secret", ["", "tdg_", "tdg_" + "x" * 43, "Bearer x", "tdg_" + "x" * 10_000, "tdg_\0é"]
)
def test_what_is_no_token_is_not_found(workspace_id: int, secret: str) -> None:
    tokens.create(workspace_id)

    assert tokens.find(secret) is None


def test_a_revoked_token_is_refused_at_once_by_who_revoked_it(workspace_id: int) -> None:
    row, secret = tokens.create(workspace_id)
    tokens.find(secret)

    tokens.revoke(workspace_id, row.public_id)

    assert tokens.find(secret) is None


def test_a_token_revoked_elsewhere_is_refused_when_the_cache_has_forgotten_it(
    workspace_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, secret = tokens.create(workspace_id)
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    tokens.find(secret)
    with db.engine.begin() as elsewhere:
        elsewhere.execute(sa.update(Token).where(Token.id == row.id).values(revoked_at=1))

    before = tokens.find(secret)
    monkeypatch.setattr(clock, "monotonic", lambda: now + tokens.CACHE_S + 0.01)
    db.session.rollback()
    after = tokens.find(secret)

    assert before is not None
    assert after is None


def test_revoking_twice_keeps_the_first_time(workspace_id: int) -> None:
    row, _ = tokens.create(workspace_id)
    with clock.frozen_at(1_000_000):
        tokens.revoke(workspace_id, row.public_id)

    with clock.frozen_at(2_000_000):
        again = tokens.revoke(workspace_id, row.public_id)

    assert again.revoked_at == 1_000_000


def test_another_workspaces_token_cannot_be_revoked(workspace_id: int) -> None:
    row, secret = tokens.create(workspace_id)
    other = workspaces.create("other").id

    with pytest.raises(NotFound):
        tokens.revoke(other, row.public_id)

    assert tokens.find(secret) is not None


def test_the_last_use_is_written_once_a_minute(workspace_id: int, monkeypatch: pytest.MonkeyPatch) -> None:
    row, secret = tokens.create(workspace_id)
    monkeypatch.setattr(tokens, "CACHE_S", -1)
    seen = []
    for now_ms in (1_000_000, 1_059_999, 1_060_000):
        with clock.frozen_at(now_ms):
            tokens.find(secret)
        db.session.rollback()
        seen.append(db.session.scalar(sa.select(Token.last_used_at).where(Token.id == row.id)))

    assert seen == [1_000_000, 1_000_000, 1_060_000]


@pytest.mark.parametrize(
    ("scopes", "name"), [([], "x"), (["events:all"], "x"), (["admin"], ""), (["admin"], "x" * 201)]
)
def test_a_token_without_sense_is_not_made(workspace_id: int, scopes: list[str], name: str) -> None:
    with pytest.raises(InvalidRequest):
        tokens.create(workspace_id, name, scopes)

    assert tokens.list_tokens(workspace_id) == []


def test_admin_may_do_everything_and_others_what_they_name() -> None:
    admin = tokens.Bearer(1, "", 1, "", frozenset({"admin"}))
    reader = tokens.Bearer(1, "", 1, "", frozenset({"events:read"}))

    assert all(admin.may(scope) for scope in Scope)
    assert [scope for scope in Scope if reader.may(scope)] == [Scope.EVENTS_READ]
