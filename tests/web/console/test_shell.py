"""The frame of every page: what stands around it, who may see it, and what it carries."""

from app.models import Role
from tests.web.console.conftest import Console


def test_the_front_door_leads_to_the_workspace(console: Console) -> None:
    console.sign_in(Role.VIEWER)

    answer = console.get("/")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/w/default/")


def test_a_path_that_is_none_is_a_page_with_the_request_id(console: Console) -> None:
    console.sign_in()

    page = console.page("nowhere")

    assert page.status == 404
    assert page.title == "There is nothing here"
    assert page.answer.headers["X-Request-Id"] in page.text
