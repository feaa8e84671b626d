"""What runs for every event, and every few seconds, finds its rows by an index among a million."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.clock import now_ms
from app.database import db, is_sqlite, transaction
from app.jobs import maintenance, retention
from app.models import Direction
from app.outbox import deliver
from app.outbox.deliver import drain
from app.outbox.publish import NewEvent, publish_events
from app.reports.deliveries import list_deliveries
from app.reports.event_log import get_event_messages
from bench import rows
from tests.exchange import RemotePeer, Scene, connect, make_scene, subscribe
from tests.inbox.conftest import receive_batch_of
from tests.plans import enlarge, explained, statements

MILLION = 1_000_000
LARGE = ("event", "delivery", "attempt", "attempt_entry", "event_trace", "event_alias")
#: PostgreSQL reckons a look into an index and its row as about 8, a scan of a million rows as over 20,000.
CHEAP = 2_000.0

#: Rows of the large tables that history does not fill.
REST = (
    "INSERT INTO event_trace (connection_id, message_id, digest, key_id, stream_id, sequence, gone_at)"
    " SELECT connection_id, 'gone' || substr(message_id, 5), '', key_id, stream_id, sequence + 1000000,"
    " created_at FROM event WHERE direction = 'incoming'",
    "INSERT INTO event_alias (stream_id, sequence, event_id)"
    " SELECT stream_id, sequence + 2000000, id FROM event WHERE direction = 'incoming'",
    "INSERT INTO attempt_entry (delivery_id, attempt_id, number, trigger)"
    " SELECT id, attempt_id, 1, 'auto' FROM delivery WHERE attempt_id IS NOT NULL",
)


@pytest.fixture
def scene(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A connection in both directions with a long history, beside one on which much waits."""
    made = make_scene()
    subscribe(made.connection)
    subscribe(made.connection, direction=Direction.INCOMING)
    monkeypatch.setattr(deliver, "client", lambda: made.peer)
    away = connect(made.workspace, RemotePeer(), retry_at=now_ms() + 60_000)
    here, there = (rows.Place(made.workspace.id, one.id) for one in (made.connection, away))
    rows.outgoing(db.engine, here, rows.SENT, 6_000, days=6)
    rows.outgoing(db.engine, there, rows.WAITING, 2_000, days=6)
    rows.incoming(db.engine, here, rows.CAME, 2_000, days=6)
    with transaction():
        for statement in REST:
            db.session.execute(sa.text(statement))
    enlarge(dict.fromkeys(LARGE, MILLION))
    return made


def _publish(scene: Scene) -> None:
    publish_events(scene.workspace.id, [NewEvent("task.created", {"n": n}) for n in range(3)])


def _deliver(scene: Scene) -> None:
    assert drain(scene.connection.id) == 3


def _receive(scene: Scene) -> None:
    events = {n: scene.peer.event(payload={"n": n}) for n in (1, 2, 4)}
    receive_batch_of(scene, events)
    receive_batch_of(scene, events)


def _sweep(_scene: Scene) -> None:
    maintenance.sweep()


def _delete_old(_scene: Scene) -> None:
    assert retention.run(60.0, lambda _s: None)


#: What is done, and what has to be done before.
WORK: dict[str, tuple[Callable[[Scene], None], ...]] = {
    "publish": (_publish,),
    "deliver": (_deliver, _publish),
    "receive": (_receive,),
    "sweep": (_sweep, _publish),
    "delete what is old": (_delete_old,),
}


@pytest.mark.parametrize("name", WORK)
def test_a_hot_statement_reads_no_large_table_as_a_whole(scene: Scene, name: str) -> None:
    act, *before = WORK[name]
    for step in before:
        step(scene)

    with statements() as seen:
        act(scene)
    db.session.rollback()
    plans = {text: explained(text, given) for text, given in seen if _is_planned(text)}

    assert plans
    assert [f"{text}\n{plan}" for text, plan in plans.items() if _scanned(plan)] == []


def _is_planned(text: str) -> bool:
    """Whether a statement touches a large table."""
    return bool(
        re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", text)
        and re.search(rf"\b({'|'.join(LARGE)})\b", text)
    )


def _scanned(plan: str) -> list[str]:
    """The lines of a plan that go through a large table, or cost as much."""
    names = "|".join(LARGE)
    lines = plan.splitlines()
    if is_sqlite():
        return [line for line in lines if re.match(rf"SCAN ({names})\b", line)]
    whole = [line for line in lines if re.search(rf"Seq Scan on ({names})\b", line)]
    dear = [lines[0]] if (_cost(lines[0]) > CHEAP) else []
    return whole + dear


def _cost(line: str) -> float:
    found: Any = re.search(r"cost=[\d.]+\.\.([\d.]+)", line)
    return float(found[1])


#: Lists whose filter a planner could believe to fit every so-many-th row, and the index that has it.
FILTERED: dict[str, tuple[Callable[[Scene], Any], str]] = {
    "events that came": (
        lambda scene: get_event_messages(scene.workspace.id, direction="incoming"),
        "workspace_id_direction",
    ),
    "events of a type": (
        lambda scene: get_event_messages(scene.workspace.id, event_type="bench.came"),
        "workspace_id_event_type",
    ),
    "events of a status": (
        lambda scene: get_event_messages(scene.workspace.id, status="dead"),
        "workspace_id_status",
    ),
    "events over a connection": (
        lambda scene: get_event_messages(
            scene.workspace.id, connection_id=scene.connection.public_id, direction="incoming"
        ),
        "connection_id_id",
    ),
    "deliveries of a connection": (
        lambda scene: list_deliveries(scene.workspace.id, connection_id=scene.connection.public_id),
        "connection_id_id",
    ),
    "deliveries of a status": (
        lambda scene: list_deliveries(scene.workspace.id, status="dead"),
        "workspace_id_state",
    ),
}


@pytest.mark.parametrize("name", FILTERED)
def test_a_list_with_a_filter_is_read_by_the_index_that_has_it(scene: Scene, name: str) -> None:
    ask, index = FILTERED[name]

    with statements() as seen:
        ask(scene)
    db.session.rollback()
    [plan] = [explained(*found) for found in seen if "ORDER BY" in found[0] and "count(" not in found[0]]

    assert index in plan
