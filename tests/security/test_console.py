"""Attacks on who sits at the console: by a session that was planted, and by forms of other sites."""

import re

import pytest
from flask.testing import FlaskClient

from app.access import users
from app.models import Role, SignIn
from app.web.console import PAGES
from tests.security.conftest import Victim
from tests.security.test_access import MakeVictim

EMAIL, PASSWORD = "ann@test.example", "correct horse battery"

#: What looking at a page writes.
LOOKED = ("sign_in.last_seen_at",)


@pytest.fixture
def victim(make_victim: MakeVictim) -> Victim:
    """An instance with an owner."""
    made = make_victim()
    made.do(users.create, EMAIL, PASSWORD, workspace_id=made.workspace_id(), role=Role.OWNER)
    return made


def sign_in(browser: FlaskClient) -> None:
    """As a person does it: by the form."""
    token = token_of(browser, "/login")
    answer = browser.post("/login", data={"csrf_token": token, "email": EMAIL, "password": PASSWORD})
    assert answer.status_code == 303


def token_of(browser: FlaskClient, path: str) -> str:
    """The token against forgery in a page's form."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get(path).text)
    assert found is not None
    return found[1]


def filled(rule: str) -> str:
    """A path that the rule matches."""
    rule = re.sub(r"<any\((\w+)[^>]*>", r"\1", rule)
    rule = re.sub("<uuid:[^>]*>", "00000000-0000-4000-8000-000000000000", rule)
    return re.sub("<[^>]*>", "default", rule)


def cookie_name(victim: Victim) -> str:
    """Of the session."""
    return str(victim.app.config["SESSION_COOKIE_NAME"])


def test_a_session_that_was_planted_is_worth_nothing_after_the_sign_in(victim: Victim) -> None:
    name = cookie_name(victim)
    attacker, browser = victim.app.test_client(), victim.app.test_client()
    forged_token = token_of(attacker, "/login")
    planted = attacker.get_cookie(name)
    assert planted is not None
    browser.set_cookie(name, planted.value)

    sign_in(browser)

    with victim.unchanged(*LOOKED):
        seen = attacker.get("/w/default/members")
        acted = browser.post("/w/default/tokens/new", data={"csrf_token": forged_token, "name": "x"})
    own = browser.get_cookie(name)
    assert own is not None
    assert own.value != planted.value
    assert (seen.status_code, seen.headers["Location"][:7]) == (303, "/login?")
    assert acted.status_code == 400
    assert browser.get("/w/default/members").status_code == 200
    assert len(victim.rows(SignIn)) == 1


def test_a_form_of_another_site_does_nothing(victim: Victim) -> None:
    browser, stranger = victim.app.test_client(), victim.app.test_client()
    sign_in(browser)
    of_a_stranger = token_of(stranger, "/login")
    paths = {
        filled(rule.rule)
        for rule in victim.app.url_map.iter_rules()
        if "POST" in (rule.methods or ()) and rule.endpoint.partition(".")[0] in {page.name for page in PAGES}
    }

    with victim.unchanged(*LOOKED):
        statuses = {
            browser.post(path, data={"email": "eve@test.example", "role": "owner", **forged}).status_code
            for path in sorted(paths)
            for forged in ({}, {"csrf_token": of_a_stranger}, {"csrf_token": "rubbish"})
        }

    assert len(paths) > 10
    assert statuses == {400}
