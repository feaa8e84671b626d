"""The audit log as a page: who did what, before and after, from where; of one's own workspaces."""

from app.access import audit, workspaces
from app.access.audit import Actor
from app.models import Role
from tests.web.console.conftest import Console, make_user


def test_what_was_done_in_the_console_is_listed_with_its_request(console: Console) -> None:
    bob = make_user(Role.OPERATOR, console.workspace)
    me = console.sign_in(Role.ADMIN)
    answer = console.post(f"members/{bob.public_id}/role", role="viewer")

    [row] = console.page("/admin/audit").rows()

    assert row[1] == f"{me.email} user"
    assert row[2] == "member.change_role"
    assert row[4] == "role: operator → viewer"
    assert row[6] == "127.0.0.1"
    assert answer.headers["X-Request-Id"] in console.get("/admin/audit").text


def test_entries_are_filtered_by_kind_person_and_object(console: Console) -> None:
    for number in range(3):
        audit.note("key.announce", "key", f"k-{number}")
    audit.act_as(Actor("system", None, "Root"))
    audit.note("queue.pause", "queue", "deliveries")
    audit.act_as_instance()
    console.sign_in(Role.VIEWER)

    kinds = [row[2] for row in console.page("/admin/audit", kind="key").rows()]
    by_root = [row[2] for row in console.page("/admin/audit", actor="root").rows()]
    of_one = console.page("/admin/audit", object="k-1").rows()

    assert kinds == ["key.announce"] * 3
    assert by_root == ["queue.pause"]
    assert len(of_one) == 1


def test_no_match_names_the_filters_and_the_way_out(console: Console) -> None:
    audit.note("key.announce", "key", "k-1")
    console.sign_in(Role.VIEWER)

    page = console.page("/admin/audit", kind="token")

    assert "No entries match" in page.text
    assert "kind:token" in page.text
    assert page.link("Clear filters") == "/admin/audit"


def test_older_entries_are_a_page_away(console: Console) -> None:
    for number in range(60):
        audit.note("key.announce", "key", f"k-{number}")
    console.sign_in(Role.VIEWER)

    first = console.page("/admin/audit")
    second = console.page(first.link("Older entries"))

    seen = [row[3] for row in first.rows() + second.rows()]
    assert len(seen) == len(set(seen)) == 60
    assert len(first.rows()) == 50


def test_what_happened_in_another_workspace_is_not_shown(console: Console) -> None:
    other = workspaces.create("other")
    audit.note("token.create", "token", "theirs", workspace_id=other.id)
    audit.note("key.announce", "key", "everybodys")
    console.sign_in(Role.OWNER)

    page = console.page("/admin/audit")
    asked = console.page("/admin/audit", workspace="other")

    assert [row[2] for row in page.rows()] == ["key.announce"]
    assert "theirs" not in asked.text


def test_a_bad_cursor_is_refused_as_a_page(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    assert console.page("/admin/audit", cursor="rubbish").status == 400
