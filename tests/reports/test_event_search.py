"""Search in the event log: what fits is found page by page, whatever index leads there, and within bounds."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from app import clock
from app.database import db, is_sqlite, transaction
from app.errors import InvalidCursor
from app.models import Connection, Direction, Event, EventStatus
from app.protocol.states import DeliveryState
from app.reports import event_search
from app.reports.event_search import EventPage, EventRow, neighbours, search_events
from app.reports.event_types import seen_types, types_of
from app.reports.search import parse
from tests.exchange import RemotePeer, Scene, connect, make_scene
from tests.reports.rows import add_delivery, add_event
from tests.reports.test_plans import plan, statements


@pytest.fixture
def scene(app: object) -> Scene:
    """A workspace with events of three types, in and out, over two peers; and another one with the same."""
    fill(make_scene())
    made = make_scene()
    fill(made)
    if not is_sqlite():
        with transaction():
            db.session.execute(sa.text("ANALYZE"))
    return made


def fill(scene: Scene) -> None:
    now = clock.now_ms()
    other = connect(scene.workspace, RemotePeer(base_url="https://events.birch.example"))
    with transaction():
        named = db.session.get_one(Connection, other.id)
        assert named.peer is not None
        named.peer.name = "Birch Freight"
        for n in range(24):
            at = now - (24 - n) * 3_600_000
            came_over = (scene.connection, other)[n % 2] if n % 3 == 0 else None
            event = add_event(
                scene.workspace.id,
                came_over,
                event_type=("task.created", "task.done.late", "note")[n % 3 if n % 4 else 0],
                body=body(n),
                status=EventStatus.DELIVERED if n % 5 else EventStatus.DEAD,
                created_at=at,
            )
            if came_over is None and n % 5 != 4:
                state = DeliveryState.DELIVERED if n % 5 else DeliveryState.DEAD
                add_delivery(event, (scene.connection, other)[n % 2], state=state)


def body(n: int) -> str:
    payload = {"order": {"id": f"A-{n % 7}", "lines": [{"sku": n}]}, "rush": n % 2 == 0}
    return orjson.dumps({"eventType": "x", "payload": payload, "subject": f"SH-{n % 4}"}).decode()


def look(scene: Scene, query: str, **more: Any) -> EventPage:
    return search_events(scene.workspace.id, parse(query, clock.now_ms()), **more)


def all_pages(scene: Scene, query: str, limit: int) -> list[EventRow]:
    page = look(scene, query, limit=limit)
    rows = page.rows
    while page.older is not None:
        page = look(scene, query, older=page.older, limit=limit)
        rows += page.rows
    return rows


def events(scene: Scene, fits: Callable[[Event, dict[str, Any]], bool]) -> list[int]:
    """Numbers of the workspace's events that fit, newest first, found by looking at each of them."""
    rows = db.session.scalars(
        sa.select(Event).where(Event.workspace_id == scene.workspace.id).order_by(Event.id.desc())
    )
    return [row.id for row in rows if fits(row, orjson.loads(row.body))]


QUERIES: dict[str, Callable[[Event, dict[str, Any]], bool]] = {
    "": lambda _event, _message: True,
    "direction:in": lambda event, _message: event.direction is Direction.INCOMING,
    "direction:out": lambda event, _message: event.direction is Direction.OUTGOING,
    "status:dead": lambda event, _message: event.status is EventStatus.DEAD,
    "status:dead,delivered": lambda _event, _message: True,
    "type:task.created": lambda event, _message: event.event_type == "task.created",
    "type:task.*": lambda event, _message: event.event_type == "task.created",
    "type:task.**,note": lambda _event, _message: True,
    "type:nothing.**": lambda _event, _message: False,
    "after:5h": lambda event, _message: event.created_at >= clock.now_ms() - 5 * 3_600_000,
    "before:20h": lambda event, _message: event.created_at <= clock.now_ms() - 20 * 3_600_000,
    "after:15h before:6h type:task.**": lambda event, _message: (
        clock.now_ms() - 15 * 3_600_000 <= event.created_at <= clock.now_ms() - 6 * 3_600_000
        and event.event_type.startswith("task.")
    ),
    "subject:SH-2": lambda _event, message: message["subject"] == "SH-2",
    "payload.order.id:A-3": lambda _event, message: message["payload"]["order"]["id"] == "A-3",
    "payload.order.lines.sku:7,8": lambda _event, message: (
        message["payload"]["order"]["lines"][0]["sku"] in (7, 8)
    ),
    "payload.order.lines.0.sku:9": lambda _event, message: (
        message["payload"]["order"]["lines"][0]["sku"] == 9
    ),
    "payload.rush:true direction:out": lambda event, message: (
        message["payload"]["rush"] and event.direction is Direction.OUTGOING
    ),
    "payload.id:A-3": lambda _event, _message: False,
    "sh-1": lambda _event, message: message["subject"] == "SH-1",
    '"rush" payload.order.id:A-0 status:dead': lambda event, message: (
        event.status is EventStatus.DEAD and message["payload"]["order"]["id"] == "A-0"
    ),
    "100%": lambda _event, _message: False,
}


@pytest.mark.parametrize("query", QUERIES)
def test_a_search_finds_what_looking_at_each_event_finds(scene: Scene, query: str) -> None:
    expected = events(scene, QUERIES[query])

    found = [row.id for row in all_pages(scene, query, limit=4)]

    assert found == expected


def test_a_peer_is_found_by_its_name_its_address_or_its_connection(scene: Scene) -> None:
    other = db.session.scalars(
        sa.select(Connection).where(
            Connection.workspace_id == scene.workspace.id, Connection.id != scene.connection.id
        )
    ).one()
    went = sa.text("SELECT event_id FROM delivery WHERE connection_id = :connection")
    sent = set(db.session.scalars(went, {"connection": other.id}))
    expected = events(scene, lambda event, _message: event.connection_id == other.id or event.id in sent)

    by_name = [row.id for row in all_pages(scene, 'peer:"birch fr"', limit=3)]
    by_host = [row.id for row in all_pages(scene, "peer:events.birch", limit=5)]
    by_id = [row.id for row in all_pages(scene, f"peer:{other.public_id[:13]}", limit=50)]
    incoming = [row.id for row in all_pages(scene, "peer:birch direction:in", limit=2)]

    assert by_name == by_host == by_id == expected
    assert set(incoming) == set(expected) - sent
    assert look(scene, "peer:nobody").rows == []


def test_a_message_id_may_be_begun(scene: Scene) -> None:
    [row] = look(scene, "", limit=1).rows

    [found] = look(scene, f"id:{row.message_id[:10].upper()}").rows

    assert found.message_id == row.message_id
    assert look(scene, f"id:{row.message_id} type:elsewhere").rows == []


def test_pages_lead_forwards_and_back(scene: Scene) -> None:
    first = look(scene, "direction:out", limit=3)
    second = look(scene, "direction:out", older=first.older, limit=3)
    third = look(scene, "direction:out", older=second.older, limit=3)

    back = look(scene, "direction:out", newer=third.newer, limit=3)
    start = look(scene, "direction:out", newer=back.newer, limit=3)

    assert first.newer is None
    assert [row.id for row in back.rows] == [row.id for row in second.rows]
    assert [row.id for row in start.rows] == [row.id for row in first.rows]
    assert start.newer is None


def test_a_cursor_of_another_query_is_refused(scene: Scene) -> None:
    page = look(scene, "direction:out", limit=3)

    with pytest.raises(InvalidCursor):
        look(scene, "direction:in", older=page.older)


def test_a_search_that_takes_too_long_stops_and_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_search, "MAX_ROWS", 4)
    monkeypatch.setattr(event_search, "_FIRST_BLOCK", 2)
    expected = events(scene, lambda _event, message: message["payload"]["order"]["lines"][0]["sku"] == 1)

    pages = [look(scene, "payload.order.lines.sku:1", limit=1)]
    while pages[-1].older is not None:
        pages.append(look(scene, "payload.order.lines.sku:1", older=pages[-1].older, limit=1))

    assert pages[0].stopped
    assert (pages[0].rows, pages[0].searched) == ([], 10)  # blocks of 2 and 8
    assert [row.id for page in pages for row in page.rows] == expected
    assert not pages[-1].stopped


def test_neighbours_are_those_of_the_query(scene: Scene) -> None:
    rows = all_pages(scene, "type:task.**", limit=50)
    search = parse("type:task.**", clock.now_ms())

    inner = neighbours(scene.workspace.id, search, rows[3].id)
    newest = neighbours(scene.workspace.id, search, rows[0].id)

    assert inner == (rows[2].message_id, rows[4].message_id)
    assert newest == (None, rows[1].message_id)


def test_a_row_sums_up_where_the_event_went(scene: Scene) -> None:
    event = add_event(scene.workspace.id, status=EventStatus.PENDING)
    add_delivery(event, scene.connection, state=DeliveryState.DELIVERED)
    for state in (DeliveryState.PENDING, DeliveryState.WITHDRAWN):
        add_delivery(event, connect(scene.workspace, RemotePeer()), state=state)
    paused = connect(scene.workspace, RemotePeer(), paused_outgoing=True)

    queued = look(scene, f"id:{event.message_id}").rows[0]
    add_delivery(event, paused)
    held = look(scene, f"id:{event.message_id}").rows[0]
    nobody = add_event(scene.workspace.id, status=EventStatus.UNSUBSCRIBED)
    unsubscribed = look(scene, f"id:{nobody.message_id}").rows[0]

    assert (queued.state, queued.state_words, queued.peer) == ("pending", "1/2 queued", "2 peers")
    assert (held.state, held.state_words) == ("held", "1/3 held")
    assert (unsubscribed.state_words, unsubscribed.peer) == ("no subscriber", "nobody")


def test_types_are_found_by_leaps(scene: Scene) -> None:
    with statements() as seen:
        found = seen_types(scene.workspace.id)
    [(statement, parameters)] = [one for one in seen if "leap" in one[0]]

    assert found == ["note", "task.created", "task.done.late"]
    assert seen_types(scene.workspace.id, most=2) == ["note", "task.created"]
    assert types_of(scene.workspace.id, ("task.**", "other")) == ["other", "task.created", "task.done.late"]
    assert not re.search(r"\bSCAN event\b|Seq Scan on event\b", plan(statement, parameters))


def plans(scene: Scene, query: str) -> Iterator[str]:
    page = look(scene, query, limit=2)
    with statements() as seen:
        look(scene, query, older=page.older, limit=2)
        look(scene, query, newer=page.older, limit=2)
    for statement, parameters in seen:
        if "LIMIT" in statement and "ORDER BY" in statement:
            yield plan(statement, parameters)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "direction:out",
        "status:dead",
        "type:task.created",
        "type:task.**",
        "peer:birch",
        "after:20h",
        "rush",
    ],
)
def test_every_way_through_the_log_is_an_index_in_its_order(scene: Scene, query: str) -> None:
    found = list(plans(scene, query))

    assert found
    for text in found:
        assert "Seq Scan" not in text, text
        assert "Sort" not in text, text
        assert "TEMP B-TREE" not in text, text
        assert not any(line.startswith("SCAN") and "CONSTANT" not in line for line in text.splitlines()), text
