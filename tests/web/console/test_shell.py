"""The frame of every page: what stands around it, what it carries, and how errors are told."""

import gzip

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import settings
from app.federation import identity
from app.models import Role
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from app.web import console as console_package
from app.web.console import gate, words
from tests.conftest import MakeApp
from tests.web.console.conftest import Console, read

HOSTILE = '"><script>alert(1)</script>\u202e<img src=x onerror=alert(2)>'


def test_the_front_door_leads_to_the_workspace(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    answer = console.get("/")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/w/default/")


def test_whoever_is_not_signed_in_is_led_to_the_sign_in_page_and_back(console: Console) -> None:
    console.sign_in()
    console.post("/logout")

    answer = console.get("members", a="b c")

    assert answer.headers["Location"] == "/login?next=%2Fw%2Fdefault%2Fmembers%3Fa%3Db%2Bc"


def test_every_page_of_the_rail_comes(console: Console) -> None:
    identity.forget()
    identity.ensure_identity(settings())
    console.sign_in(Role.OWNER)
    rail = [str(tag["href"]) for tag in console.page("members").all(".rail a.nav-item")]

    pages = {path: console.page(path) for path in rail}

    assert len(rail) == 13
    assert {path: page.status for path, page in pages.items() if page.status != 200} == {}
    assert [path for path, page in pages.items() if not page.all('.rail [aria-current="page"]')] == []


def test_the_instance_the_label_and_the_workspace_are_always_there(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    page = console.page("members")

    assert page.texts(".instance-name") == ["Test"]
    assert page.texts(".topbar .env") == ["LOCAL"]
    assert "default" in page.texts(".workspace > summary")[0]


def test_a_path_that_is_none_is_a_page_with_the_request_id(console: Console) -> None:
    console.sign_in()

    page = console.page("nowhere")

    assert page.status == 404
    assert page.title == "There is nothing here"
    assert page.answer.headers["X-Request-Id"] in page.text


def test_a_fault_is_told_without_a_word_of_it(
    console: Console, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.sign_in()
    monkeypatch.setitem(app.view_functions, "members.list_", _fails)

    page = console.page("members")

    assert page.status == 500
    assert page.title == "This page could not be made"
    assert page.answer.headers["X-Request-Id"] in page.text
    assert "RuntimeError" not in page.answer.text
    assert "the very secret" not in page.answer.text


def _fails(**_arguments: object) -> str:
    raise RuntimeError("the very secret")


def test_a_database_that_is_away_is_told_as_such(make_app: MakeApp) -> None:
    app = make_app(DATABASE_URL="postgresql+psycopg://ann:hush-hush@127.0.0.1:1/tidings")
    with app.app_context():
        console = Console(app, app.test_client())

        page, status = console.page("/login"), console.page("/status")

    assert page.status == 503
    assert page.title == "Something that this page needs does not answer"
    assert "The database does not answer" in page.text
    assert page.answer.headers["X-Request-Id"] in page.text
    assert "hush-hush" not in page.answer.text
    assert "This instance is not ready" in status.text


def test_while_redis_is_away_pages_come_from_the_database(make_app: MakeApp) -> None:
    app = make_app(REDIS_URL="redis://127.0.0.1:1/0")
    with app.app_context():
        console = Console(app, app.test_client())
        console.sign_in(Role.VIEWER)

        members, status = console.page("members"), console.page("/status")

    assert (members.status, status.status) == (200, 200)
    assert {row[0]: row[1] for row in status.rows()}["redis"] == "fails"


@pytest.mark.parametrize("path", ["/logout", "/preferences", "/login", "/setup", "/w/default/members/invite"])
def test_a_post_without_the_token_against_forgery_is_refused(console: Console, path: str) -> None:
    console.sign_in(Role.OWNER)

    page = read(console.client.post(path, data={"email": "new@test.example", "role": "viewer"}))

    assert page.status == 400
    assert "Open the page again" in page.text
    assert console.get("members").status_code == 200


def test_every_page_of_the_console_is_behind_the_token_against_forgery(app: Flask) -> None:
    exempt = {"static", "bootstrap", "pictures"} | {
        name for name in app.blueprints if name.startswith(("api", "peer")) or name == "ops"
    }

    unguarded = set(app.blueprints) - exempt - {page.name for page in console_package.PAGES}

    assert unguarded == set()


def test_the_api_asks_for_no_such_token(client: FlaskClient) -> None:
    answer = client.post("/api/v1/federation/events/publish", json={})

    assert answer.status_code == 401


def test_preferences_are_kept_in_cookies_and_rendered(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    for name, value in (("theme", "dark"), ("density", "compact"), ("times", "local"), ("keys", "off")):
        console.post("/preferences", {name: value, "next": "/w/default/members"})
    page = console.page("members")

    assert page.one("html")["data-bs-theme"] == "dark"
    assert page.one("html")["data-density"] == "compact"
    assert page.one("html")["data-times"] == "local"
    assert page.texts('.user [aria-pressed="true"]') == ["Dark", "Local", "28 px", "Off"]


def test_a_preference_that_is_none_is_not_kept(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    answer = console.post("/preferences", theme=HOSTILE, next="//evil.example")

    assert answer.headers["Location"] == "/"
    assert [line for line in answer.headers.getlist("Set-Cookie") if line.startswith("theme")] == []


def test_without_scripts_a_page_can_refresh_itself(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    page = console.page("members", refresh=10)

    assert page.one("meta[http-equiv=refresh]")["content"] == "10"
    assert page.link("Every 5 seconds") == "/w/default/members?refresh=5"


def test_pages_are_not_kept_in_caches_and_load_nothing_from_elsewhere(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    page = console.page("members")

    assert page.answer.headers["Cache-Control"] == "no-store"
    assert page.answer.headers["X-Frame-Options"] == "DENY"
    loaded = [str(tag.get("src") or tag.get("href")) for tag in page.all("script, link, img, use")]
    assert loaded
    assert all(url.startswith("/") and not url.startswith("//") for url in loaded)


def test_what_a_page_loads_is_there(console: Console) -> None:
    console.sign_in(Role.VIEWER)
    page = console.page("members")

    for tag in page.all("script[src], link[href]"):
        answer = console.client.get(str(tag.get("src") or tag.get("href")))
        assert answer.status_code == 200
        assert "max-age=31536000" in answer.headers["Cache-Control"]
        answer.close()
    sprite = console.client.get(str(page.one("use")["href"]).partition("#")[0])
    assert (sprite.status_code, sprite.mimetype) == (200, "image/svg+xml")
    assert len(sprite.data) < 60_000


def test_a_first_visit_is_light(console: Console) -> None:
    console.sign_in(Role.VIEWER)
    page = console.page("members")
    ours = [str(tag.get("src") or tag.get("href")) for tag in page.all("script[src], link[href]")]
    ours.append(str(page.one("use")["href"]).partition("#")[0])

    weight = len(page.answer.data)
    for url in ours:
        answer = console.client.get(url, headers={"Accept-Encoding": "gzip"})
        if "bootstrap" not in url:
            weight += len(answer.data)
        with console.client.get(url) as plain:
            assert gzip.decompress(answer.data) == plain.data
        assert answer.headers["Vary"] == "Accept-Encoding"

    assert weight < 60_000


def test_a_hostile_name_of_the_instance_is_text(make_app: MakeApp) -> None:
    app = make_app(INSTANCE_NAME=HOSTILE.replace("\u202e", ""))
    with app.app_context():
        console = Console(app, app.test_client())
        console.sign_in(Role.VIEWER)

        page = console.page("members")

    assert page.all("script:not([src]), img") == []
    assert page.texts(".instance-name")[0].startswith('"><script>alert(1)')


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/w/default/", "/w/default/"),
        ("/a?b=c&d=%0A", "/a?b=c&d=%0A"),
        ("//host", "/"),
        ("/\\host", "/"),
        ("/\nhost", "/"),
        ("javascript:alert(1)", "/"),
        (None, "/"),
    ],
)
def test_a_way_back_is_a_path_of_ours(path: str | None, expected: str) -> None:
    assert gate.local_path(path) == expected


@pytest.mark.parametrize("states", [ConnectionStatus, SubscriptionStatus, DeliveryState])
def test_every_state_has_a_look(states: type) -> None:
    assert {state.value for state in states} <= set(words.STATES)  # type: ignore[attr-defined]
