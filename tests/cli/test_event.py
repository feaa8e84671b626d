"""`flask event`: publish, list, show, retry, and why nobody got it."""

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.models import Connection, Delivery, Subscription
from app.outbox import deliver
from app.outbox.publish import publish_event
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from app.reports.why import explain
from tests.cli.conftest import RunFlask
from tests.exchange import RemotePeer, Scene, connect, subscribe


@pytest.fixture
def event(flask: RunFlask, scene: Scene) -> RunFlask:
    """Run `flask event ARGS` in the scene's workspace."""
    return lambda *args, given="": flask("event", *args, "--workspace", scene.workspace.slug, given=given)


def test_an_event_is_published_with_its_payload(event: RunFlask, scene: Scene) -> None:
    subscribe(scene.connection)

    said = event(
        "publish",
        "task.created",
        "--payload",
        '{"id": 7}',
        "-o",
        "json",
    ).json

    shown = event("show", said["messageId"][:13], "-o", "json").json
    assert said["deliveries"] == 1
    assert (shown["eventType"], shown["payload"]) == ("task.created", {"id": 7})
    assert len(shown["deliveries"]) == 1


@pytest.mark.parametrize("given", ["-", "@FILE"])
def test_the_payload_comes_from_stdin_or_a_file(
    event: RunFlask, scene: Scene, given: str, tmp_path: Path
) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"id": 8}')
    payload = given.replace("FILE", str(file))

    event("publish", "task.created", "--payload", payload,
          given='{"id": 8}')  # fmt: skip

    shown = event("show", "last", "-o", "json").json
    assert shown["payload"] == {"id": 8}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["Task.Created"], "eventType"),
        (["task.created", "--payload", "[1]"], "JSON object"),
        (["task.created", "--payload", "{"], "--payload is not JSON"),
        (["task.created", "--payload", '{"a": 1e400}'], "--payload"),
        (["task.created", "--payload", "@/nowhere/at/all"], "--payload"),
        ([], "Give either TYPE or --lines"),
    ],
)
def test_an_event_without_sense_is_a_usage_error(
    event: RunFlask, scene: Scene, args: list[str], words: str
) -> None:
    said = event("publish", *args)

    assert said.code == 2
    assert words in said.err
    assert event("list", "-o", "json").json["data"] == []


def test_a_file_of_events_is_published_line_by_line(event: RunFlask, scene: Scene, tmp_path: Path) -> None:
    subscribe(scene.connection)
    lines = tmp_path / "events.jsonl"
    lines.write_text(
        "".join(json.dumps({"eventType": "task.created", "payload": {"n": n}}) + "\n\n" for n in range(700))
    )

    said = event("publish", "--lines", str(lines), "-o", "json")

    assert said.json == {"published": 700, "deliveries": 700}
    assert db.session.scalar(sa.select(sa.func.count()).select_from(Delivery)) == 700


def test_a_bad_line_is_named_and_what_went_before_is_said(
    event: RunFlask, scene: Scene, tmp_path: Path
) -> None:
    lines = tmp_path / "events.jsonl"
    good = json.dumps({"eventType": "task.created"}) + "\n"
    lines.write_text(good * 501 + json.dumps({"eventType": "Task"}) + "\n")

    said = event("publish", "--lines", str(lines))

    assert said.code == 2
    assert "event 502" in said.err
    assert "500 events before it are published" in said.err


def test_a_line_that_is_no_event_is_named(event: RunFlask, scene: Scene, tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_text('{"eventType": "task.created"}\n{"type": "task.created"}\n')

    said = event("publish", "--lines", str(lines))

    assert said.code == 2
    assert "line 2" in said.err


def test_a_file_with_bad_lines_publishes_nothing_and_names_each(
    event: RunFlask, scene: Scene, tmp_path: Path
) -> None:
    lines = tmp_path / "events.jsonl"
    good = json.dumps({"eventType": "task.created"}) + "\n"
    lines.write_text(good * 501 + "{\n" + good + '{"type": "task.created"}\n')

    said = event("publish", "--lines", str(lines))

    assert said.code == 2
    assert "Nothing was published. line 502 is not JSON" in said.err
    assert "line 504: a line has eventType" in said.err
    assert event("list", "-o", "json").json["data"] == []


def test_events_are_listed_by_type_and_page(event: RunFlask, scene: Scene) -> None:
    for event_type in ("task.created", "task.created", "invoice.paid"):
        publish_event(scene.workspace.id, event_type, {})

    first = event("list", "--type", "task.created", "--limit", "1", "-o", "json").json
    rest = event(
        "list",
        "--type",
        "task.created",
        "--limit",
        "1",
        "--cursor",
        first["nextCursor"],
        "-o",
        "json",
    ).json

    assert [row["eventType"] for row in first["data"] + rest["data"]] == ["task.created"] * 2
    assert (first["hasMore"], rest["hasMore"]) == (True, False)
    assert "invoice.paid" in event("list").out


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--after", "yesterday"], 2),
        (["--order", "asc"], 2),
        (["--cursor", "nonsense"], 2),
        (["--type", "task.*"], 2),
        (["--limit", "0"], 2),
        (["--connection", "ffffffff"], 3),
    ],
)
def test_a_list_that_cannot_be_is_refused(event: RunFlask, scene: Scene, args: list[str], code: int) -> None:
    said = event("list", *args)

    assert said.code == code
    assert said.err.count("Error: ") == 1


def test_a_receipt_is_shown_with_the_digest_that_it_is_for(
    event: RunFlask, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(scene.connection)
    monkeypatch.setattr(deliver, "client", lambda: scene.peer)
    published = publish_event(scene.workspace.id, "task.created", {})
    deliver.drain(scene.connection.id)

    shown = event("show", published.message_id, "-o", "json").json

    [receipt] = shown["receipts"]
    assert shown["status"] == "delivered"
    assert (receipt["status"], receipt["digest"]) == ("stored", shown["digest"])
    assert (receipt["instanceId"], receipt["keyId"]) == (scene.peer.instance_id, scene.peer.key.key_id)
    assert shown["digest"] in event("show", "last").out


def test_a_dead_delivery_is_sent_again(event: RunFlask, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    with transaction():
        db.session.execute(sa.update(Delivery).values(state=DeliveryState.DEAD, error_code="expired"))

    said = event("retry", published.message_id, "-o", "json").json

    assert said == {"count": 1, "dryRun": False, "groups": []}
    db.session.rollback()
    assert db.session.scalars(sa.select(Delivery.state)).all() == [DeliveryState.PENDING]


def test_retrying_an_unknown_event_is_not_found(event: RunFlask, scene: Scene) -> None:
    assert event("retry", "ffffffff").code == 3


# Why nobody got it


def why(scene: Scene, event_type: str = "task.created") -> tuple[str, str]:
    """The reason for the scene's connection after an event was published."""
    published = publish_event(scene.workspace.id, event_type, {})
    return reason_of(scene, published.message_id)


def reason_of(scene: Scene, message_id: str) -> tuple[str, str]:
    db.session.expire_all()
    found = {row["connectionId"]: row for row in explain(scene.workspace.id, message_id)}
    row = found[scene.connection.public_id]
    return row["reason"], f"{row['detail']} {row['step']}".strip()


def set_connection(scene: Scene, **columns: Any) -> None:
    with transaction():
        db.session.execute(
            sa.update(Connection).where(Connection.id == scene.connection.id).values(**columns)
        )


def test_nobody_asked(scene: Scene) -> None:
    assert why(scene)[0] == "nothing_asked_for"


def test_no_pattern_fits_and_the_patterns_are_named(scene: Scene) -> None:
    subscribe(scene.connection, "invoice.*")
    subscribe(scene.connection, "order.**")

    reason, detail = why(scene)

    assert reason == "no_pattern_matches"
    assert "invoice.*, order.**" in detail


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (SubscriptionStatus.PENDING, "not_approved"),
        (SubscriptionStatus.EXPIRED, "lease_expired"),
        (SubscriptionStatus.REVOKED, "subscription_ended"),
        (SubscriptionStatus.CANCELLED, "subscription_ended"),
        (SubscriptionStatus.REJECTED, "subscription_ended"),
    ],
)
def test_a_subscription_that_is_not_active_is_named(
    scene: Scene, status: SubscriptionStatus, reason: str
) -> None:
    subscription = subscribe(scene.connection, "task.*", status=status, granted_event_type=None)

    found, detail = why(scene)

    assert found == reason
    assert "task.*" in detail
    assert (subscription.public_id in detail) is (status is SubscriptionStatus.PENDING)


def test_less_was_granted_than_asked_for(scene: Scene) -> None:
    subscribe(scene.connection, "task.**", granted_event_type="task.deleted")

    assert why(scene) == ("granted_less", "They asked for task.**, but only task.deleted was granted.")


def test_they_subscribed_after_it_was_published(scene: Scene) -> None:
    published = publish_event(scene.workspace.id, "task.created", {})
    subscribe(scene.connection, "task.*")

    assert reason_of(scene, published.message_id)[0] == "subscribed_later"


def test_the_connection_is_not_open(scene: Scene) -> None:
    set_connection(scene, status=ConnectionStatus.PENDING)

    assert why(scene) == ("connection_not_open", "The connection is pending.")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"status": ConnectionStatus.SUSPENDED, "suspended_by_me": True}, "suspended by us"),
        ({"status": ConnectionStatus.SUSPENDED, "suspended_by_peer": True}, "suspended by the other side"),
        ({"paused_outgoing": True}, "flask connection unpause"),
        ({"key_review": True}, "flask connection trust"),
        ({"hold_code": "blocked", "hold_detail": "go away"}, "blocked (go away)"),
    ],
)
def test_what_holds_a_delivery_is_told(scene: Scene, columns: dict[str, Any], words: str) -> None:
    subscribe(scene.connection)
    set_connection(scene, **columns)

    reason, detail = why(scene)

    assert reason == "held"
    assert words in detail


@pytest.mark.parametrize(
    ("columns", "reason", "words"),
    [
        ({"state": DeliveryState.DELIVERED, "delivered_at": 0}, "delivered", "1970-01-01T00:00:00.000Z"),
        ({"state": DeliveryState.DEAD, "error_code": "expired"}, "dead", "expired"),
        ({"state": DeliveryState.WITHDRAWN}, "withdrawn", "ended"),
        ({"state": DeliveryState.SENDING}, "sending", "now"),
        ({"error_code": "timeout", "error_detail": "no answer"}, "waiting", "timeout: no answer"),
        ({}, "waiting", "flask doctor"),
    ],
)
def test_where_a_delivery_stands_is_told(
    scene: Scene, columns: dict[str, Any], reason: str, words: str
) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    if columns:
        with transaction():
            db.session.execute(sa.update(Delivery).values(**columns))

    found, detail = reason_of(scene, published.message_id)

    assert found == reason
    assert words in detail


def test_failures_of_the_other_side_are_counted(scene: Scene) -> None:
    subscribe(scene.connection)
    set_connection(scene, failures=3, retry_at=clock.now_ms() + 60_000)

    assert "failed 3 times" in why(scene)[1]


def test_a_workspace_without_connections_is_told_how_to_get_one(flask: RunFlask, made: Any) -> None:
    flask("event", "publish", "task.created")

    said = flask("event", "show", "last", "--why", "-o", "json").json

    [reason] = said["why"]
    assert reason["reason"] == "no_connection"
    assert "flask connection request" in flask("event", "show", "last", "--why").out


def test_every_connection_has_its_own_reason(event: RunFlask, scene: Scene) -> None:
    other = connect(scene.workspace, RemotePeer())
    subscribe(other, "task.*")
    event("publish", "task.created")

    said = event("show", "last", "--why", "-o", "json").json

    assert {row["connectionId"]: row["reason"] for row in said["why"]} == {
        scene.connection.public_id: "nothing_asked_for",
        other.public_id: "waiting",
    }


def test_nobody_is_told_a_reason_for_an_unknown_event(scene: Scene) -> None:
    assert db.session.scalars(sa.select(Subscription)).all() == []
    assert explain(scene.workspace.id, "0" * 36) == []
