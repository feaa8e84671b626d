"""What tests of pages stand on: a console that signs in, gets and posts, and pages read by their elements.

Pages are read with Beautiful Soup. Every page that comes is checked on the way: one h1, no inline script or
style, only icons that the sprite has, labels on all fields.
"""

import re
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from flask import Flask, g
from flask.testing import FlaskClient
from itsdangerous import URLSafeTimedSerializer
from werkzeug.test import TestResponse

from app.access import sessions, workspaces
from app.clock import now_ms
from app.database import db, transaction
from app.models import Member, Role, User, Workspace
from app.web.console import gate, pictures


@dataclass
class Page:
    """An answer of the console, and its document."""

    answer: TestResponse
    document: BeautifulSoup

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.answer.status_code

    @property
    def text(self) -> str:
        """What people read in <main>, with single spaces."""
        return words_of(self.document.main or self.document)

    @property
    def title(self) -> str:
        """The h1."""
        return words_of(self.one("h1"))

    def all(self, selector: str) -> list[Tag]:
        """All elements that a CSS selector finds."""
        return list(self.document.select(selector))

    def one(self, selector: str) -> Tag:
        """The first element that a CSS selector finds; fails if there is none."""
        found = self.document.select_one(selector)
        assert found is not None, f"no {selector} in: {self.text[:500]}"
        return found

    def texts(self, selector: str) -> list[str]:
        """The words of all elements that a CSS selector finds."""
        return [words_of(tag) for tag in self.all(selector)]

    def rows(self, table: str = "table") -> list[list[str]]:
        """The words of each cell of each row in the body of a table."""
        return [
            [words_of(cell) for cell in row.select("th, td")] for row in self.one(table).select("tbody tr")
        ]

    def link(self, words: str) -> str:
        """Where the first link with these words leads."""
        for tag in self.document.select("a[href]"):
            if words_of(tag).startswith(words):
                return str(tag["href"])
        raise AssertionError(f"no link {words!r} in: {self.text[:500]}")

    def fields(self, action: str | None = None) -> dict[str, Any]:
        """Names and values of a form's fields as a browser would send them; the first POST form in <main>."""
        form = self.one(f'form[action="{action}"]' if action else 'main form[method="post"]')
        return _values(form)

    def is_disabled(self, words: str) -> bool:
        """Whether the button with these words is there but cannot be used."""
        found = [tag for tag in self.document.select("button, a.btn") if words_of(tag).startswith(words)]
        assert found, f"no button {words!r} in: {self.text[:500]}"
        return all(tag.get("aria-disabled") == "true" or tag.has_attr("disabled") for tag in found)


def words_of(tag: Tag) -> str:
    """The words in an element, with single spaces."""
    return " ".join(tag.get_text(" ").split())


@dataclass
class Console:
    """A browser without scripts at the console of `app`."""

    app: Flask
    client: FlaskClient
    user: User | None = None
    _made: dict[str, Workspace] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        """The default workspace."""
        if "default" not in self._made:
            self._made["default"] = workspaces.ensure_default()
        return self._made["default"]

    def sign_in(self, role: Role | str = Role.OWNER, workspace: Workspace | None = None) -> User:
        """Be somebody new with this role in the workspace (the default one), without typing a password."""
        self.user = make_user(role, workspace or self.workspace)
        self.become(self.user)
        return self.user

    def become(self, user: User) -> None:
        """Be this user."""
        secret = sessions.begin(user.id, "127.0.0.1", "test")
        with self.client.session_transaction() as session:
            session[gate.SESSION_KEY] = secret

    def get(self, path: str, **query: Any) -> TestResponse:
        """GET; a path without a slash at its beginning is below /w/default/."""
        _forget()
        return self.client.get(self._url(path), query_string=query or None)

    def page(self, path: str, **query: Any) -> Page:
        """GET, and read what came."""
        return read(self.get(path, **query))

    def post(self, path: str, data: dict[str, Any] | None = None, **more: Any) -> TestResponse:
        """POST with a good token against forgery, which is fetched first."""
        _forget()
        fields = {"csrf_token": self.csrf_token(), **(data or {}), **more}
        return self.client.post(self._url(path), data=fields)

    def post_page(self, path: str, data: dict[str, Any] | None = None, **more: Any) -> Page:
        """POST, and read what came."""
        return read(self.post(path, data, **more))

    def follow(self, answer: TestResponse) -> Page:
        """Where a redirect leads."""
        assert answer.status_code == 303, (answer.status_code, answer.text[:500])
        return self.page(answer.headers["Location"])

    def follow_or_read(self, answer: TestResponse) -> Page:
        """Where a redirect leads, or the page that came instead of one."""
        return self.follow(answer) if answer.status_code == 303 else read(answer)

    def csrf_token(self) -> str:
        """The token that a page would give this browser."""
        with self.client.session_transaction() as session:
            raw = session.setdefault("csrf_token", secrets.token_hex(20))
        return str(URLSafeTimedSerializer(self.app.secret_key, salt="wtf-csrf-token").dumps(raw))

    def _url(self, path: str) -> str:
        return path if path.startswith("/") else f"/w/{self.workspace.slug}/{path}"


def _forget() -> None:
    """The test's own app context outlives its requests: what Flask-WTF keeps for one is not for the next."""
    for name in ("csrf_token", "csrf_valid"):
        g.pop(name, None)


def make_user(role: Role | str, workspace: Workspace) -> User:
    """A user who cannot sign in by password, which would take long to hash."""
    user = User(
        public_id=str(uuid.uuid4()),
        email=f"{Role(role).value}-{uuid.uuid4().hex[:8]}@test.example",
        password_hash="",
        created_at=now_ms(),
    )
    with transaction():
        db.session.add(user)
        db.session.flush()
        db.session.add(Member(user_id=user.id, workspace_id=workspace.id, role=Role(role)))
    return user


def read(answer: TestResponse) -> Page:
    """The page of an answer, once it holds what every page must hold."""
    document = BeautifulSoup(answer.text, "html.parser")
    check_page(answer, document)
    return Page(answer, document)


def check_page(answer: TestResponse, document: BeautifulSoup) -> None:
    """What every page must hold."""
    assert answer.mimetype == "text/html", (answer.status_code, answer.text[:300])
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert len(document.select("h1")) == 1, f"{len(document.select('h1'))} h1"
    assert document.select("script:not([src]), style, [style]") == []
    handlers = [tag for tag in document.find_all(True) if any(name.startswith("on") for name in tag.attrs)]
    assert handlers == []
    have = set(re.findall(r'id="([a-z0-9-]+)"', pictures.sprite().decode()))
    used = {str(tag["href"]).partition("#")[2] for tag in document.select("use[href]")}
    assert used <= have, f"icons that are not cut: {used - have}"
    ids = [str(tag["id"]) for tag in document.select("[id]")]
    assert len(ids) == len(set(ids)), f"ids that are there twice: {[i for i in ids if ids.count(i) > 1]}"
    for form in document.select('form[method="post"]'):
        assert form.select("input[name=csrf_token]"), f"no token against forgery: {str(form)[:200]}"
    for control in document.select("input, select, textarea"):
        if control.get("type") in ("hidden", "submit"):
            continue
        named = control.get("aria-label") or control.get("aria-labelledby")
        labelled = control.get("id") and document.select(f'label[for="{control["id"]}"]')
        assert named or labelled or control.find_parent("label"), f"no label: {control}"


def _values(form: Tag) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for control in form.select("input[name], select[name], textarea[name]"):
        name = str(control["name"])
        if control.name == "select":
            chosen = control.select("option[selected]") or control.select("option")[:1]
            if chosen:
                values[name] = str(chosen[0].get("value", chosen[0].get_text()))
        elif control.get("type") in ("checkbox", "radio"):
            if control.has_attr("checked"):
                values.setdefault(name, []).append(str(control.get("value", "on")))
        else:
            values[name] = control.get_text() if control.name == "textarea" else str(control.get("value", ""))
    return values


@pytest.fixture
def engine() -> str:
    """Pages are the same on both engines; what they ask of the database is tested below tests/reports."""
    return "sqlite"


@pytest.fixture
def console(app: Flask, client: FlaskClient) -> Console:
    """A browser at the console; nobody is signed in yet."""
    return Console(app, client)
