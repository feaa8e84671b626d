"""Pages of the instance: status, settings, workspaces, and what each person sees of them."""

import pytest

from app.access import workspaces
from app.access.people import memberships_of
from app.config import settings
from app.federation import identity
from app.models import Role
from tests.conftest import MakeApp
from tests.web.console.conftest import Console


def test_a_stranger_learns_of_the_status_one_sentence(console: Console) -> None:
    page = console.page("/status")

    assert page.status == 200
    assert "This instance is not ready" in page.text
    assert "sqlite" not in page.answer.text
    assert "worker" not in page.text


def test_who_is_signed_in_sees_the_checks_of_the_doctor_with_what_to_do(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    page = console.page("/status")

    rows = {row[0]: row for row in page.rows()}
    assert {"database", "redis", "migrations", "worker"} <= set(rows)
    assert rows["redis"][1] == "passes"
    assert rows["worker"][1] == "fails"
    assert rows["worker"][3] != ""
    assert page.rows()[0][1] == "fails"


def test_settings_say_their_source_and_no_secret(make_app: MakeApp) -> None:
    app = make_app(
        SECRET_KEY="never to be shown anywhere",
        REDIS_URL="redis://ann:hidden@127.0.0.1:1/0",
        RETENTION_DAYS="7",
    )
    with app.app_context():
        identity.forget()
        identity.ensure_identity(settings())
        console = Console(app, app.test_client())
        console.sign_in(Role.VIEWER)

        page = console.page("/admin/settings")
        instance_id = identity.local_instance().instance_id

    rows = {row[0]: row for row in page.rows()}
    assert rows["RETENTION_DAYS"][1:3] == ["7 days", "environment or .env"]
    assert rows["WEB_THREADS"][1:3] == ["16 threads", "default"]
    assert rows["INSTANCE_ID"][1:3] == [instance_id, "default"]
    assert rows["SECRET_KEY"][1] == "set, and not shown"
    assert rows["REDIS_URL"][1] == "redis://ann:***@127.0.0.1:1/0"
    assert "never to be shown" not in page.answer.text
    assert "hidden@" not in page.answer.text
    assert "5 s, 15 s, 45 s, 2 min, 6 min, 20 min, 1 h, 3 h, 6 h, then every 6 h" in page.text


def test_a_new_workspace_belongs_to_who_made_it(console: Console) -> None:
    me = console.sign_in(Role.ADMIN)

    answer = console.post("/admin/workspaces/new", slug="finance", name="Finance")

    assert answer.headers["Location"] == "/w/finance/"
    assert {(one.workspace.slug, one.role) for one in memberships_of(me.id)} == {
        ("default", Role.ADMIN),
        ("finance", Role.OWNER),
    }
    assert "Finance" in console.page("/w/finance/members").texts(".workspace")[0]


@pytest.mark.parametrize(("slug", "words"), [("Not A Slug", "a-z"), ("default", "already")])
def test_a_slug_that_cannot_be_is_told_at_its_field(console: Console, slug: str, words: str) -> None:
    console.sign_in(Role.ADMIN)

    page = console.post_page("/admin/workspaces/new", slug=slug, name="Kept")

    assert page.status == 422
    assert words in page.texts("#slug-error")[0]
    assert page.one("#name")["value"] == "Kept"


def test_an_operator_makes_no_workspace(console: Console) -> None:
    console.sign_in(Role.OPERATOR)

    answer = console.post("/admin/workspaces/new", slug="finance")

    assert answer.status_code == 403
    assert [row.slug for row in workspaces.list_workspaces()] == ["default"]


def test_only_ones_own_workspaces_are_listed(console: Console) -> None:
    workspaces.create("other")
    console.sign_in(Role.VIEWER)

    page = console.page("/admin/workspaces")

    assert [row[1] for row in page.rows()] == ["default"]
    assert page.is_disabled("New workspace")
