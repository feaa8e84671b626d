"""The first start: whoever holds the token of the log owns the instance, and nobody else."""

import pytest
from flask import Flask

from app.access import setup, users
from app.config import settings
from app.federation import identity
from app.models import Role
from tests.web.console.conftest import Console

FIELDS = {"email": "ann@test.example", "password": "correct horse battery"}


@pytest.fixture(autouse=True)
def instance(app: Flask) -> None:
    """An identity and keys, as `flask up` makes them; and no user."""
    identity.forget()
    identity.ensure_identity(settings())


def test_without_a_user_the_front_door_and_the_sign_in_lead_to_the_set_up(console: Console) -> None:
    assert console.get("/").headers["Location"] == "/setup"
    assert console.get("/login").headers["Location"] == "/setup"


def test_the_token_of_the_log_makes_the_first_owner(console: Console) -> None:
    answer = console.post("/setup", FIELDS, token=setup.token().upper())

    assert answer.headers["Location"] == "/setup/instance"
    assert console.page("members").rows()[0][:2] == ["ann@test.example you", "owner"]
    assert users.authenticate(FIELDS["email"], FIELDS["password"]) is not None


def test_a_wrong_token_makes_nobody_and_keeps_what_was_typed(console: Console) -> None:
    page = console.post_page("/setup", FIELDS, token="aaaaa-bbbbb-ccccc-ddddd")

    assert page.status == 422
    assert "not the token that the log shows" in page.texts("#token-error")[0]
    assert page.one("#email")["value"] == FIELDS["email"]
    assert setup.is_open()


@pytest.mark.parametrize(
    ("changed", "field"), [({"password": "short"}, "password"), ({"email": "nobody"}, "email")]
)
def test_what_is_wrong_is_said_at_its_field(console: Console, changed: dict[str, str], field: str) -> None:
    page = console.post_page("/setup", {**FIELDS, **changed}, token=setup.token())

    assert page.status == 422
    assert page.all(f"#{field}-error")
    assert setup.is_open()


def test_once_there_is_a_user_the_token_is_worth_nothing(console: Console) -> None:
    console.post("/setup", FIELDS, token=setup.token())
    console.post("/logout")

    answer = console.post("/setup", email="eve@test.example", password="x" * 12, token=setup.token())

    assert answer.headers["Location"] == "/login"
    assert users.by_email("eve@test.example") is None


def test_the_steps_lead_from_name_to_key_to_the_first_connection(console: Console) -> None:
    console.sign_in(Role.OWNER)

    name = console.page("/setup/instance")
    key = console.page(name.link("Next"))
    connect = console.page(key.link("Next"))

    assert "http://127.0.0.1:5000" in name.text
    assert identity.local_instance().fingerprint in key.text.replace(" ", "")
    assert connect.link("Request a connection") == "/w/default/connections/new"


def test_an_address_that_does_not_answer_is_told_with_what_to_do(console: Console) -> None:
    console.sign_in(Role.OWNER)

    page = console.page("/setup/instance")

    assert "cannot be reached from here" in page.text
    assert "Correct BASE_URL" in page.text
