"""Pages of deliveries, and operations on many of them."""

import pytest
import sqlalchemy as sa

from app.clock import now_ms
from app.database import db
from app.models import AuditEntry, Operation
from app.outbox import operations
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reports import delivery_list
from tests.web.console.conftest import Console
from tests.web.console.lanes import Lane, another_workspace, make_lane


@pytest.fixture
def lane(console: Console) -> Lane:
    """A connection of the workspace; an operator looks."""
    console.sign_in("operator")
    return make_lane(console.workspace)


def all_operations() -> list[Operation]:
    """What was started."""
    db.session.rollback()
    return list(db.session.scalars(sa.select(Operation).order_by(Operation.id)))


def test_with_nothing_on_its_way_the_page_says_so(console: Console) -> None:
    console.sign_in("viewer")

    page = console.page("deliveries")

    assert "Nothing waits" in page.text
    assert page.link("See what arrived") == "/w/default/deliveries?state=delivered"


def test_a_delivery_is_shown_with_what_it_waits_for_and_its_last_error(console: Console, lane: Lane) -> None:
    [message] = lane.publish(1, "shipment.dispatched")
    lane.change(
        [message],
        attempts=2,
        error_code="rate_limited",
        error_detail="wait 45 s",
        next_attempt_at=now_ms() + 45_500,
    )

    page = console.page("deliveries")

    [row] = page.rows("#deliveries")
    assert row[2:6] == ["shipment.dispatched", lane.name, "retrying", "2"]
    assert row[6].startswith("in ")
    assert row[7] == "rate_limited: wait 45 s"
    assert page.link("shipment.dispatched") == f"/w/default/events/{message}/deliveries#{lane.ids()[0]}"


def test_tabs_count_and_filter(console: Console, lane: Lane) -> None:
    fresh, tried, arrived = lane.publish(3)
    lane.change([tried], attempts=1, error_code="timeout")
    lane.change([arrived], state=DeliveryState.DELIVERED, delivered_at=now_ms())

    page = console.page("deliveries")

    assert page.texts(".tabs a")[:4] == ["Not delivered 2", "Held 0", "Retrying 1", "Sending 0"]
    assert len(console.page("deliveries", state="retrying").rows("#deliveries")) == 1
    assert arrived[:8] in console.page("deliveries", state="delivered").rows("#deliveries")[0][-1]
    assert fresh[:8] in page.text


def test_a_filter_that_nothing_passes_is_named_and_can_be_taken_off(console: Console, lane: Lane) -> None:
    lane.publish(1)

    page = console.page("deliveries", type="no.such", error="timeout", connection=lane.connection.public_id)

    assert "No deliveries match" in page.text
    assert f"peer: {lane.name}" in page.text
    assert page.link("Clear filters") == "/w/default/deliveries"


def test_pages_follow_by_cursor(console: Console, lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    lane.publish(delivery_list.PAGE + 1)

    first = console.page("deliveries")
    second = console.page(first.link("Older deliveries"))

    assert len(first.rows("#deliveries")) == delivery_list.PAGE
    assert len(second.rows("#deliveries")) == 1
    assert second.link("Newer") == "/w/default/deliveries"


@pytest.mark.parametrize("query", ["state=nonsense", "cursor=forged"])
def test_addresses_that_make_no_sense_are_answered_in_words(console: Console, lane: Lane, query: str) -> None:
    page = console.page(f"deliveries?{query}")

    assert page.status == 400


def test_of_another_workspace_nothing_is_seen_or_touched(console: Console, lane: Lane) -> None:
    other = make_lane(another_workspace(), "Others")
    other.kill(1)

    page = console.page("deliveries", state="dead", connection=other.connection.public_id)
    posted = console.post("operations/selected", {"act": "retry", "status": "dead", "id": other.ids()})
    elsewhere = console.get(f"/w/{other.workspace.slug}/deliveries")

    assert other.name not in page.text
    assert posted.status_code == 303
    assert other.states() == ["dead"]
    assert elsewhere.status_code == 404


def test_retrying_selected_rows_of_a_peer_that_is_well_is_done_at_once(console: Console, lane: Lane) -> None:
    lane.publish(2)
    lane.change(
        messages := lane.publish(1), attempts=3, error_code="timeout", next_attempt_at=now_ms() + 60_000
    )
    page = console.page("deliveries")
    fields = page.fields("/w/default/operations/selected")

    done = console.follow(
        console.post("operations/selected", fields | {"act": "retry", "id": lane.ids()[2:]})
    )

    assert "1 delivery is sent again." in done.text
    assert done.title == "Deliveries"
    [row] = lane.rows(messages)
    assert (row.trigger, row.next_attempt_at <= now_ms()) == ("manual", True)
    assert [entry.action for entry in db.session.scalars(sa.select(AuditEntry))] == ["delivery.retry"]


def test_nothing_selected_is_said(console: Console, lane: Lane) -> None:
    lane.publish(1)
    fields = console.page("deliveries").fields("/w/default/operations/selected")

    page = console.follow(console.post("operations/selected", fields | {"act": "retry"}))

    assert "Nothing is selected" in page.text
    assert all_operations() == []


def test_the_same_form_posted_twice_starts_one_operation(console: Console, lane: Lane) -> None:
    lane.kill(3)
    preview = console.page("operations/new?act=retry&status=dead")
    fields = preview.fields("/w/default/operations")

    first = console.post("operations", fields)
    second = console.post("operations", fields)

    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["Location"] == second.headers["Location"]
    assert len(all_operations()) == 1


def test_the_preview_names_the_set_and_warns_of_peers_that_get_nothing(console: Console, lane: Lane) -> None:
    lane.publish(2)
    other = make_lane(console.workspace, "Cobalt Works")
    other.publish(3)
    lane.set(status=ConnectionStatus.SUSPENDED)
    link = console.page("deliveries").link("Retry all that match")

    page = console.page(link)

    assert page.title == "Retry 8 deliveries"
    assert "5 of them go to Birch Freight, which gets nothing now: the connection is suspended" in page.text
    assert [row[:4] for row in page.rows("#by-peer")] == [
        [lane.name, "suspended", "none", "5"],
        ["Cobalt Works", "active", "none", "3"],
    ]
    assert "What is added later is not part of it" in page.text
    assert all_operations() == []


def test_a_trial_takes_the_oldest_alone(console: Console, lane: Lane) -> None:
    lane.kill(12)
    fields = console.page("operations/new?act=retry&status=dead").fields("/w/default/operations")

    page = console.follow(console.post("operations", fields | {"take": "trial"}))

    assert "10 deliveries are sent again." in page.text
    assert lane.states() == ["pending"] * 10 + ["dead"] * 2


def test_retrying_selected_rows_of_a_peer_that_fails_asks_first(console: Console, lane: Lane) -> None:
    lane.kill(1)
    lane.set(failures=4)
    fields = console.page("dead-letters").fields("/w/default/operations/selected")

    asked = console.post_page("operations/selected", fields | {"act": "retry", "id": lane.ids()})
    assert lane.states() == ["dead"]
    done = console.follow(
        console.post("operations", asked.fields("/w/default/operations") | {"id": lane.ids()})
    )

    assert "which fails: the last 4 requests in a row did." in asked.text
    assert "1 delivery is sent again." in done.text
    assert lane.states() == ["pending"]


def test_cancelling_asks_for_a_reason_and_the_word(console: Console, lane: Lane) -> None:
    lane.publish(2)
    fields = console.page("deliveries").fields("/w/default/operations/selected")

    asked = console.post_page("operations/selected", fields | {"act": "discard", "id": lane.ids()[:1]})
    form = asked.fields("/w/default/operations")
    refused = console.post_page("operations", form | {"typed": "yes", "reason": ""})
    kept = refused.fields("/w/default/operations")
    done = console.follow(console.post("operations", kept | {"typed": "discard", "reason": "sent by hand"}))

    assert asked.title == "Discard 1 delivery"
    assert refused.status == 422
    assert "Say why" in refused.text
    assert "This is not the word discard." in refused.text
    assert "1 delivery is given up." in done.text
    assert lane.states() == ["withdrawn", "pending"]
    assert lane.rows()[0].error_detail == "sent by hand"


def test_a_viewer_sees_what_role_it_takes_and_may_not_act(console: Console) -> None:
    console.sign_in("viewer")
    lane = make_lane(console.workspace)
    lane.publish(1)

    page = console.page("deliveries")
    posted = console.post("operations/selected", {"act": "retry", "id": lane.ids()})

    assert page.is_disabled("Retry selected")
    assert page.is_disabled("Retry all that match")
    assert posted.status_code == 403
    assert console.get("operations/new").status_code == 403


def test_a_large_operation_has_a_page_with_progress_and_can_be_paused_and_cancelled(
    console: Console, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "CHUNK", 2)
    lane.kill(5)
    operation = operations.start(
        console.workspace.id,
        operations.OperationKind.RETRY,
        operations.DeliveryFilter("dead"),
        at_once=0,
    )
    url = f"/w/default/operations/{operation.public_id}"

    running = console.page(url)
    paused = console.follow(console.post(f"{url}/pause"))
    going = console.follow(console.post(f"{url}/resume"))
    operations.work(operation.id, seconds=0)
    partly = console.page(url)
    cancelled = console.follow(console.post(f"{url}/cancel"))
    too_late = console.follow(console.post(f"{url}/pause"))

    assert "running 0 of 5 are sent again." in running.text
    assert "It is paused." in paused.text
    assert "It goes on." in going.text
    assert "2 of 5 are sent again." in partly.text
    assert "40 %" in partly.text
    assert "It is cancelled." in cancelled.text
    assert "it cannot be paused" in too_late.text
    assert lane.states() == ["pending", "pending", "dead", "dead", "dead"]


def test_operations_are_listed(console: Console, lane: Lane) -> None:
    lane.kill(1, error="payload_invalid")
    fields = console.page("operations/new?act=retry&status=dead&error=payload_invalid").fields(
        "/w/default/operations"
    )
    console.post("operations", fields)

    page = console.page("operations")

    assert console.user is not None
    [row] = page.rows("#operations")
    assert row[1:3] == ["Retry dead, payload_invalid", "done"]
    assert row[-1] == console.user.email


def test_without_operations_the_list_says_what_they_are(console: Console) -> None:
    console.sign_in("viewer")

    assert "No operations yet" in console.page("operations").text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("operations/new?act=destroy", 400),
        ("operations/new?status=delivered", 400),
        ("operations/0b9c1f4e-0000-4000-8000-000000000404", 404),
        ("operations/new?status=dead&key=no-uuid", 200),
    ],
)
def test_operations_that_make_no_sense_are_refused_in_words(
    console: Console, lane: Lane, path: str, status: int
) -> None:
    assert console.page(path).status == status


def test_the_way_back_leads_nowhere_else(console: Console, lane: Lane) -> None:
    lane.publish(1)

    answer = console.post(
        "operations/selected", {"act": "retry", "status": "open", "back": "//evil.example/"}
    )

    assert answer.headers["Location"].startswith("/w/default/deliveries")


def test_hostile_text_of_a_peer_stays_text(console: Console, lane: Lane) -> None:
    hostile = '<script>alert(1)</script>\u202e"' + "x" * 65_536
    [message] = lane.publish(1)
    lane.change([message], attempts=1, error_code="internal_error", error_detail=hostile)

    page = console.page("deliveries")

    assert page.all("main script") == []
    assert "<script>alert(1)</script>" in page.text
    assert len(page.answer.text) < 100_000
