"""Workspaces and users."""

import pytest
from flask import Flask

from app.access import users, workspaces
from app.models import Role
from app.protocol.errors import InvalidRequest, NotFound


def test_the_default_workspace_is_made_once(app: Flask) -> None:
    first = workspaces.ensure_default()

    again = workspaces.ensure_default()

    assert first.id == again.id
    assert (first.slug, first.is_default) == ("default", True)
    assert workspaces.by_slug("default").id == first.id


@pytest.mark.parametrize("slug", ["", "Story", "a b", "ä", "x" * 65, "a_b"])
def test_a_slug_that_peers_could_not_write_is_refused(app: Flask, slug: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        workspaces.create(slug)

    assert caught.value.errors[0].pointer == "/slug"


def test_a_slug_is_taken_once(app: Flask) -> None:
    workspaces.create("story", "The story")

    with pytest.raises(InvalidRequest, match="already"):
        workspaces.create("story")

    assert [row.name for row in workspaces.list_workspaces()] == ["The story"]


def test_an_unknown_workspace_is_not_found(app: Flask) -> None:
    with pytest.raises(NotFound):
        workspaces.by_slug("nowhere")


def test_a_user_gets_a_password_that_matches_and_is_not_kept(app: Flask) -> None:
    place = workspaces.ensure_default()

    user, password = users.create(" Maria@Example.ORG ", workspace_id=place.id)

    assert user.email == "maria@example.org"
    assert user.password_hash.startswith("$argon2id$")
    assert password not in user.password_hash
    assert users.password_matches(user, password)
    assert not users.password_matches(user, password + "x")
    assert users.first_owner(place.id) is user


def test_an_operator_is_no_owner(app: Flask) -> None:
    place = workspaces.ensure_default()

    users.create("maria@example.org", "correct horse battery", workspace_id=place.id, role=Role.OPERATOR)

    assert users.first_owner(place.id) is None


@pytest.mark.parametrize(
    ("email", "password", "pointer"),
    [
        ("maria", None, "/email"),
        ("a b@c", None, "/email"),
        ("@", None, "/email"),
        ("a@b.c", "short", "/password"),
    ],
)
def test_a_user_without_sense_is_not_made(app: Flask, email: str, password: str | None, pointer: str) -> None:
    place = workspaces.ensure_default()

    with pytest.raises(InvalidRequest) as caught:
        users.create(email, password, workspace_id=place.id)

    assert caught.value.errors[0].pointer == pointer


def test_an_address_is_taken_once_in_whatever_case(app: Flask) -> None:
    place = workspaces.ensure_default()
    users.create("maria@example.org", workspace_id=place.id)

    with pytest.raises(InvalidRequest, match="already"):
        users.create("MARIA@example.org", workspace_id=place.id)
