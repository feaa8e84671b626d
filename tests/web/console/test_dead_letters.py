"""The page of dead letters."""

import pytest

from app.protocol.states import ConnectionStatus
from app.reports import dead_list
from tests.web.console.conftest import Console
from tests.web.console.lanes import Lane, another_workspace, make_lane


@pytest.fixture
def lane(console: Console) -> Lane:
    """A connection of the workspace; an operator looks."""
    console.sign_in("operator")
    return make_lane(console.workspace, "Elm City Council")


def test_without_dead_letters_the_page_is_green_and_tells_how_long_they_are_kept(console: Console) -> None:
    console.sign_in("viewer")

    page = console.page("dead-letters")

    assert "No dead letters" in page.text
    assert "All is well" in page.text
    assert "30 days" in page.text


def test_dead_letters_are_grouped_by_peer_and_reason_with_what_helps(console: Console, lane: Lane) -> None:
    other = make_lane(console.workspace, "Cobalt Works", pattern="nothing")
    lane.kill(3, detail="/invoice/vatId is required", event_type="invoice.issued")
    lane.kill(1, error="not_subscribed", event_type="document.signed")
    other.set(status=ConnectionStatus.SUSPENDED)

    page = console.page("dead-letters")

    first, second = page.rows("#groups")
    assert first[0] == "Elm City Council active"
    assert first[1:4] == ["3", "payload_invalid /invoice/vatId is required", "invoice.issued"]
    assert first[5] == "Correct and publish again; the same bytes would be refused again"
    assert second[1:4] == ["1", "not_subscribed no", "document.signed"]
    assert second[5] == "Discard, or ask them to subscribe again"
    assert len(page.rows("#dead")) == 4


def test_a_group_leads_to_its_letters(console: Console, lane: Lane) -> None:
    lane.kill(3)
    [expired] = lane.kill(1, error="expired")

    page = console.page(console.page("dead-letters").all("#groups tbody tr")[1].a["href"])  # type: ignore[index]

    assert [row[-1][:8] for row in page.rows("#dead")] == [expired[:8]]
    assert page.all("#groups tr[aria-current]")[0].get_text().startswith("Elm City Council")
    assert "Elm City Council, expired" in page.one("h2").get_text()


def test_a_group_is_sent_again_after_a_preview(console: Console, lane: Lane) -> None:
    lane.kill(2, error="expired")
    lane.kill(1, error="too_large")
    link = console.page("dead-letters").link("Retry 2…")

    asked = console.page(link)
    done = console.follow(console.post("operations", asked.fields("/w/default/operations")))

    assert asked.title == "Retry 2 deliveries"
    assert "2 deliveries are sent again." in done.text
    assert lane.states() == ["pending", "pending", "dead"]


def test_a_retry_of_what_would_be_refused_again_warns(console: Console, lane: Lane) -> None:
    lane.kill(2)

    page = console.page(console.page("dead-letters").link("Retry all 2…"))

    assert "2 were refused for what is in them." in page.text


def test_a_group_is_discarded_with_a_reason_and_the_word(console: Console, lane: Lane) -> None:
    lane.kill(2)
    lane.kill(1, error="expired")
    links = console.page("dead-letters").all("#groups a.btn")
    link = next(a["href"] for a in links if "Discard" in a.text)

    form = console.page(str(link)).fields("/w/default/operations")
    done = console.follow(console.post("operations", form | {"typed": "discard", "reason": "test data"}))

    assert "2 deliveries are given up." in done.text
    assert "test data" in done.text
    assert lane.states() == ["withdrawn", "withdrawn", "dead"]


def test_dead_letters_of_another_workspace_are_not_seen(console: Console, lane: Lane) -> None:
    other = make_lane(another_workspace(), "Others")
    other.kill(2)

    page = console.page("dead-letters", connection=other.connection.public_id)

    assert "No dead letters" in page.text


def test_a_filter_that_nothing_passes_can_be_taken_off(console: Console, lane: Lane) -> None:
    lane.kill(1)

    page = console.page("dead-letters", error="expired")

    assert "No dead letters match" in page.text
    assert page.link("Clear filters") == "/w/default/dead-letters"


def test_the_groups_are_of_the_newest_and_say_so(
    console: Console, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_list, "BOUND", 2)
    lane.kill(3)

    page = console.page("dead-letters")

    assert page.rows("#groups")[0][1] == "2"
    assert "of the newest 2" in page.text


def test_hostile_text_of_a_peer_stays_text(console: Console) -> None:
    console.sign_in("viewer")
    lane = make_lane(console.workspace, "<b>Elm</b>")
    lane.kill(1, error="payload_invalid", detail="<script>alert(1)</script>" + "x" * 65_536)

    page = console.page("dead-letters")

    assert page.all("main script, main b") == []
    assert "<script>alert(1)</script>" in page.text
    assert len(page.answer.text) < 100_000
