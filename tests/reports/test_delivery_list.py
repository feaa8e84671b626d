"""The list of deliveries: who stands where, filters, and pages that stay small."""

import pytest
from flask import Flask

from app.access import workspaces
from app.clock import now_ms
from app.errors import InvalidCursor
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reports import delivery_list
from app.reports.delivery_list import Chosen, Standing
from tests.web.console.lanes import Lane, another_workspace, make_lane


@pytest.fixture
def lane(app: Flask) -> Lane:
    """A connection of the default workspace."""
    return make_lane(workspaces.ensure_default())


def shown(lane: Lane, **chosen: object) -> list[tuple[str, str]]:
    """(message id, status) of the first page."""
    page = delivery_list.list_rows(lane.workspace.id, Chosen(**chosen))  # type: ignore[arg-type]
    return [(row.message_id, row.status) for row in page.rows]


def test_each_delivery_is_shown_where_it_stands(lane: Lane) -> None:
    fresh, tried, sending, arrived, dead, withdrawn = lane.publish(6)
    lane.change([tried], attempts=2, error_code="timeout")
    lane.change([sending], state=DeliveryState.SENDING)
    lane.change([arrived], state=DeliveryState.DELIVERED, delivered_at=now_ms())
    lane.change([dead], state=DeliveryState.DEAD, ended_at=now_ms())
    lane.change([withdrawn], state=DeliveryState.WITHDRAWN, ended_at=now_ms())

    seen = {standing: shown(lane, standing=standing) for standing in Standing}

    assert seen == {
        Standing.OPEN: [(sending, "sending"), (tried, "retrying"), (fresh, "pending")],
        Standing.HELD: [],
        Standing.RETRYING: [(tried, "retrying")],
        Standing.SENDING: [(sending, "sending")],
        Standing.DELIVERED: [(arrived, "delivered")],
        Standing.DEAD: [(dead, "dead")],
        Standing.WITHDRAWN: [(withdrawn, "withdrawn")],
    }


@pytest.mark.parametrize(
    ("columns", "condition"),
    [
        ({"status": ConnectionStatus.SUSPENDED}, "suspended"),
        ({"paused_outgoing": True}, "paused"),
        ({"key_review": True}, "key_review"),
        ({"hold_code": "access_denied"}, "held"),
    ],
)
def test_what_does_not_go_out_now_is_held_and_says_why(
    lane: Lane, columns: dict[str, object], condition: str
) -> None:
    [message] = lane.publish(1)
    lane.set(**columns)

    [row] = delivery_list.list_rows(lane.workspace.id, Chosen(Standing.HELD)).rows

    assert (row.message_id, row.status, row.receiver.condition) == (message, "held", condition)
    assert row.next_at is None
    assert row.why_no_retry == row.receiver.obstacle != ""
    counts = delivery_list.count_open(lane.workspace.id)
    assert (counts.open, counts.held, counts.retrying) == (1, 1, 0)


def test_what_waits_with_a_failing_connection_shows_its_error_and_its_time(lane: Lane) -> None:
    lane.publish(1)
    later = now_ms() + 60_000
    lane.set(failures=3, retry_at=later, wait_code="timeout", wait_detail="no answer\nwithin 15 s")

    [row] = delivery_list.list_rows(lane.workspace.id, Chosen()).rows

    assert row.next_at == later
    assert (row.error, row.error_detail) == ("timeout", "no answer within 15 s")
    assert row.why_no_retry == ""


def test_filters_hold_together(lane: Lane) -> None:
    other = make_lane(lane.workspace, "Cobalt Works")
    created, moved = lane.publish(1, "task.created")[0], lane.publish(1, "task.moved")[0]
    lane.change([moved], error_code="timeout", attempts=1)
    by_peer = Chosen(connection_id=other.connection.public_id)

    peers = {row.receiver.name for row in delivery_list.list_rows(lane.workspace.id, by_peer).rows}

    assert peers == {"Cobalt Works"}
    assert shown(lane, event_type="task.created", connection_id=lane.connection.public_id) == [
        (created, "pending")
    ]
    assert shown(lane, error="timeout") == [(moved, "retrying")]
    assert shown(lane, error="timeout", event_type="task.created") == []


def test_a_connection_of_another_workspace_matches_nothing(lane: Lane) -> None:
    other = make_lane(another_workspace())
    other.publish(1)
    lane.publish(1)

    assert shown(lane, connection_id=other.connection.public_id) == []
    assert len(shown(lane)) == 1


@pytest.mark.parametrize("standing", [Standing.OPEN, Standing.DEAD])
@pytest.mark.parametrize("error", [None, "payload_invalid"])
def test_pages_follow_each_other_without_gaps(lane: Lane, standing: Standing, error: str | None) -> None:
    messages = lane.kill(7)
    if standing is Standing.OPEN:
        lane.change(messages[::2], state=DeliveryState.PENDING)
        lane.change(messages[1::2], state=DeliveryState.SENDING)
    chosen = Chosen(standing, error=error)

    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = delivery_list.list_rows(lane.workspace.id, chosen, cursor=cursor, limit=2)
        seen += [row.message_id for row in page.rows]
        cursor = page.older
        if cursor is None:
            break

    assert seen == messages[::-1]


def test_a_cursor_of_another_filter_is_refused(lane: Lane) -> None:
    lane.publish(3)
    page = delivery_list.list_rows(lane.workspace.id, Chosen(), limit=1)

    with pytest.raises(InvalidCursor):
        delivery_list.list_rows(lane.workspace.id, Chosen(Standing.HELD), cursor=page.older)


def test_a_search_without_an_index_stops_and_goes_on(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_list, "BOUND", 5)
    [rare] = lane.kill(1, error="too_old")
    lane.kill(9)
    chosen = Chosen(Standing.DEAD, error="too_old")

    first = delivery_list.list_rows(lane.workspace.id, chosen, limit=1)
    second = delivery_list.list_rows(lane.workspace.id, chosen, limit=1, cursor=first.older)

    assert (first.rows, first.is_cut_short) == ([], True)
    assert [row.message_id for row in second.rows] == [rare]


def test_tabs_count_no_further_than_their_cap(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_list, "COUNT_CAP", 3)
    lane.publish(5)
    lane.kill(4)

    counts = delivery_list.count_open(lane.workspace.id)

    assert (counts.open, counts.dead) == (3, 3)


def test_the_errors_to_choose_from_are_those_that_there_are(lane: Lane) -> None:
    lane.kill(2, error="payload_invalid")
    lane.kill(1, error="event_expired")

    assert delivery_list.error_codes(lane.workspace.id, Standing.DEAD) == ["event_expired", "payload_invalid"]
    assert delivery_list.error_codes(lane.workspace.id, Standing.OPEN) == []
