"""Members: invited by a one-time link, and nobody reaches above their own role."""

import pytest

from app.access import links, members, sessions, users, workspaces
from app.access.people import memberships_of
from app.models import Role, User
from tests.web.console.conftest import Console, make_user

#: A role below it may do none of these.
NEEDS_ADMIN = ("members/invite", "members/{}/role", "members/{}/remove", "members/{}/sign-out")


@pytest.fixture
def bob(console: Console) -> User:
    """Somebody else in the workspace."""
    return make_user(Role.OPERATOR, console.workspace)


def test_an_invitation_is_a_link_that_is_shown_once(console: Console) -> None:
    console.sign_in(Role.ADMIN)

    shown = console.post("members/invite", email="New@Test.Example", role="viewer")
    page = console.follow(shown)
    again = console.page(shown.headers["Location"])

    url = page.texts(".secret")[0]
    assert page.title == "new@test.example is invited"
    assert url.startswith("http://127.0.0.1:5000/login/link/")
    assert links.find(url.rpartition("/")[2]).email == "new@test.example"
    assert again.all(".secret") == []
    assert "/login/link/" not in shown.headers["Location"]


def test_the_invited_person_gets_in_with_the_role(console: Console) -> None:
    console.sign_in(Role.ADMIN)
    page = console.follow(console.post("members/invite", email="new@test.example", role="viewer"))
    path = page.texts(".secret")[0].removeprefix("http://127.0.0.1:5000")
    console.post("/logout")

    console.post(path, password="correct horse battery")

    assert console.page("members").is_disabled("Invite somebody")


def test_somebody_with_a_password_needs_no_link(console: Console) -> None:
    other = workspaces.create("other")
    users.create("ann@test.example", "correct horse battery", workspace_id=other.id)
    console.sign_in(Role.OWNER)

    page = console.follow(console.post("members/invite", email="ann@test.example", role="operator"))

    assert "ann@test.example is a member, and signs in as before." in page.text


def test_no_link_is_made_for_somebody_whom_another_workspace_invited(console: Console) -> None:
    other = workspaces.create("other")
    invited = members.invite(other.id, "ann@test.example", Role.OWNER, by=Role.OWNER)
    console.sign_in(Role.OWNER)

    page = console.follow(console.post("members/invite", email="ann@test.example", role="viewer"))
    again = console.post(f"members/{invited.user.public_id}/invite-again")

    assert page.all(".secret") == []
    assert again.status_code == 409
    assert links.find(invited.secret or "").id == invited.user.id


def test_inviting_twice_makes_one_member(console: Console) -> None:
    console.sign_in(Role.ADMIN)
    console.post("members/invite", email="new@test.example", role="viewer")

    page = console.post_page("members/invite", email="new@test.example", role="viewer")

    assert page.status == 422
    assert "is a member already" in page.texts("#email-error")[0]


@pytest.mark.parametrize("path", NEEDS_ADMIN)
def test_who_is_no_administrator_is_told_which_role_it_needs(console: Console, bob: User, path: str) -> None:
    console.sign_in(Role.OPERATOR)

    page = console.page(path.format(bob.public_id))

    assert page.status == 403
    assert page.title == "Your role may not do this"
    assert "This needs an admin of the workspace." in page.text


def test_what_one_may_not_do_is_shown_disabled_with_the_role(console: Console, bob: User) -> None:
    console.sign_in(Role.VIEWER)

    page = console.page("members")

    assert page.is_disabled("Invite somebody")
    assert page.is_disabled("Remove…")
    assert "needs the role admin" in page.texts('button[aria-disabled="true"]')[0]


def test_an_administrator_cannot_make_or_touch_an_owner(console: Console) -> None:
    owner = make_user(Role.OWNER, console.workspace)
    make_user(Role.OWNER, console.workspace)
    console.sign_in(Role.ADMIN)

    offered = console.page("members/invite").texts("#role option")
    forged = console.post("members/invite", email="new@test.example", role="owner")
    removed = console.post(f"members/{owner.public_id}/remove")

    assert offered == ["viewer", "operator", "admin"]
    assert forged.status_code == 422
    assert removed.status_code == 422
    assert users.by_email("new@test.example") is None
    assert memberships_of(owner.id)[0].role is Role.OWNER


@pytest.mark.parametrize(
    ("path", "fields"), [("members/{}/remove", {}), ("members/{}/role", {"role": "viewer"})]
)
def test_the_last_owner_cannot_leave(console: Console, path: str, fields: dict[str, str]) -> None:
    me = console.sign_in(Role.OWNER)

    page = console.post_page(path.format(me.public_id), fields)

    assert page.status == 422
    assert "This is the last owner of the workspace." in page.text
    assert memberships_of(me.id)[0].role is Role.OWNER


def test_a_role_is_changed(console: Console, bob: User) -> None:
    console.sign_in(Role.ADMIN)

    page = console.follow(console.post(f"members/{bob.public_id}/role", role="viewer"))

    assert f"{bob.email} is viewer now." in page.text
    assert memberships_of(bob.id)[0].role is Role.VIEWER


def test_who_is_removed_is_signed_out_and_removing_twice_is_once(console: Console, bob: User) -> None:
    sessions.begin(bob.id, "127.0.0.1", "test")
    console.sign_in(Role.ADMIN)
    asked = console.page(f"members/{bob.public_id}/remove")

    first = console.post(f"members/{bob.public_id}/remove", asked.fields())
    second = console.post(f"members/{bob.public_id}/remove", asked.fields())

    assert bob.email in asked.title
    assert (first.status_code, second.status_code) == (303, 303)
    assert memberships_of(bob.id) == []
    assert sessions.list_live(bob.id) == []


def test_all_sign_ins_of_somebody_are_ended(console: Console, bob: User) -> None:
    secrets = [sessions.begin(bob.id, "127.0.0.1", "test") for _ in range(2)]
    console.sign_in(Role.ADMIN)

    page = console.follow(console.post(f"members/{bob.public_id}/sign-out"))

    assert f"{bob.email} is signed out everywhere." in page.text
    assert [sessions.find(secret) for secret in secrets] == [None, None]


@pytest.mark.parametrize("path", NEEDS_ADMIN[1:])
def test_a_member_of_another_workspace_is_not_found(console: Console, path: str) -> None:
    stranger = make_user(Role.VIEWER, workspaces.create("other"))
    console.sign_in(Role.OWNER)

    page = console.follow_or_read(console.post(path.format(stranger.public_id), role="owner"))

    assert stranger.email not in page.text
    assert memberships_of(stranger.id)[0].role is Role.VIEWER


def test_another_workspace_is_as_if_it_were_not_there(console: Console) -> None:
    workspaces.create("other")
    console.sign_in(Role.OWNER)

    hidden = console.page("/w/other/members")
    missing = console.page("/w/nowhere/members")

    assert (hidden.status, missing.status) == (404, 404)
    assert "There is no workspace other that you are a member of." in hidden.text
    assert "There is no workspace nowhere that you are a member of." in missing.text
