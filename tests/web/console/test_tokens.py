"""API tokens: shown once, made once, and ended after a look at their last use."""

import pytest

from app.access import tokens, workspaces
from app.models import Role
from tests.web.console.conftest import Console, Page


def make(console: Console, **fields: object) -> Page:
    """Fill the form and send it."""
    form = console.page("tokens/new").fields()
    return console.follow(
        console.post("tokens/new", form | {"name": "erp", "scopes": ["events:read"]} | fields)
    )


def test_a_token_is_shown_once_and_works(console: Console) -> None:
    console.sign_in(Role.ADMIN)

    page = make(console)
    secret = page.texts("#secret")[0]
    [row] = tokens.list_tokens(console.workspace.id)
    again = console.page(f"tokens/{row.public_id}")

    bearer = tokens.find(secret)
    assert bearer is not None
    assert bearer.scopes == {"events:read"}
    assert page.title == "Token created"
    assert "only time it is shown" in page.text
    assert secret not in again.answer.text
    assert again.title == "erp"


def test_a_form_that_is_sent_twice_makes_one_token(console: Console) -> None:
    console.sign_in(Role.ADMIN)
    form = console.page("tokens/new").fields() | {"name": "erp", "scopes": ["events:read"]}

    first = console.post("tokens/new", form)
    second = console.post("tokens/new", form)

    assert first.headers["Location"] == second.headers["Location"]
    assert len(tokens.list_tokens(console.workspace.id)) == 1


def test_a_token_without_scope_is_refused_and_the_name_is_kept(console: Console) -> None:
    console.sign_in(Role.ADMIN)

    page = console.post_page("tokens/new", console.page("tokens/new").fields(), name="erp")

    assert page.status == 422
    assert page.one("#name")["value"] == "erp"
    assert "name at least one scope" in page.texts("#scopes-error")[0].lower()
    assert tokens.list_tokens(console.workspace.id) == []


def test_a_scope_that_is_none_is_refused(console: Console) -> None:
    console.sign_in(Role.ADMIN)

    page = console.post_page("tokens/new", console.page("tokens/new").fields(), name="erp", scopes=["all"])

    assert page.status == 422
    assert tokens.list_tokens(console.workspace.id) == []


def test_revoking_asks_first_and_says_when_it_was_last_used(console: Console) -> None:
    row, secret = tokens.create(console.workspace.id, "erp")
    tokens.find(secret)
    console.sign_in(Role.ADMIN)

    asked = console.page(f"tokens/{row.public_id}/revoke")
    done = console.follow(console.post(f"tokens/{row.public_id}/revoke", asked.fields()))

    assert asked.title == "Revoke erp?"
    assert "Last used 0 s ago" in asked.text
    assert "erp is revoked." in done.text
    assert tokens.find(secret) is None


def test_the_list_tells_what_each_may_do(console: Console) -> None:
    tokens.create(console.workspace.id, "erp", ["events:publish", "events:read"])
    console.sign_in(Role.VIEWER)

    page = console.page("tokens")

    [row] = page.rows()
    assert row[0] == "erp"
    assert row[2] == "events:publish, events:read"
    assert row[4] == "never"
    assert page.is_disabled("New token")


def test_no_tokens_is_said_with_what_they_are_for(console: Console) -> None:
    console.sign_in(Role.ADMIN)

    page = console.page("tokens")

    assert "No tokens yet" in page.text
    assert page.link("New token") == "/w/default/tokens/new"


@pytest.mark.parametrize("path", ["tokens/new", "tokens/{}/revoke"])
def test_an_operator_may_not(console: Console, path: str) -> None:
    row, secret = tokens.create(console.workspace.id, "erp")
    console.sign_in(Role.OPERATOR)

    answer = console.post(path.format(row.public_id), name="x", scopes=["admin"])

    assert answer.status_code == 403
    assert tokens.find(secret) is not None
    assert len(tokens.list_tokens(console.workspace.id)) == 1


def test_a_token_of_another_workspace_is_not_found(console: Console) -> None:
    row, secret = tokens.create(workspaces.create("other").id, "theirs")
    console.sign_in(Role.OWNER)

    seen = console.get(f"tokens/{row.public_id}")
    revoked = console.post(f"tokens/{row.public_id}/revoke")

    assert (seen.status_code, revoked.status_code) == (404, 404)
    assert tokens.find(secret) is not None
