"""Getting in and out: by password, by one-time link, and never to another site."""

import re

import pytest

from app import clock, limits
from app.access import links, sessions, users
from app.models import Role, User
from app.web.console import gate
from app.web.console.session import TRIES_PER_ADDRESS
from tests.web.console.conftest import Console, make_user

PASSWORD = "correct horse battery"


@pytest.fixture
def ann(console: Console) -> User:
    """Somebody with a password."""
    user, _ = users.create(
        "Ann@Test.Example", PASSWORD, workspace_id=console.workspace.id, role=Role.OPERATOR
    )
    return user


def test_a_person_signs_in_by_password_and_is_where_they_wanted_to_be(console: Console, ann: User) -> None:
    wanted = console.get("members", a="b")
    form = console.page(wanted.headers["Location"]).fields("/login")

    answer = console.client.post("/login", data=form | {"email": "ANN@test.example", "password": PASSWORD})

    assert answer.headers["Location"] == "/w/default/members?a=b"
    assert ann.email in console.page("members").text
    [row] = console.page("/admin/audit", kind="user", actor=ann.email).rows()
    assert (row[2], row[4], row[6]) == ("user.sign_in", "how: password", "127.0.0.1")


def test_the_form_has_the_labels_and_the_button_that_scripts_look_for(console: Console, ann: User) -> None:
    page = console.page("/login")

    assert page.texts("form label") == ["Email", "Password"]
    assert page.texts("form button") == ["Sign in"]
    assert page.one("#password")["type"] == "password"


def test_a_wrong_password_and_an_unknown_address_are_told_alike(console: Console, ann: User) -> None:
    wrong = console.post_page("/login", email=ann.email, password="wrong")
    unknown = console.post_page("/login", email="bob@test.example", password="wrong")

    assert (wrong.status, unknown.status) == (422, 422)
    assert "The address or the password is wrong." in wrong.text
    assert wrong.text == unknown.text
    assert wrong.one("#email")["value"] == ann.email
    assert console.get("members").status_code == 303


def test_what_is_missing_is_said_at_the_field_and_in_the_summary(console: Console, ann: User) -> None:
    page = console.post_page("/login", email=ann.email, password="")

    assert page.status == 422
    assert page.one("#password")["aria-describedby"] == "password-error"
    assert "Type your password." in page.texts("#password-error")[0]
    assert page.texts(".error-summary li") == ["Password: Type your password."]


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "/\t/evil.example", "evil", ""]
)
def test_nobody_is_sent_to_another_site(console: Console, ann: User, target: str) -> None:
    answer = console.post("/login", email=ann.email, password=PASSWORD, next=target)

    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


def test_too_many_tries_from_one_address_are_refused_for_a_while(console: Console, ann: User) -> None:
    # As so many tries would.
    limits.check("sign-in", "127.0.0.1", TRIES_PER_ADDRESS, per_minute=TRIES_PER_ADDRESS)

    page = console.post_page("/login", email=ann.email, password=PASSWORD)

    assert page.status == 429
    assert page.title == "Too many tries"
    assert int(page.answer.headers["Retry-After"]) >= 1


def test_signing_out_ends_the_sign_in_on_this_side_too(console: Console) -> None:
    user = console.sign_in()
    with console.client.session_transaction() as session:
        kept = session[gate.SESSION_KEY]

    answer = console.post("/logout")

    assert answer.headers["Location"] == "/login"
    assert sessions.find(kept) is None
    assert sessions.list_live(user.id) == []


def test_a_sign_in_ends_when_nobody_used_it_for_a_week(console: Console) -> None:
    console.sign_in()
    assert console.get("members").status_code == 200

    clock.set_offset_ms(sessions.IDLE_MS)

    assert console.get("members").status_code == 303


def test_a_sign_in_in_use_ends_after_a_month(console: Console) -> None:
    console.sign_in()
    for day in range(0, 30, 6):
        clock.set_offset_ms(day * 86_400_000)
        assert console.get("members").status_code == 200

    clock.set_offset_ms(sessions.LONGEST_MS)

    assert console.get("members").status_code == 303


def test_a_link_signs_in_once(console: Console, ann: User) -> None:
    url = links.url(links.create(ann.id))
    path = url.removeprefix("http://127.0.0.1:5000")
    form = console.page(path)

    first = console.post(path, form.fields())
    console.post("/logout")
    second = console.page(path)

    assert ann.email in form.text
    assert first.status_code == 303
    assert second.status == 404
    assert "used already, or is too old" in second.text


def test_looking_at_a_link_does_not_use_it_up(console: Console, ann: User) -> None:
    secret = links.create(ann.id)

    console.page(f"/login/link/{secret}")
    console.page(f"/login/link/{secret}")

    assert console.post(f"/login/link/{secret}").status_code == 303


def test_a_link_is_void_after_its_time_and_after_a_newer_one(console: Console, ann: User) -> None:
    old = links.create(ann.id)
    new = links.create(ann.id)

    replaced = console.get(f"/login/link/{old}").status_code
    in_time = console.get(f"/login/link/{new}").status_code
    clock.set_offset_ms(links.LIFE_MS)
    late = console.get(f"/login/link/{new}").status_code

    assert (replaced, in_time, late) == (404, 200, 404)


def test_who_was_invited_chooses_a_password_with_the_link(console: Console) -> None:
    user = make_user(Role.VIEWER, console.workspace)
    path = f"/login/link/{links.create(user.id)}"

    short = console.post_page(path, password="short")
    good = console.post(path, password=PASSWORD)

    assert (short.status, good.status_code) == (422, 303)
    assert "at least 12 characters" in short.texts("#password-error")[0]
    found = users.authenticate(user.email, PASSWORD)
    assert found is not None
    assert found.id == user.id


def test_who_forgot_the_password_chooses_another_with_the_link(console: Console, ann: User) -> None:
    path = f"/login/link/{links.create(ann.id)}"

    offered = console.page(path)
    console.post(path, password="another horse battery")

    assert "leave it empty to keep yours" in offered.text
    assert users.authenticate(ann.email, PASSWORD) is None
    assert users.authenticate(ann.email, "another horse battery") is not None


def test_a_link_that_is_used_without_a_password_keeps_the_old_one(console: Console, ann: User) -> None:
    console.post(f"/login/link/{links.create(ann.id)}", password="")

    assert console.get("members").status_code == 200
    assert users.authenticate(ann.email, PASSWORD) is not None


def test_a_person_changes_the_password_and_is_signed_out_elsewhere(console: Console, ann: User) -> None:
    elsewhere = sessions.begin(ann.id, "192.0.2.7", "another browser")
    console.become(ann)

    wrong = console.post_page("/account/password", current="wrong", password="another horse battery")
    done = console.follow(
        console.post("/account/password", current=PASSWORD, password="another horse battery")
    )

    assert "This is not your password." in wrong.texts("#current-error")[0]
    assert "Your password is changed." in done.text
    assert users.authenticate(ann.email, "another horse battery") is not None
    assert sessions.find(elsewhere) is None


def test_a_password_is_changed_with_all_that_follows_or_not_at_all(
    console: Console, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = sessions.begin(ann.id, "192.0.2.7", "another browser")
    console.become(ann)
    monkeypatch.setattr(sessions, "_end", _fail)

    with pytest.raises(RuntimeError):
        users.change_password(ann.id, PASSWORD, "another horse battery", session_id=0)

    assert users.authenticate(ann.email, PASSWORD) is not None
    assert sessions.find(elsewhere) is not None


def _fail(_which: object) -> int:
    raise RuntimeError


def test_a_new_password_by_a_link_ends_all_sign_ins_before(console: Console, ann: User) -> None:
    elsewhere = sessions.begin(ann.id, "192.0.2.7", "another browser")

    console.post(f"/login/link/{links.create(ann.id)}", password="another horse battery")

    assert console.get("members").status_code == 200
    assert sessions.find(elsewhere) is None


def test_a_person_sees_where_they_are_signed_in_and_ends_the_others(console: Console, ann: User) -> None:
    elsewhere = sessions.begin(ann.id, "192.0.2.7", "another browser")
    console.become(ann)
    before = console.page("/account")

    after = console.follow(console.post("/account/sign-out-elsewhere"))

    assert {row[1] for row in before.rows()} == {"192.0.2.7", "127.0.0.1"}
    assert [row[1] for row in after.rows()] == ["127.0.0.1"]
    assert sessions.find(elsewhere) is None


def test_the_secret_of_a_link_is_not_logged(
    console: Console, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    secret = links.create(ann.id)

    with caplog.at_level("INFO"):
        console.get(f"/login/link/{secret}")
        console.client.put(f"/login/link/{secret}")

    told = [vars(record) for record in caplog.records]
    assert [line["path"] for line in told if "path" in line] == ["/login/link/***"] * 2
    assert secret not in str(told)


def test_the_cookie_is_kept_from_scripts_and_other_sites(console: Console, ann: User) -> None:
    answer = console.post("/login", email=ann.email, password=PASSWORD)

    [cookie] = [line for line in answer.headers.getlist("Set-Cookie") if line.startswith("tidings_")]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert re.search(r"tidings_[0-9a-f]{8}=", cookie)


def test_the_cookie_of_an_https_instance_travels_over_https_alone(make_app) -> None:  # type: ignore[no-untyped-def]
    app = make_app(BASE_URL="https://tidings.example")

    assert app.config["SESSION_COOKIE_SECURE"] is True
    assert app.config["SESSION_COOKIE_NAME"].startswith("__Host-tidings_")


def test_two_instances_on_one_host_have_cookies_of_their_own(make_app) -> None:  # type: ignore[no-untyped-def]
    names = {
        make_app(BASE_URL=f"http://127.0.0.1:{port}").config["SESSION_COOKIE_NAME"] for port in (8101, 8102)
    }

    assert len(names) == 2
