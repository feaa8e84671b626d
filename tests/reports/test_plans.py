"""Every list is read by an index in its own order: no scan of a table, no sort, whatever the page.

And what is written in passing costs the same however much is there.
"""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app.database import db, is_sqlite, transaction
from app.models import Direction
from app.outbox.dead_letters import retry_event
from app.outbox.publish import NewEvent, publish_events
from app.protocol.states import DeliveryState
from app.reports.connections import list_connections
from app.reports.deliveries import list_deliveries
from app.reports.event_detail import event_facts
from app.reports.event_log import get_event_message, get_event_messages
from app.reports.proof import own_receipt, read_proof
from app.reports.subscriptions import get_event_subscriptions
from app.reports.why import explain
from tests.exchange import Scene, connect, make_scene, subscribe
from tests.plans import statements
from tests.reports.rows import add_delivery, add_event

Ask = Callable[[Scene, str | None], Any]


def _events(**filters: Any) -> Ask:
    return lambda scene, cursor: get_event_messages(scene.workspace.id, limit=2, cursor=cursor, **filters)


def _events_over(**filters: Any) -> Ask:
    return lambda scene, cursor: get_event_messages(
        scene.workspace.id, limit=2, cursor=cursor, connection_id=scene.connection.public_id, **filters
    )


def _deliveries(**filters: Any) -> Ask:
    return lambda scene, cursor: list_deliveries(scene.workspace.id, limit=2, cursor=cursor, **filters)


LISTS: dict[str, Ask] = {
    "events": _events(),
    "events in": _events(direction="incoming"),
    "events out": _events(direction="outgoing"),
    "events to consume": _events(direction="incoming", order="asc"),
    "events of a type": _events(event_type="task.created"),
    "events of a status": _events(status="delivered"),
    "events of a time": _events(created_after=1, created_before=2**50),
    "events over a connection, in": _events_over(direction="incoming"),
    "events over a connection, out": _events_over(direction="outgoing"),
    "events over a connection, to consume": _events_over(direction="incoming", order="asc"),
    "deliveries": _deliveries(),
    "deliveries of a status": _deliveries(status="dead"),
    "deliveries of a type": _deliveries(event_type="task.created"),
    "deliveries pending": _deliveries(status="pending"),
    "deliveries of a connection": lambda scene, cursor: list_deliveries(
        scene.workspace.id, limit=2, cursor=cursor, connection_id=scene.connection.public_id
    ),
    "connections": lambda scene, cursor: list_connections(scene.workspace.id, limit=2, cursor=cursor),
    "connections of a status": lambda scene, cursor: list_connections(
        scene.workspace.id, limit=2, cursor=cursor, status="active"
    ),
    "subscriptions": lambda scene, cursor: get_event_subscriptions(
        scene.workspace.id, limit=2, cursor=cursor
    ),
    "subscriptions of a direction and status": lambda scene, cursor: get_event_subscriptions(
        scene.workspace.id, limit=2, cursor=cursor, direction="outgoing", status="active"
    ),
}


@pytest.fixture
def scene(app: object) -> Scene:
    """Rows of everything in two workspaces; on PostgreSQL, which wants them, statistics too."""
    make_rows(make_scene())
    made = make_scene()
    make_rows(made)
    if not is_sqlite():
        with transaction():
            db.session.execute(sa.text("ANALYZE"))
    return made


def make_rows(scene: Scene) -> None:
    with transaction():
        for _ in range(30):
            connect(scene.workspace, scene.peer)
            subscribe(scene.connection)
            add_event(scene.workspace.id, scene.connection)
            sent = add_event(scene.workspace.id)
            add_delivery(sent, scene.connection, state=DeliveryState.DEAD)
            add_delivery(add_event(scene.workspace.id), scene.connection)
        subscribe(scene.connection, direction=Direction.INCOMING)


def plan(statement: str, parameters: Any) -> str:
    """How the engine would execute it, if it had to avoid scans and sorts."""
    connection = db.session.connection()
    if is_sqlite():
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        return "\n".join(row[-1] for row in rows)
    for setting in ("enable_seqscan", "enable_sort", "enable_incremental_sort", "enable_bitmapscan"):
        connection.exec_driver_sql(f"SET LOCAL {setting} = off")
    return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_read_in_the_order_of_an_index(scene: Scene, name: str) -> None:
    ask = LISTS[name]
    first = ask(scene, None)

    with statements() as seen:
        ask(scene, first.next_cursor)
    pages = [found for found in seen if "LIMIT" in found[0] and "ORDER BY" in found[0]]
    plans = [plan(*found) for found in pages]

    assert first.next_cursor is not None
    assert plans
    for text in plans:
        assert "Seq Scan" not in text, text
        assert "Sort" not in text, text
        assert "TEMP B-TREE" not in text, text
        assert not any(line.startswith("SCAN") for line in text.splitlines()), text


NAMED: dict[str, Callable[[int, str], Any]] = {
    "an event": get_event_message,
    "its proof": read_proof,
    "its page": event_facts,
    "our receipt": own_receipt,
    "why": explain,
    "to send it again": retry_event,
}


@pytest.mark.parametrize("name", NAMED)
def test_an_event_is_found_by_its_id_and_not_among_all(scene: Scene, name: str) -> None:
    event = add_event(scene.workspace.id)
    workspace_id = scene.workspace.id

    with statements() as seen:
        NAMED[name](workspace_id, event.message_id)
    plans = [plan(*found) for found in seen if "event.message_id = " in found[0]]

    assert plans
    for text in plans:
        assert "ix_event_workspace_id" not in text, text
        assert "message_id" in text, text


def test_waiting_is_counted_in_the_index(scene: Scene) -> None:
    with statements() as seen:
        list_connections(scene.workspace.id)
    counts = [found for found in seen if "count(*)" in found[0]]

    assert counts
    for found in counts:
        text = plan(*found)
        assert "COVERING INDEX" in text or "ix_delivery_connection_id_state" in text, text


def test_publishing_reads_no_event_to_send_it_on(scene: Scene) -> None:
    with statements() as seen:
        publish_events(scene.workspace.id, [NewEvent("task.created", {"n": n}) for n in range(3)])

    assert [text for text, _ in seen if "INSERT INTO delivery" in text]
    assert [text for text, _ in seen if "FROM event" in text] == []
