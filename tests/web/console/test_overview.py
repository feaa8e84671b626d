"""The overview: trouble first with the way to put it right, then figures, bars, peers, and the set-up."""

import pytest

from app import clock, queue
from app.clock import now_ms
from app.config import settings
from app.database import db, transaction
from app.federation.identity import ensure_identity
from app.models import Connection
from app.protocol.states import ConnectionStatus, DeliveryState
from app.reports import traffic
from app.reports.traffic import PERIODS, Mark
from app.web.console import charts
from tests.exchange import RemotePeer, connect
from tests.reports.rows import add_delivery, add_event
from tests.web.console.conftest import Console


@pytest.fixture
def here(console: Console) -> Console:
    """Somebody who may look, in the default workspace of an instance with a worker."""
    ensure_identity(settings())
    queue.beat()
    console.sign_in("viewer")
    return console


def _connect(here: Console, **columns: object) -> Connection:
    return connect(here.workspace, RemotePeer(), **{"verified_at": now_ms(), **columns})


def test_a_new_workspace_says_what_comes_first(here: Console) -> None:
    page = here.page("")

    assert page.title == "Overview"
    assert "Nothing needs you" in page.text
    assert "1 of 5 done" in page.text
    assert page.link("Connect to a peer") == "/w/default/connections/new"
    assert "No peers yet" in page.text
    assert "flask connection request" in page.text


def test_trouble_stands_first_and_leads_to_where_it_is_put_right(here: Console) -> None:
    failing = _connect(here, failures=3, retry_at=now_ms() + 90_000, wait_code="timeout")
    asked = _connect(here, status=ConnectionStatus.PENDING)
    add_delivery(
        add_event(here.workspace.id), failing, state=DeliveryState.DEAD, error_code="payload_invalid"
    )

    page = here.page("")

    assert page.texts("#attention .what") == ["1 dead letter", "Peer fails", "Peer wants to connect"]
    assert [str(link["href"]) for link in page.all("#attention a")] == [
        "/w/default/dead-letters",
        f"/w/default/connections/{failing.public_id}",
        f"/w/default/connections/{asked.public_id}",
    ]
    assert "3 requests in a row (timeout) failed; next try in 1 min" in page.text


def test_without_a_worker_it_says_how_to_start_one(here: Console) -> None:
    queue.farewell()

    page = here.page("")

    assert page.texts("#attention .what") == ["No worker is running"]
    assert page.link("How to start one") == "/admin/jobs"


def test_cards_count_what_came_and_went_and_link_to_the_lists(here: Console) -> None:
    connection = _connect(here)
    at = now_ms()
    for state in (DeliveryState.DELIVERED,) * 3 + (DeliveryState.DEAD,):
        add_delivery(
            add_event(here.workspace.id, created_at=at),
            connection,
            state=state,
            delivered_at=at + 40 if state is DeliveryState.DELIVERED else None,
        )
    add_event(here.workspace.id, connection)

    page = here.page("")

    assert page.texts("#tiles .value") == ["4", "1", "75 %", "40 ms", "0", "1"]
    assert [str(link["href"]) for link in page.all("#tiles a")][-1] == "/w/default/dead-letters"
    assert "Estimated" not in page.text


def test_figures_from_a_sample_say_so(here: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "COUNTED", 3)
    monkeypatch.setattr(traffic, "SAMPLED", 2)
    for _ in range(8):
        add_event(here.workspace.id)

    page = here.page("")

    assert "Estimated from a sample: one in 4 events" in page.text


def test_bars_are_a_picture_a_sentence_and_a_table(here: Console) -> None:
    connection = _connect(here)
    add_delivery(add_event(here.workspace.id), connection, state=DeliveryState.DELIVERED)

    page = here.page("", period="1h")

    assert page.one("#chart-title").get_text() == "Deliveries per minute, last hour"
    assert page.one("#chart-desc").get_text().startswith("1 delivered, 0 waiting, 0 dead")
    [row] = page.rows("#chart-table")
    assert row[1:] == ["1", "0", "0"]
    assert len(page.all("svg.chart a")) == 1


def test_a_period_that_is_none_is_the_usual_one(here: Console) -> None:
    assert "Deliveries per 15 minutes" in here.page("", period="99y").text


def test_the_busiest_types_lead_to_their_events(here: Console) -> None:
    for event_type in ("task.done", "task.done", "task.created"):
        add_event(here.workspace.id, event_type=event_type)

    page = here.page("")

    assert page.texts(".ranked a") == ["task.done", "task.created"]
    assert page.link("task.done") == "/w/default/events?q=type:task.done"


def test_peers_in_trouble_stand_first_with_both_strips(here: Console) -> None:
    _connect(here)
    _connect(here, failures=2)

    page = here.page("")

    assert [row[1] for row in page.rows("#peers-table")] == ["failing", "active"]
    assert len(page.all("#peers-table svg.strip")) == 4


def test_a_peer_s_name_is_text_whatever_is_in_it(here: Console) -> None:
    connection = _connect(here, failures=1)
    with transaction():
        db.session.get_one(Connection, connection.id).peer.name = "<script>alert(1)</script>"

    page = here.page("")

    assert "<script>alert(1)</script> fails" in page.text


def test_the_set_up_goes_away_when_it_is_done_and_nothing_is_left_for_production(here: Console) -> None:
    page = here.page("")

    assert page.all("#setup-title")
    assert "Before others rely on it" not in page.text


def test_another_workspace_is_not_there(here: Console) -> None:
    assert here.get("/w/other/").status_code == 404


def test_bars_stand_on_each_other_and_what_is_little_is_still_seen() -> None:
    ok, warn, bad = charts.stack((50, 1, 0), 100)

    assert ok == (charts.BASE - 56.0, 56.0)
    assert warn == (charts.BASE - 58.0, 2)
    assert bad == (charts.BASE - 58.0, 0)


@pytest.mark.parametrize(("value", "top"), [(0, 4), (4, 4), (5, 6), (11, 20), (390, 400), (801, 1000)])
def test_axes_end_at_a_number_that_reads_well(value: int, top: int) -> None:
    assert charts.round_up(value) == top


def test_the_sentence_of_empty_bars_says_that_there_is_nothing(here: Console) -> None:
    seen = traffic.traffic(here.workspace.id, PERIODS["7d"])

    assert charts.sentence(seen) == "No deliveries in the last 7 days."
    assert seen.total(Mark.DEAD) == 0
    assert clock.now_ms() < seen.starts()[-1] + PERIODS["7d"].step_ms
