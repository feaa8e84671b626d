"""Nonsense at every door: each rule of the app, called with what nobody sends who means well.

The rules are read from the app itself, and so are the names that each reads of its query or form, so that
what is new is tried too. Whatever comes: no answer is a 500; the API tells problems, and the console pages;
what is refused leaves the database as it was; and the log has neither a fault nor a secret.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
import sqlalchemy as sa
from flask import Request
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from app import clock
from app.access import tokens, workspaces
from app.access.tokens import Scope
from app.config import ROOT
from app.database import db, transaction
from app.federation import connections, identity
from app.models import Direction, OperationKind, Role, SigningKey
from app.outbox import operations
from app.outbox.dead_letters import DeliveryFilter
from app.outbox.publish import NewEvent, publish_events
from app.web.api.routes import api
from app.web.console import PAGES
from app.web.console.headers import is_page
from tests import engines
from tests.exchange import make_scene, subscribe
from tests.security.conftest import SECRET_KEY, Victim, start_victim
from tests.security.test_access import logs
from tests.web.console.conftest import Console, make_user

#: Stands in whatever is sent that may be a secret.
MARKER = "hush-hush-4711"

NOWHERE = "00000000-0000-4000-8000-000000000000"

#: Ids that nobody has, and texts that are none, percent-encoded.
NO_IDS = (NOWHERE, "-1", "1" + "0" * 30, "%00", "%ED%A0%80", "..%2F..%2Fx")

#: What stands in a query or a form.
VALUES = (
    b"-1",
    b"1" + b"0" * 30,
    b"a\x00b",
    b"\xed\xa0\x80\xff",
    b"' OR 1=1 -- <script>",
    b"9999-12-31T23:59:59Z",
    MARKER.encode(),
    b"[" * 600,
    "\N{PILE OF POO}".encode() * 1500,
)

BODIES = (
    b"",
    b"{",
    b"\x00\xff\xfe",
    b"null",
    b"[]",
    b'"' + MARKER.encode() + b'"',
    b"1e999",
    b"[" * 5000,
    b'{"a":1,"a":2}',
    b'{"payload":"\\ud800","eventType":"\\u0000"}',
    b'{"limit":1' + b"0" * 30 + b"}",
    b'{"\xed\xa0\x80":1}',
)

MEDIA_TYPES = (
    "",
    "x",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "application/json; charset=utf-16",
)

#: Codes that the reference tells.
DOCUMENTED = frozenset(re.findall(r"\| `(\w+)`", (ROOT / "docs/reference/errors.md").read_text()))

#: What whoever is signed in may post, and who is not.
EVERYBODYS = frozenset(
    {
        "account.password",
        "account.sign_out_elsewhere",
        "preferences.choose",
        "session.link",
        "session.login",
        "session.logout",
        "setup.owner",
    }
)
#: They end the sign-ins that the others need, and read no field.
_ENDS_SIGN_INS = frozenset({"session.logout", "account.sign_out_elsewhere"})

#: Answers that are files, or tell whether all is well.
_OTHERS = frozenset({"static", "bootstrap.static", "ops.readyz", "pictures.icons"})

#: Pages that nobody needs to be signed in for.
_OPEN_PAGES = frozenset({"session.login", "session.link", "status.show"})

#: Arguments of rules that name nothing of one workspace.
_SHARED = frozenset({"workspace", "kind", "act", "key_id", "name", "job_id"})

_NEED_A_BODY = frozenset(f"api.{one.name}" for one in api.operations if one.body_required)
_PAGES = frozenset(blueprint.name for blueprint in PAGES)
_PREFIX = "/api/v1/federation"


class _Noting(ImmutableMultiDict[str, str]):
    """Values of a query or form that note which names are asked for."""

    names: set[str] = set()  # noqa: RUF012 - of all requests

    def __getitem__(self, key: str) -> str:
        self.names.add(key)
        return super().__getitem__(key)

    def get(self, key: str, *more: Any, **named: Any) -> Any:
        self.names.add(key)
        return super().get(key, *more, **named)

    def getlist(self, key: str, *more: Any, **named: Any) -> Any:
        self.names.add(key)
        return super().getlist(key, *more, **named)


class _NotingRequest(Request):
    parameter_storage_class = _Noting


@dataclass
class Place:
    """A workspace: one of each thing that has an id, by its name in rules, and two tokens."""

    ids: dict[str, str]
    #: May do everything.
    admin: str
    #: May read events.
    reader: str


@dataclass
class House:
    """An instance with two workspaces, and browsers of people in the first."""

    victim: Victim
    mine: Place
    other: Place
    browsers: dict[Role, Console]
    watch: sqlite3.Connection

    def rules(self, method: str) -> list[Rule]:
        """The rules that take this method."""
        found = [rule for rule in self.victim.app.url_map.iter_rules() if method in (rule.methods or ())]
        return [rule for rule in found if rule.endpoint not in _OTHERS]

    def version(self) -> int:
        """A number that is another one after anything was written to the database."""
        return int(self.watch.execute("PRAGMA data_version").fetchone()[0])

    @contextmanager
    def untouched(self, what: str) -> Iterator[None]:
        """Fail if anything is written to the database."""
        before = self.version()
        yield
        assert self.version() == before, f"written by {what}"

    def call(self, method: str, path: str, token: str | None = None, **sent: Any) -> TestResponse:
        """A call without a browser; the answer is looked at."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = self.victim.app.test_client()
        return _looked_at(client.open(path, method=method, headers=headers, **sent), method, path)

    def browse(self, role: Role, method: str, path: str, form: str = "") -> TestResponse:
        """A call of somebody who is signed in, from a page of ours; the answer is looked at."""
        console = self.browsers[role]
        sent: dict[str, Any] = {}
        if method == "POST":
            sent["data"] = f"csrf_token={console.csrf_token()}&{form}"
            sent["content_type"] = "application/x-www-form-urlencoded"
        return _looked_at(console.client.open(path, method=method, **sent), method, path)

    def open(self, rule: Rule, method: str, path: str) -> TestResponse:
        """A call by who may do everything, with nothing in it."""
        if not is_api(rule):
            return self.browse(Role.OWNER, method, path)
        return self.call(method, path, self.mine.admin, **({"json": {}} if method == "POST" else {}))

    def secrets(self) -> list[str]:
        """What no log may show."""
        found = [SECRET_KEY, MARKER]
        for key in self.victim.rows(SigningKey):
            found += self.victim.do(identity.unsealed, key).splitlines()[1:-1]
        found += [secret for place in (self.mine, self.other) for secret in (place.admin, place.reader)]
        for console in self.browsers.values():
            with console.client.session_transaction() as session:
                found += [str(value) for value in session.values()]
        return found


def _looked_at(answer: TestResponse, method: str, path: str) -> TestResponse:
    """The answer. It is never a 500; and if it is a refusal, it has all that belongs to one."""
    what = f"{method} {path[:200]}: {answer.status_code} {answer.text[:300]}"
    assert answer.status_code < 500, what
    if answer.status_code >= 400 and is_page(path.partition("?")[0]):
        assert answer.mimetype == "text/html", what
        assert "</html>" in answer.text, what
    elif answer.status_code >= 400:
        assert answer.mimetype == "application/problem+json", what
        assert answer.json["status"] == answer.status_code, what
        assert answer.json["code"] in DOCUMENTED, what
        assert answer.json["requestId"] == answer.headers["X-Request-Id"], what
    return answer


def path_of(rule: Rule, ids: dict[str, str]) -> str:
    """A path of the rule with these ids in it."""
    path = re.sub(r"<any\((\w+)[^>]*>", r"\1", rule.rule)
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda found: ids.get(found[1], NOWHERE), path)


def is_api(rule: Rule) -> bool:
    """Whether a token opens it."""
    return rule.endpoint.startswith("api.")


def has_pages(rule: Rule) -> bool:
    """Whether it is one of the console's."""
    return rule.endpoint.partition(".")[0] in _PAGES


def make_place() -> Place:
    """A workspace in the current app."""
    scene = make_scene()
    with transaction():
        scene.connection.checked_at = clock.now_ms()
    workspace = scene.workspace
    subscribe(scene.connection)
    subscription = subscribe(scene.connection, direction=Direction.INCOMING)
    [event] = publish_events(workspace.id, [NewEvent("task.created", {"text": MARKER})])
    operation = operations.start(workspace.id, OperationKind.RETRY, DeliveryFilter("pending"))
    ids = {
        "workspace": workspace.slug,
        "connection_id": scene.connection.public_id,
        "message_id": event.message_id,
        "subscription_id": subscription.public_id,
        "operation_id": operation.public_id,
        "token_id": tokens.create(workspace.id, "shown", (Scope.EVENTS_READ,))[0].public_id,
        "user_id": make_user(Role.OPERATOR, workspace).public_id,
        "key_id": str(db.session.scalar(sa.select(SigningKey.key_id))),
    }
    return Place(
        ids,
        tokens.create(workspace.id, "admin", (Scope.ADMIN,))[1],
        tokens.create(workspace.id, "reader", (Scope.EVENTS_READ,))[1],
    )


@pytest.fixture(scope="module")
def house(
    sqlite_template: Path, valkey: engines.Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """An instance with two workspaces. Its clock stands still: nothing is written because time goes by."""
    folder = tmp_path_factory.mktemp("house")
    with (
        clock.frozen_at(clock.now_ms()),
        start_victim(folder, sqlite_template, valkey.fresh_url()) as victim,
        closing(sqlite3.connect(folder / "tidings.db")) as watch,
    ):
        victim.app.request_class = _NotingRequest
        with victim.app.app_context():
            mine, other = make_place(), make_place()
            workspace = workspaces.by_slug(mine.ids["workspace"])
            browsers = {role: Console(victim.app, victim.app.test_client()) for role in Role}
            for role, console in browsers.items():
                console.sign_in(role, workspace)
        made = House(victim, mine, other, browsers, watch)
        for token in (mine.admin, mine.reader):
            # The first use of a token is noted.
            made.call("GET", f"{_PREFIX}/events/messages", token)
        yield made


@pytest.fixture(autouse=True)
def _the_log_tells_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What each test writes to the log has no fault and no secret."""
    monkeypatch.setattr(connections, "VERIFY_WAIT_S", 0.0)
    with logs() as stream:
        yield
    text = stream.getvalue()
    assert "http.answered" in text
    for hidden in ('"request.failed"', "database.unavailable", *house.secrets()):
        assert hidden not in text


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_is_not_signed_in_gets_nowhere(house: House, method: str) -> None:
    for rule in house.rules(method):
        path = path_of(rule, house.mine.ids)
        with house.untouched(path):
            answer = house.call(method, path)
        if is_api(rule):
            assert answer.status_code == 401, path
        elif has_pages(rule) and method == "POST":
            assert answer.status_code == 400, path
        elif has_pages(rule) and rule.endpoint not in _OPEN_PAGES:
            assert (answer.status_code, answer.headers["Location"][:6]) == (303, "/login"), path


def test_who_may_only_look_changes_nothing(house: House) -> None:
    for rule in house.rules("POST"):
        path = path_of(rule, house.mine.ids)
        with house.untouched(path):
            if is_api(rule):
                assert house.call("POST", path, house.mine.reader, json={}).status_code == 403, path
            elif has_pages(rule) and rule.endpoint not in EVERYBODYS:
                assert house.browse(Role.VIEWER, "POST", path).status_code == 403, path


@pytest.mark.parametrize("whose", ["somebody else's", "nobody's"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_id_that_is_not_ours_names_nothing(house: House, method: str, whose: str) -> None:
    for rule in house.rules(method):
        own = rule.arguments - _SHARED
        foreign = [house.other.ids] if whose == "somebody else's" else [dict.fromkeys(own, i) for i in NO_IDS]
        for ids in foreign if own else ():
            path = path_of(rule, house.mine.ids | {name: ids[name] for name in own if name in ids})
            with house.untouched(path):
                answer = house.open(rule, method, path)
            # Who was removed before is no member now, as was wanted. Links are tried so many times a minute.
            others = {"members.remove": 303, "session.link": 429}
            assert answer.status_code in (404, others.get(rule.endpoint)), path


def test_a_query_of_nonsense_is_refused_or_passed_over(house: House) -> None:
    for rule in house.rules("GET"):
        path = path_of(rule, house.mine.ids)
        for query, value in _nonsense(_names_in_query(house, rule, path)):
            with house.untouched(path):
                answer = house.open(rule, "GET", f"{path}?{query}")
            assert answer.status_code == 400 or b"\0" not in value, (path, query)


def test_a_body_of_nonsense_is_refused(house: House) -> None:
    bodies = [(body, "application/json") for body in BODIES] + [(b'{"a":1}', kind) for kind in MEDIA_TYPES]
    for rule in house.rules("POST"):
        path = path_of(rule, house.mine.ids)
        # A call that needs no body does without one what it is for.
        least = 1 if is_api(rule) and rule.endpoint not in _NEED_A_BODY else 0
        for body, kind in bodies if not has_pages(rule) else ():
            if len(body) >= least:
                with house.untouched(path):
                    answer = house.call("POST", path, house.mine.admin, data=body, content_type=kind)
                assert answer.status_code >= 400, (path, body, kind)


def test_a_form_of_nonsense_does_nothing_or_what_it_is_for(house: House) -> None:
    for rule in house.rules("POST"):
        path = path_of(rule, house.mine.ids)
        if has_pages(rule) and rule.endpoint not in _ENDS_SIGN_INS:
            for form, value in _nonsense(_names_in_form(house, path)):
                before = house.version()
                answer = house.browse(Role.OWNER, "POST", path, form)
                assert answer.status_code == 400 or b"\0" not in value, (path, form)
                assert answer.status_code == 303 or house.version() == before, (path, form)


def _names_in_query(house: House, rule: Rule, path: str) -> set[str]:
    """The query parameters that the rule knows, as far as a call without any shows."""
    declared = next((one.query for one in api.operations if f"api.{one.name}" == rule.endpoint), None)
    if declared is not None:
        return {str(field.alias or name) for name, field in declared.model_fields.items()}
    _Noting.names.clear()
    house.open(rule, "GET", path)
    return _Noting.names - {"csrf_token"} or {"colour"}


def _names_in_form(house: House, path: str) -> set[str]:
    _Noting.names.clear()
    house.browse(Role.OWNER, "POST", path)
    return _Noting.names - {"csrf_token"}


def _nonsense(names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Queries or forms: each value under all names at once, and each name alone with some of the values."""
    texts = [(quote_from_bytes(value), value) for value in VALUES]
    for text, value in texts if names else ():
        yield "&".join(f"{name}={text}" for name in sorted(names)), value
    turns = cycle(texts)
    for name in sorted(names):
        for text, value in islice(turns, 2):
            yield f"{name}={text}", value
