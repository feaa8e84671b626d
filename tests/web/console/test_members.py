"""Members: invited by a one-time link, and nobody reaches above their own role."""

import pytest
import sqlalchemy as sa

from app.access import links, members, sessions, users, workspaces
from app.access.people import memberships_of
from app.database import db, transaction
from app.models import Member, Role, User
from tests.web.console.conftest import Console, make_user, words_of

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
    assert links.find(url.rpartition("/")[2]).user.email == "new@test.example"
    assert again.all(".secret") == []
    assert "/login/link/" not in shown.headers["Location"]


def test_the_invited_person_gets_in_with_the_role(console: Console) -> None:
    console.sign_in(Role.ADMIN)
    page = console.follow(console.post("members/invite", email="new@test.example", role="viewer"))
    path = page.texts(".secret")[0].removeprefix("http://127.0.0.1:5000")
    console.post("/logout")

    console.post(path, password="correct horse battery")

    assert console.page("members").is_disabled("Invite somebody")


def test_somebody_with_an_account_joins_signed_in_and_not_before(console: Console) -> None:
    ann = make_user(Role.VIEWER, workspaces.create("other"))
    _set_a_password(ann)
    path = _invite(console, ann.email, "admin")
    before = memberships_of(ann.id)

    console.post("/logout")
    by_nobody, taken_by_nobody = console.page(path), console.post(path, password="correct horse battery")
    console.sign_in(Role.OWNER)
    taken_by_another = console.post(path)
    console.become(ann)
    joined = console.follow(console.post(path))

    assert [one.workspace.slug for one in before] == ["other"]
    assert "Sign in with it, and open the link again." in by_nobody.text
    assert (taken_by_nobody.status_code, taken_by_another.status_code) == (200, 200)
    assert joined.answer.request.path == "/w/default/"
    assert [one.role for one in memberships_of(ann.id)] == [Role.ADMIN, Role.VIEWER]
    assert users.authenticate(ann.email, "correct horse battery") is None


def test_who_takes_an_address_first_in_another_workspace_gets_nothing_here(console: Console) -> None:
    # Somebody who administers another workspace invites the address, and uses the link.
    other = workspaces.create("other")
    ahead = members.invite(other.id, "ann@test.example", Role.VIEWER, by=Role.ADMIN)
    path = _invite(console, "ann@test.example", "owner")
    links.use(ahead.secret, "correct horse battery")

    console.become(ahead.user)
    answer = console.get("members")
    others_link = console.post(path, password="another horse battery")
    joined = memberships_of(ahead.user.id)

    # The link that was handed to the true Ann is what makes a member here; nobody else has it.
    assert answer.status_code == 404
    assert others_link.status_code == 303
    assert [one.workspace.slug for one in joined] == ["default", "other"]


def _invite(console: Console, email: str, role: str) -> str:
    """Invite as an owner; the path of the link."""
    console.sign_in(Role.OWNER)
    page = console.follow(console.post("members/invite", email=email, role=role))
    return page.texts(".secret")[0].removeprefix("http://127.0.0.1:5000")


def _set_a_password(user: User) -> None:
    with transaction():
        db.session.execute(sa.update(User).where(User.id == user.id).values(password_hash="not empty"))


def test_each_workspace_has_a_link_of_its_own_for_who_is_new(console: Console) -> None:
    other = workspaces.create("other")
    theirs = members.invite(other.id, "ann@test.example", Role.VIEWER, by=Role.ADMIN)
    path = _invite(console, "ann@test.example", "admin")
    console.post("/logout")

    console.post(path, password="correct horse battery")
    here = memberships_of(theirs.user.id)
    links.use(theirs.secret, signed_in_as=theirs.user.id)

    assert [one.workspace.slug for one in here] == ["default"]
    assert [one.workspace.slug for one in memberships_of(theirs.user.id)] == ["default", "other"]


def test_an_invitation_that_was_taken_back_lets_nobody_in(console: Console) -> None:
    path = _invite(console, "ann@test.example", "admin")
    ann = users.by_email("ann@test.example")
    assert ann is not None

    console.post(f"members/{ann.public_id}/remove")

    assert console.get(path).status_code == 404


def test_somebody_who_works_elsewhere_too_is_not_signed_out_from_here(console: Console, bob: User) -> None:
    secret = sessions.begin(bob.id, "127.0.0.1", "test")
    with transaction():
        other = workspaces.create("other")
        db.session.add(Member(user_id=bob.id, workspace_id=other.id, role=Role.VIEWER))
    console.sign_in(Role.OWNER)

    page = console.post_page(f"members/{bob.public_id}/sign-out")

    assert page.status == 422
    assert "works in another workspace too" in page.text
    assert sessions.find(secret) is not None
    row = console.page("members").one(f'tr[data-key="{bob.public_id}"]')
    assert [words_of(tag) for tag in row.select("[aria-disabled=true]")] == [
        "Sign out… (works in another workspace too)"
    ]


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
