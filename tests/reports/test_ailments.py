"""What ails a connection, in words, and what the doctor and the gauges make of it."""

from typing import Any

import pytest
from flask import Flask

from app import clock, queue
from app.config import settings
from app.database import db, transaction
from app.models import Connection
from app.protocol.states import ConnectionStatus
from app.reports import ailments, gauges, health
from app.reports.ailments import what_ails
from tests.exchange import RemotePeer, Scene, connect, make_scene
from tests.reports.rows import add_delivery, add_event

HOUR_MS = 3_600_000
SOON = 60_000


@pytest.fixture
def engine() -> str:
    """Words are the same whatever the database is."""
    return "sqlite"


@pytest.fixture
def scene(app: Flask) -> Scene:
    """An active connection."""
    return make_scene()


def change(connection: Connection, **values: Any) -> None:
    with transaction():
        for name, value in values.items():
            setattr(connection, name, value)


def check(name: str) -> dict[str, Any]:
    return next(dict(check) for check in health.doctor() if check["name"] == name)


def series(name: str) -> dict[tuple[str, ...], float]:
    return next(dict(gauge.values) for gauge in gauges.gauges() if gauge.name == name)


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ({}, None, ""),
        ({"status": ConnectionStatus.SUSPENDED, "suspended_by_me": True}, "suspended", "by us"),
        ({"status": ConnectionStatus.SUSPENDED, "suspended_by_peer": True}, "suspended", "the other side"),
        ({"status": ConnectionStatus.DISCONNECTED}, "not_active", "disconnected"),
        ({"paused_outgoing": True}, "paused", "paused here"),
        ({"paused_incoming": True}, None, ""),
        ({"key_review": True}, "key_review", "nobody vouches"),
        ({"hold_code": "blocked", "hold_detail": "not you"}, "held", "blocked (not you)"),
        ({"hold_code": "access_denied", "denied_since": -23 * HOUR_MS}, "held", "access_denied"),
        ({"hold_code": "access_denied", "denied_since": -24 * HOUR_MS}, "lost", "has lost this connection"),
        ({"failures": 2, "retry_at": SOON, "wait_code": "timeout"}, "failing", "2 times in a row (timeout)"),
        (
            {"failures": 6, "retry_at": SOON, "wait_code": "timeout", "breaker_opened_at": -SOON},
            "breaker",
            "only single events are tried",
        ),
        ({"retry_at": SOON, "wait_code": "rate_limited"}, "asked_to_wait", "asked to wait (rate_limited)"),
        (
            {"failures": 1, "retry_at": SOON, "wait_code": "clock_skew", "clock_skew_ms": 600_000},
            "clock_skew",
            "10 min ahead of ours",
        ),
        (
            {"failures": 1, "retry_at": SOON, "wait_code": "clock_skew", "clock_skew_ms": 5},
            "clock_skew",
            "says that our clocks differ",
        ),
        ({"failures": 3, "retry_at": -1}, None, ""),
    ],
)
def test_each_ailment_has_its_words(
    scene: Scene, values: dict[str, Any], kind: str | None, words: str
) -> None:
    now = clock.now_ms()
    times = ("retry_at", "denied_since", "breaker_opened_at")
    change(scene.connection, **{n: v + now if n in times else v for n, v in values.items()})

    ailment = what_ails(scene.reload())

    assert (ailment and ailment.kind) == kind
    assert words in (ailment.detail if ailment else "")
    assert ailment is None or ailment.kind in ailments.__doc__


def test_the_doctor_says_who_lost_a_connection_and_what_to_do(scene: Scene) -> None:
    change(scene.connection, hold_code="access_denied", denied_since=clock.now_ms() - 25 * HOUR_MS)

    seen = check("holds")

    assert not seen["ok"]
    assert "1 peer has lost the connection with us" in seen["detail"]
    assert "flask connection disconnect" in seen["fix"]


def test_the_doctor_names_a_peer_that_does_not_answer_but_is_content_with_us(scene: Scene) -> None:
    change(scene.connection, failures=7, breaker_opened_at=clock.now_ms(), wait_code="timeout")

    seen = check("peers")

    assert seen["ok"]
    assert scene.connection.public_id in seen["detail"]


@pytest.mark.parametrize(
    ("skews", "ok", "words"),
    [
        ([0, 1_500, -900], True, "agree with ours within a minute"),
        ([0, 400_000, 0], False, "7 min ahead of ours; beyond 5 minutes nothing is accepted"),
        ([-90_000], False, "90.0 s behind ours"),
        ([599_000, 601_000, 600_000], False, "most of 3 peers are 10 min ahead of ours, so it is ours"),
    ],
)
def test_the_doctor_tells_whose_clock_is_wrong(scene: Scene, skews: list[int], ok: bool, words: str) -> None:
    now = clock.now_ms()
    first, *others = skews
    change(scene.connection, clock_skew_ms=first, clock_skew_at=now)
    for skew in others:
        connect(scene.workspace, RemotePeer(), clock_skew_ms=skew, clock_skew_at=now)

    seen = check("clocks")

    assert (seen["ok"], words in seen["detail"]) == (ok, True), seen


def test_a_clock_that_was_measured_long_ago_says_nothing(scene: Scene) -> None:
    change(scene.connection, clock_skew_ms=600_000, clock_skew_at=clock.now_ms() - 25 * HOUR_MS)

    assert check("clocks")["ok"]
    assert series("tidings_clock_skew_seconds") == {(): 0.0}


def test_the_doctor_notices_that_base_url_was_changed_after_peers_connected(scene: Scene) -> None:
    change(scene.connection, our_base_url="https://before.example.org")

    seen = check("address")

    assert not seen["ok"]
    assert settings().base_url in seen["detail"]
    assert "BASE_URL back to https://before.example.org" in seen["fix"]


def test_an_ended_connection_knows_no_address_any_more(scene: Scene) -> None:
    change(scene.connection, our_base_url="https://before.example.org", status=ConnectionStatus.DISCONNECTED)

    assert check("address")["ok"]


def test_gauges_count_what_ails_and_how_long_the_oldest_waits(scene: Scene) -> None:
    with clock.frozen_at(clock.now_ms()) as now:
        event = add_event(scene.workspace.id)
        add_delivery(event, scene.connection, created_at=now.now_ms)
        held = connect(scene.workspace, RemotePeer(), hold_code="access_denied", denied_since=1)
        add_delivery(event, held, created_at=now.now_ms)
        connect(scene.workspace, RemotePeer(), failures=9, breaker_opened_at=1)
        now.advance(90_000)

        found = {gauge.name: dict(gauge.values) for gauge in gauges.gauges()}

    assert found["tidings_connections_ailing"] == {
        ("breaker",): 1,
        ("failing",): 0,
        ("held",): 1,
        ("lost",): 1,
        ("key_review",): 0,
        ("paused",): 0,
    }
    assert found["tidings_oldest_waiting_seconds"] == {("pending",): 90.0, ("held",): 90.0}
    assert found["tidings_deliveries_open"][("held",)] == 1


def test_gauges_show_each_worker_and_queue(app: Flask) -> None:
    queue.beat()
    queue.wake_drain(1)

    workers, queues = series("tidings_worker_heartbeat_age_seconds"), series("tidings_queue_jobs")

    assert [name for (name,) in workers] == [queue.worker_name()]
    assert 0 <= workers[(queue.worker_name(),)] < 10
    assert queues[("deliveries",)] == 1
    assert set(queues) == {(name,) for name in queue.QUEUES}


def test_words_of_a_peer_are_shown_and_not_obeyed(scene: Scene) -> None:
    change(scene.connection.peer, name="Evil\u202egnp.exe\n")
    change(scene.connection, failures=7, breaker_opened_at=1, retry_at=1, wait_code="timeout")

    assert "\u202e" not in check("peers")["detail"]
    assert db.session.get(Connection, scene.connection.id) is not None
