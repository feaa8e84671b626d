"""Pages of replays, and how a stream stands."""

import json
import uuid

import pytest
import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, transaction
from app.models import (
    AuditEntry,
    ControlOut,
    Direction,
    Reconciliation,
    ReconciliationState,
    Replay,
    ReplayState,
    Stream,
)
from app.protocol.states import ConnectionStatus
from tests.web.console.conftest import Console
from tests.web.console.lanes import Lane, another_workspace, make_lane


@pytest.fixture
def lane(console: Console) -> Lane:
    """A connection of the workspace; an operator looks."""
    console.sign_in("operator")
    return make_lane(console.workspace)


def make_replay(lane: Lane, **columns: object) -> Replay:
    """A replay that we asked for half a minute ago."""
    now = now_ms()
    replay = Replay(
        **{
            "workspace_id": lane.workspace.id,
            "connection_id": lane.connection.id,
            "direction": Direction.INCOMING,
            "replay_id": str(uuid.uuid4()),
            "state": ReplayState.RUNNING,
            "requested_by": "holes",
            "created_at": now - 30_000,
            "updated_at": now,
        }
        | columns
    )
    with transaction():
        db.session.add(replay)
    return replay


def make_stream(lane: Lane, direction: Direction = Direction.INCOMING, **columns: object) -> None:
    """A stream of the connection."""
    with transaction():
        db.session.add(
            Stream(
                **{
                    "connection_id": lane.connection.id,
                    "direction": direction,
                    "epoch": str(uuid.uuid4()),
                    "created_at": now_ms(),
                }
                | columns
            )
        )


def asked() -> list[Replay]:
    """What we asked for."""
    db.session.rollback()
    return list(db.session.scalars(sa.select(Replay).order_by(Replay.id)))


def form_of(console: Console, lane: Lane) -> dict[str, object]:
    """The form as it comes, for this connection."""
    page = console.page("replay/new", connection=lane.connection.public_id)
    return page.fields("/w/default/replay") | {"connection": lane.connection.public_id}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers here, so nobody is waited for."""
    monkeypatch.setattr("app.federation.controls.WAIT_S", 0)


def test_without_replays_the_page_says_what_they_are_for(console: Console) -> None:
    console.sign_in("viewer")

    page = console.page("replay")

    assert "No replays yet" in page.text
    assert "Nothing arrives twice." in page.text
    assert page.is_disabled("Ask for a replay")


def test_replays_of_both_ways_are_listed_with_progress_and_counts(console: Console, lane: Lane) -> None:
    make_stream(lane, head_sequence=200, contiguous=100)
    make_replay(lane, from_sequence=101, to_sequence=200, count=50, stored=48, refused=1)
    make_replay(
        lane,
        direction=Direction.OUTGOING,
        state=ReplayState.COMPLETE,
        requested_by="peer",
        event_types=json.dumps(["task.*"]),
        since=0,
    )

    page = console.page("replay")

    served, ours = page.rows("#replays")
    assert ours[1:7] == [
        "in",
        lane.name,
        "number 101 to 200 asked for by us, for holes",
        "running",
        "50 %",
        "50",
    ]
    assert ours[6:10] == ["50", "48", "1", "2/s"]
    assert served[1:6] == [
        "out",
        lane.name,
        "from 1970-01-01 00:00 UTC on, of task.* asked for by the peer",
        "complete",
        "100 %",
    ]
    assert len(console.page("replay", direction="outgoing").rows("#replays")) == 1
    assert "No replays match" in console.page("replay", state="failed").text


def test_a_dry_run_says_what_would_be_asked_and_asks_nothing(console: Console, lane: Lane) -> None:
    make_stream(lane, head_sequence=2_000, contiguous=1_400, ranges="[[1451, 2000]]")
    form = form_of(console, lane) | {"from_sequence": "1401", "types": "task.* order.placed", "preview": "1"}

    page = console.post_page("replay", form)

    words = page.one("#dry-run").get_text(" ")
    assert f"{lane.name} is asked for from number 1,401 on, of task.*, order.placed." in words
    assert "At most 600 events come again, fewer by time and type" in words
    assert "50 numbers are missing here now." in words
    assert page.fields("/w/default/replay")["from_sequence"] == "1401"
    assert asked() == []


def test_a_replay_is_asked_for_once_however_often_it_is_posted(console: Console, lane: Lane) -> None:
    form = form_of(console, lane) | {"since": "2026-01-31T00:00", "until": "2026-02-01T00:00"}

    first = console.follow(console.post("replay", form))
    second = console.follow(console.post("replay", form))

    [replay] = asked()
    assert console.user is not None
    assert "Asked. The peer has not answered yet" in first.text
    assert len(second.rows("#replays")) == 1
    assert (replay.since, replay.until) == (1_769_817_600_000, 1_769_904_000_000)
    assert replay.requested_by == console.user.email
    assert db.session.scalar(sa.select(sa.func.count()).select_from(ControlOut)) == 1
    assert [entry.action for entry in db.session.scalars(sa.select(AuditEntry))] == ["replay.request"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"from_sequence": "0"}, "A number is 1 or more."),
        ({"from_sequence": "ten"}, "Not a valid integer"),
        ({"from_sequence": "9", "to_sequence": "3"}, "To number"),
        ({"since": "yesterday"}, "Not a valid datetime"),
        ({"types": "task..*"}, "Event types"),
        ({"connection": str(uuid.uuid4())}, "Not a valid choice"),
    ],
)
def test_what_cannot_be_asked_is_said_at_its_field_and_kept(
    console: Console, lane: Lane, fields: dict[str, str], said: str
) -> None:
    page = console.post_page("replay", form_of(console, lane) | fields)

    assert page.status == 422
    assert said in page.text
    assert asked() == []
    for name, value in fields.items():
        if name != "connection":
            assert page.fields("/w/default/replay")[name] == value


def test_a_connection_that_is_not_active_cannot_be_asked(console: Console, lane: Lane) -> None:
    form = form_of(console, lane)
    lane.set(status=ConnectionStatus.SUSPENDED)

    page = console.post_page("replay", form)

    assert page.status == 422
    assert "only an active one can be asked" in page.text


def test_without_a_connection_there_is_nobody_to_ask(console: Console) -> None:
    console.sign_in("operator")

    assert "Nobody to ask" in console.page("replay/new").text


def test_a_viewer_may_look_and_not_ask(console: Console) -> None:
    console.sign_in("viewer")
    lane = make_lane(console.workspace)

    assert console.get("replay").status_code == 200
    assert console.get("replay/new").status_code == 403
    assert console.post("replay", {"connection": lane.connection.public_id}).status_code == 403


def test_replays_of_another_workspace_are_not_seen(console: Console, lane: Lane) -> None:
    other = make_lane(another_workspace(), "Others")
    make_replay(other)

    page = console.page("replay", connection=other.connection.public_id)
    posted = console.post_page("replay", form_of(console, lane) | {"connection": other.connection.public_id})

    assert "Others" not in page.text
    assert posted.status == 422


@pytest.mark.parametrize("query", ["state=nonsense", "direction=up", "cursor=forged"])
def test_addresses_that_make_no_sense_are_answered_in_words(console: Console, lane: Lane, query: str) -> None:
    assert console.page(f"replay?{query}").status == 400


def test_the_stream_of_a_connection_says_what_is_missing_and_where_to_ask(
    console: Console, lane: Lane
) -> None:
    make_stream(lane, head_sequence=100, contiguous=40, ranges="[[51, 100]]")
    make_stream(lane, Direction.OUTGOING, head_sequence=7, contiguous=7)

    page = console.page(f"connections/{lane.connection.public_id}/stream")

    assert "Complete up to 40 of 100" in page.text
    assert "10 numbers that did not arrive" in page.text
    again = f"/w/default/replay/new?connection={lane.connection.public_id}&from=41&to=50"
    assert page.link("Ask again") == again
    assert "Complete up to 7 of 7" in page.text


def test_comparing_both_sides_starts_once_and_is_shown(
    console: Console, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.federation.peers.features_of", lambda peer: ("reconcile",))
    make_stream(lane, head_sequence=10, contiguous=10)
    url = f"connections/{lane.connection.public_id}/stream/compare"

    first = console.follow(console.post(url))
    second = console.follow(console.post(url))

    assert "Both sides compare what they hold" in first.text
    [row] = second.rows("#stream-comparisons")
    assert row[1:5] == ["what they sent", "1", "10", "running"]


def test_a_peer_that_cannot_compare_is_named_as_such(console: Console, lane: Lane) -> None:
    make_stream(lane, head_sequence=10, contiguous=10)

    page = console.follow(console.post(f"connections/{lane.connection.public_id}/stream/compare"))

    assert "does not list `reconcile`" in page.text


def test_differences_are_told_with_what_was_done(console: Console, lane: Lane) -> None:
    make_stream(lane, head_sequence=10, contiguous=10)
    message = str(uuid.uuid4())
    differences = [{"sequence": 7, "messageId": message, "kind": "missing_here", "repair": "replay_asked"}]
    now = now_ms()
    with transaction():
        db.session.add(
            Reconciliation(
                public_id=str(uuid.uuid4()),
                workspace_id=lane.workspace.id,
                connection_id=lane.connection.id,
                direction=Direction.INCOMING,
                stream_id=db.session.scalar(sa.select(Stream.id)),
                state=ReconciliationState.DONE,
                asked_by="schedule",
                from_sequence=1,
                to_sequence=10,
                todo="[]",
                compared=10,
                found=1,
                repaired=1,
                differences=json.dumps(differences),
                created_at=now,
                updated_at=now,
            )
        )

    page = console.page(f"connections/{lane.connection.public_id}/stream")

    assert "7 : we acknowledged it, and have it no more; asked for" in page.text
