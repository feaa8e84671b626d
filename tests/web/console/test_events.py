"""Events pages: the list and its query, the publish form, and what became of each event."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from app.config import settings
from app.database import db, transaction
from app.federation.identity import ensure_identity
from app.models import Attempt, AttemptEntry, AuditEntry, Connection, Delivery, Event, EventStatus, Role
from app.outbox.publish import publish_event
from app.protocol.states import DeliveryState, SubscriptionStatus
from app.reports import event_export, event_search
from tests.exchange import RemotePeer, Scene, connect, make_scene, subscribe
from tests.reports.rows import add_delivery, add_event
from tests.web.console.conftest import Console

HOSTILE = '"><script>alert(1)</script>\u202e'


@pytest.fixture
def scene(console: Console) -> Scene:
    """The default workspace with an active connection; an operator is there."""
    ensure_identity(settings())
    peer = RemotePeer()
    made = Scene(console.workspace, connect(console.workspace, peer), peer)
    console.sign_in(Role.OPERATOR)
    return made


def incoming(scene: Scene, event_type: str = "task.created", payload: dict[str, Any] | None = None) -> Event:
    """An event that the peer signed, as if it had come."""
    wire = scene.peer.event(event_type, payload or {"n": 1})
    signature = wire.pop("signature")
    return add_event(
        scene.workspace.id,
        scene.connection,
        message_id=wire["messageId"],
        event_type=event_type,
        body=orjson.dumps(wire, option=orjson.OPT_SORT_KEYS).decode(),
        signature=signature,
        key_id=wire["keyId"],
        timestamp=wire["timestamp"],
    )


def arrive(scene: Scene, message_id: str) -> Delivery:
    """Let the event's delivery be acknowledged by the peer."""
    with transaction():
        event = db.session.scalars(sa.select(Event).where(Event.message_id == message_id)).one()
        delivery = db.session.scalars(sa.select(Delivery).where(Delivery.event_id == event.id)).one()
        wire = orjson.loads(event.body) | {"signature": event.signature}
        batch = {
            "batchId": "b8d3a1de-6f0c-4b2e-9a52-0a8b6d4a1c11",
            "connectionId": scene.connection.wire_connection_id,
            "streamEpoch": "c8d3a1de-6f0c-4b2e-9a52-0a8b6d4a1c11",
            "events": [{"sequence": 1, "event": wire}],
        }
        ack = scene.peer.acknowledge(batch).body.decode()
        attempt = Attempt(
            connection_id=scene.connection.id,
            batch_id=batch["batchId"],
            size=1,
            started_at=event.created_at + 20,
            duration_ms=31,
            status_code=200,
            ack=ack,
        )
        db.session.add(attempt)
        db.session.flush()
        delivery.state, delivery.sequence, delivery.attempts = DeliveryState.DELIVERED, 1, 1
        delivery.attempt_id, delivery.delivered_at = attempt.id, event.created_at + 47
        event.status = EventStatus.DELIVERED
    return delivery


def fail(scene: Scene, message_id: str, times: int, state: DeliveryState = DeliveryState.PENDING) -> None:
    """Let the event's delivery have failed some times."""
    with transaction():
        event = db.session.scalars(sa.select(Event).where(Event.message_id == message_id)).one()
        delivery = db.session.scalars(sa.select(Delivery).where(Delivery.event_id == event.id)).one()
        for number in range(1, times + 1):
            attempt = Attempt(
                connection_id=scene.connection.id,
                batch_id=f"{number:08d}-6f0c-4b2e-9a52-0a8b6d4a1c11",
                size=1,
                started_at=event.created_at + number,
                duration_ms=15_000,
                status_code=503,
                error_code="overloaded",
                error_detail=f"busy {HOSTILE}",
                response_body=f"<h1>busy</h1>{HOSTILE}",
            )
            db.session.add(attempt)
            db.session.flush()
            db.session.add(
                AttemptEntry(
                    delivery_id=delivery.id,
                    attempt_id=attempt.id,
                    number=number,
                    trigger="auto",
                    error_code="overloaded",
                    error_detail=f"busy {HOSTILE}",
                )
            )
        delivery.attempts, delivery.attempt_id, delivery.state = times, attempt.id, state
        delivery.error_code = "overloaded"


# The list


def test_an_empty_log_says_what_to_do(console: Console, scene: Scene) -> None:
    page = console.page("events")

    assert "No events yet" in page.text
    assert page.link("Publish a first event") == "/w/default/events/publish"


def test_a_row_says_what_when_whose_and_what_became_of_it(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {"order": {"id": "A-1"}, "rush": True})
    incoming(scene, "note.made", {"n": 7})

    rows = console.page("events").rows("#events table")

    assert [row[1:6] for row in rows] == [
        ["in", "note.made", "Peer", "n 7", "acked"],
        ["out", "task.created", "Peer", 'order.id "A-1", rush true', "0/1 queued"],
    ]
    assert rows[1][7].startswith(published.message_id[:8])


def test_the_query_is_in_the_address_and_its_terms_can_be_taken_out(console: Console, scene: Scene) -> None:
    add_event(scene.workspace.id, event_type="task.created")
    add_event(scene.workspace.id, event_type="note.made")

    page = console.page("events", q="type:task.* status:delivered")

    assert [row[2] for row in page.rows("#events table")] == ["task.created"]
    assert page.texts(".chosen .token") == ["type:task.*", "status:delivered"]
    assert page.all(".chosen .token a")[0]["href"] == "/w/default/events?q=status%3Adelivered"
    assert "searched" in page.text
    assert page.one("#f-status option[selected]")["value"] == "delivered"
    assert page.one("#events a.main")["href"].endswith("?q=type%3Atask.%2A+status%3Adelivered")


def test_a_control_writes_the_query(console: Console, scene: Scene) -> None:
    moved = console.get(
        "events", q="type:task.*", was="type:task.*", status="dead", peer="", direction="", after=""
    )
    edited = console.get(
        "events", q="type:a", was="status:dead", status="dead", peer="", direction="", after=""
    )
    emptied = console.get("events", q="status:dead", was="status:dead", status="")

    assert moved.headers["Location"] == "/w/default/events?q=type%3Atask.%2A+status%3Adead"
    assert edited.headers["Location"] == "/w/default/events?q=type%3Aa"
    assert emptied.headers["Location"] == "/w/default/events"


def test_a_query_that_cannot_be_read_is_marked_and_kept(console: Console, scene: Scene) -> None:
    page = console.page("events", q=f"type:task.* colour:{HOSTILE}")

    assert page.status == 422
    assert "There is no field colour" in page.text
    assert page.one("pre.pointer").get_text().splitlines()[1] == " " * 12 + "^" * 6
    assert page.one("#q")["value"] == f"type:task.* colour:{HOSTILE}"
    assert "payload.order.id:A-50931" in page.text


def test_no_match_names_the_filters(console: Console, scene: Scene) -> None:
    add_event(scene.workspace.id)

    page = console.page("events", q="status:dead")

    assert "No events match" in page.text
    assert page.link("Clear filters") == "/w/default/events"


def test_a_search_that_stopped_says_how_far_it_came(
    console: Console, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_search, "MAX_ROWS", 2)
    monkeypatch.setattr(event_search, "_FIRST_BLOCK", 2)
    monkeypatch.setattr(event_search, "_MAX_BLOCK", 2)
    for _ in range(60):
        add_event(scene.workspace.id)

    page = console.page("events", q="nowhere")
    after = console.page(page.link("Search on"))

    assert "None among the newest 51" in page.text
    assert "No events match" in after.text


def test_pages_are_linked_both_ways(console: Console, scene: Scene) -> None:
    made = [add_event(scene.workspace.id).message_id for _ in range(60)]

    first = console.page("events")
    second = console.page(first.link("Older events"))
    back = console.page(second.link("Newer"))

    assert len(first.rows("#events table")) == 50
    assert [row[7][:8] for row in second.rows("#events table")] == [one[:8] for one in made[9::-1]]
    assert back.rows("#events table") == first.rows("#events table")


def test_following_lets_rows_come_by_themselves(console: Console, scene: Scene) -> None:
    add_event(scene.workspace.id)

    waits = console.page("events")
    follows = console.page(waits.link("Follow"))

    assert waits.one("#events")["data-live"] == "rows"
    assert follows.one("#events")["data-live"] == "swap"
    assert follows.one("meta[http-equiv=refresh]")["content"] == "5"
    assert follows.link("Stop following") == "/w/default/events"


def test_hostile_text_of_a_peer_is_shown_as_text(console: Console, scene: Scene) -> None:
    with transaction():
        row = db.session.get_one(Connection, scene.connection.id)
        assert row.peer is not None
        row.peer.name = HOSTILE
    event = incoming(scene, payload={HOSTILE: HOSTILE, "long": "x" * 60_000})
    places = ["", *(f"/{event.message_id}{tab}" for tab in ("", "/payload", "/signature", "/raw"))]

    pages = [console.page(f"events{place}") for place in places]

    for page in pages:
        assert page.status == 200
        assert page.all("main script") == []
        assert "\u202e" not in page.text
    assert "\\u202e" in pages[0].text


@pytest.mark.parametrize(
    "path", ["", "/payload", "/signature", "/raw", "/files/event.sig", "/files/payload.json"]
)
def test_an_event_of_another_workspace_is_not_found(console: Console, scene: Scene, path: str) -> None:
    other = make_scene()
    theirs = publish_event(other.workspace.id, "task.created", {})

    found = console.page(f"events/{theirs.message_id}{path}")

    assert found.status == 404


def test_the_same_list_from_a_shell(console: Console, scene: Scene) -> None:
    page = console.page("events", q="direction:in type:task.created status:dead before:2026-01-31 peer:x")

    [flask] = page.texts(".command summary code")
    assert flask == (
        "flask event list --direction incoming --type task.created --status dead "
        "--before 2026-01-31T00:00:00.000Z"
    )
    assert (
        "direction=incoming&eventType=task.created&status=dead&createdBefore=2026-01-31T00:00"
        in (page.texts(".command pre")[1])
    )


# Files


def test_the_list_is_exported_as_lines_of_json(console: Console, scene: Scene) -> None:
    add_event(scene.workspace.id, event_type="note.made")
    kept = [add_event(scene.workspace.id, event_type="task.created").message_id for _ in range(3)]

    answer = console.get("events/export.ndjson", q="type:task.*")

    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["messageId"] for row in rows] == kept[::-1]
    assert rows[0]["payload"] == {"n": 1}
    assert answer.headers["Content-Disposition"] == 'attachment; filename="events-default.ndjson"'


def test_no_cell_of_a_table_is_a_formula(console: Console, scene: Scene) -> None:
    with transaction():
        row = db.session.get_one(Connection, scene.connection.id)
        assert row.peer is not None
        row.peer.name = '=HYPERLINK("http://evil.example")'
    incoming(scene)

    answer = console.get("events/export.csv")

    heading, cells = csv.reader(io.StringIO(answer.text))
    assert heading == list(event_export.COLUMNS)
    assert cells[3] == '\'=HYPERLINK("http://evil.example")'
    assert json.loads(cells[7]) == {"n": 1}


def test_a_file_says_that_there_is_more(
    console: Console, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_export, "MAX_EVENTS", 2)
    monkeypatch.setattr(event_export, "_PAGE", 2)
    for _ in range(3):
        add_event(scene.workspace.id)

    lines = console.get("events/export.ndjson").text.splitlines()
    table = console.get("events/export.csv").text.splitlines()

    assert len(lines) == 3
    assert json.loads(lines[-1])["more"] is True
    assert len(table) == 4
    assert "There are more" in table[-1]


def test_a_query_that_cannot_be_read_is_no_file(console: Console, scene: Scene) -> None:
    assert console.get("events/export.csv", q="colour:red").status_code == 400


# Publish


def fill_in(console: Console, **fields: str) -> dict[str, Any]:
    return console.page("events/publish").fields() | fields


def test_the_example_is_published_as_it_stands(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)

    answer = console.post("events/publish", fill_in(console))
    page = console.follow(answer)

    assert page.title == "task.created"
    assert "Published. It goes to 1 peer." in page.text
    [entry] = db.session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "event.publish"))
    assert entry.object_id in answer.headers["Location"]


def test_a_form_that_is_sent_twice_publishes_once(console: Console, scene: Scene) -> None:
    fields = fill_in(console)

    first = console.post("events/publish", fields)
    second = console.post("events/publish", fields)

    assert first.headers["Location"] == second.headers["Location"]
    assert db.session.scalar(sa.select(sa.func.count()).select_from(Event)) == 1
    assert "the form was sent twice" in console.follow(second).text


def test_a_form_that_was_changed_after_it_was_sent_is_not_published_again(
    console: Console, scene: Scene
) -> None:
    fields = fill_in(console)
    console.post("events/publish", fields)

    page = console.post_page("events/publish", fields | {"payload": '{"other": 1}'})

    assert page.status == 422
    assert db.session.scalar(sa.select(sa.func.count()).select_from(Event)) == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"payload": '{\n  "a": 1,\n  b": 2\n}'}, "line 3, column 3"),
        ({"payload": "[1]"}, "begins with {"),
        ({"payload": ""}, "type a JSON object"),
        ({"payload": '{"a": 1, "a": 2}'}, "same key twice"),
        ({"payload": '{"a": NaN}'}, "NaN"),
        ({"payload": '{"a": 12345678901234567890}'}, "beyond"),
        ({"payload": "[" * 5_000}, "JSON"),
        ({"payload": json.dumps({"a": "x" * 66_000})}, "65536"),
        ({"event_type": "Task Created"}, "event type"),
        ({"event_type": ""}, "Name the event type"),
        ({"subject": "x" * 2_000}, "1024"),
        ({"key": "none"}, "Load the form again"),
    ],
)
def test_what_is_wrong_is_said_and_what_was_typed_is_kept(
    console: Console, scene: Scene, fields: dict[str, str], words: str
) -> None:
    page = console.post_page("events/publish", fill_in(console, **fields))

    assert page.status == 422
    assert words.lower() in page.text.lower()
    for name, value in fields.items():
        if name != "key":
            assert page.fields()[name].strip() == value.strip()
    assert db.session.scalar(sa.select(sa.func.count()).select_from(Event)) == 0


def test_a_mark_stands_under_the_character_that_is_no_json(console: Console, scene: Scene) -> None:
    page = console.post_page("events/publish", fill_in(console, payload='{"a": 1,}'))

    line, mark = page.one("pre.pointer").get_text().splitlines()
    assert (line, mark) == ('{"a": 1,}', " " * 8 + "^")
    assert page.one("#payload")["aria-describedby"].startswith("payload-error")


def test_a_copy_of_an_event_is_filled_in(console: Console, scene: Scene) -> None:
    event = incoming(scene, "note.made", {"a": {"b": "ü"}})

    fields = console.page("events/publish", copy=event.message_id).fields()

    assert fields["event_type"] == "note.made"
    assert json.loads(fields["payload"]) == {"a": {"b": "ü"}}


def test_commands_are_quoted_for_the_shell(console: Console, scene: Scene) -> None:
    event = incoming(scene, "note.made", {"a": "it's $HOME `id`"})

    page = console.page(f"events/{event.message_id}/payload")

    command = page.one(".command pre").get_text()
    said = subprocess.run(
        ["sh", "-c", command[command.index("flask event") :].replace("flask", "printf '%s\\n'", 1)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert said[:4] == ["event", "publish", "note.made", "--payload"]
    assert json.loads(said[4]) == {"a": "it's $HOME `id`"}


def test_a_viewer_sees_what_an_operator_may_do(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    fail(scene, published.message_id, 1, DeliveryState.DEAD)
    console.sign_in(Role.VIEWER)

    page = console.page("events")
    form = console.page("events/publish")
    shown = console.page(f"events/{published.message_id}")
    refused = console.post(f"events/{published.message_id}/retry")

    assert page.is_disabled("Publish an event")
    assert shown.is_disabled("Retry now")
    assert (form.status, refused.status_code) == (403, 403)
    assert "operator" in form.text


# What became of it


def test_an_event_that_arrived_is_proven_by_its_ack(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    arrive(scene, published.message_id)

    page = console.page(f"events/{published.message_id}")

    assert "Peer has it and has signed for it." in page.text
    assert "Stored. Their ack is signed and names this content" in page.text
    assert "47 ms" in page.text
    assert page.texts(".evidence .yes") == ["holds"] * 3


def test_an_ack_that_speaks_of_other_content_is_named(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    arrive(scene, published.message_id)
    with transaction():
        row = db.session.scalars(sa.select(Attempt)).one()
        row.ack = (row.ack or "").replace('"status":"stored"', '"status":"duplicate"')

    page = console.page(f"events/{published.message_id}")

    assert "has signed for it" not in page.text
    assert page.texts(".evidence .no") == ["fails"]


def test_each_attempt_is_shown_with_its_answer(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    fail(scene, published.message_id, 5)

    page = console.page(f"events/{published.message_id}")

    assert "Peer: not yet; it is tried again by itself." in page.text
    assert "Attempt 5: answered 503, overloaded" in page.text
    assert "<h1>busy</h1>" in page.text
    assert page.texts(".timeline details summary")[-1] == "2 earlier attempts"
    assert [row[0] for row in page.rows(".timeline table")] == ["2", "1"]


def test_an_operator_sends_it_again(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    fail(scene, published.message_id, 3, DeliveryState.DEAD)
    page = console.page(f"events/{published.message_id}")

    done = console.follow(
        console.post(f"events/{published.message_id}/retry", connection=scene.connection.public_id)
    )

    assert "given up, a dead letter" in page.text
    assert "1 delivery goes out again now." in done.text
    db.session.expire_all()
    assert db.session.scalars(sa.select(Delivery.state)).all() == [DeliveryState.PENDING]
    assert db.session.scalars(sa.select(AuditEntry.action)).all() == ["event.retry"]


def test_what_arrived_meanwhile_is_not_sent_again(console: Console, scene: Scene) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    arrive(scene, published.message_id)

    page = console.follow(console.post(f"events/{published.message_id}/retry"))

    assert "Nothing was sent again" in page.text
    assert db.session.scalars(sa.select(AuditEntry)).all() == []


@pytest.mark.parametrize(
    ("columns", "words"),
    [({"paused_outgoing": True}, "paused"), ({"hold_code": "blocked", "hold_detail": HOSTILE}, "blocked")],
)
def test_a_held_delivery_says_what_holds_it(
    console: Console, scene: Scene, columns: dict[str, Any], words: str
) -> None:
    subscribe(scene.connection)
    published = publish_event(scene.workspace.id, "task.created", {})
    with transaction():
        db.session.execute(
            sa.update(Connection).where(Connection.id == scene.connection.id).values(**columns)
        )

    page = console.page(f"events/{published.message_id}")

    assert "held here" in page.text
    assert words in page.text
    assert page.is_disabled("Retry now")


def test_an_event_that_nobody_got_says_why_for_each_connection(console: Console, scene: Scene) -> None:
    subscribe(scene.connection, "invoice.*")
    asking = connect(scene.workspace, RemotePeer())
    subscribe(asking, "task.*", status=SubscriptionStatus.PENDING, granted_event_type=None)
    published = publish_event(scene.workspace.id, "task.created", {})

    page = console.page(f"events/{published.message_id}")

    assert "sent to nobody" in page.text
    assert "2 connections checked" in page.text
    assert [row[1] for row in page.rows("#why table")] == ["not approved", "no pattern matches"]
    assert page.link("Review request") == "/w/default/subscriptions?direction=outgoing"


def test_a_workspace_without_connections_is_led_to_one(console: Console, scene: Scene) -> None:
    with transaction():
        db.session.execute(sa.update(Connection).values(checked_at=None))
    published = publish_event(scene.workspace.id, "task.created", {})

    page = console.page(f"events/{published.message_id}")

    assert page.one(".acts a")["href"] == "/w/default/connections/new"


def test_an_event_of_a_peer_says_over_what_it_came(console: Console, scene: Scene) -> None:
    event = incoming(scene)

    page = console.page(f"events/{event.message_id}")

    assert "Peer sent it, and has our signed ack." in page.text
    assert page.link("the connection with Peer") == f"/w/default/connections/{scene.connection.public_id}"


def test_neighbours_are_those_of_the_list_one_came_from(console: Console, scene: Scene) -> None:
    made = [publish_event(scene.workspace.id, kind, {}) for kind in ("task.a", "note.b", "task.c", "task.d")]

    page = console.page(f"events/{made[2].message_id}/payload", q="type:task.*")

    newer, older = (tag["href"] for tag in page.all(".btn-pair a"))
    assert newer == f"/w/default/events/{made[3].message_id}/payload?q=type%3Atask.%2A"
    assert older == f"/w/default/events/{made[0].message_id}/payload?q=type%3Atask.%2A"


def test_a_payload_is_a_tree_whose_leaves_lead_to_their_like(console: Console, scene: Scene) -> None:
    payload = {"order": {"id": "A 1", "n": 7}, "b:c": "not in a query", "none": None}
    published = publish_event(scene.workspace.id, "task.created", payload)

    page = console.page(f"events/{published.message_id}/payload")
    again = console.page(str(page.one(".leaf-link:has(.str)")["href"]))

    assert len(page.all(".leaf")) == 4
    assert len(page.all(".leaf-link")) == 3
    assert [row[2] for row in again.rows("#events table")] == ["task.created"]


def test_a_payload_of_many_values_is_text(console: Console, scene: Scene) -> None:
    published = publish_event(scene.workspace.id, "task.created", {"n": list(range(2_000))})

    page = console.page(f"events/{published.message_id}/payload", form="tree")
    whole = console.get(f"events/{published.message_id}/files/payload.json")

    assert page.all(".tree") == []
    assert "too many values" in page.text
    assert orjson.loads(whole.data) == {"n": list(range(2_000))}


def test_the_signature_is_told_in_words_and_openssl_agrees(
    console: Console, scene: Scene, tmp_path: Path
) -> None:
    published = publish_event(scene.workspace.id, "task.created", {"n": 1})

    page = console.page(f"events/{published.message_id}/signature")
    for name in ("event.signed", "event.sig", "event.key.pem"):
        (tmp_path / name).write_bytes(console.get(f"events/{published.message_id}/files/{name}").data)
    lines = page.texts('pre[aria-label="openssl commands"]')[0]
    said = subprocess.run(
        ["sh", "-c", page.one('pre[aria-label="openssl commands"]').get_text()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "Valid. We said exactly this" in page.text
    assert lines.startswith("openssl")
    assert "verified ok" in said.lower() or "successfully" in said.lower()
    digest = db.session.scalars(sa.select(Event.digest)).one()
    assert digest in said
    assert digest in page.text


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (lambda event: {"body": event.body.replace('"n":1', '"n":2')}, "It was not made by the key"),
        (lambda event: {"key_id": "k-unknown"}, "No key k-unknown"),
    ],
)
def test_a_message_that_was_changed_is_not_proven(
    console: Console, scene: Scene, columns: Callable[[Event], dict[str, Any]], words: str
) -> None:
    event = incoming(scene)
    with transaction():
        db.session.execute(sa.update(Event).where(Event.id == event.id).values(**columns(event)))

    page = console.page(f"events/{event.message_id}/signature")

    assert f"Not proven: {words}" in page.text
    assert page.all(".verdict.is-bad")


def test_the_deliveries_of_many_peers_are_named_together(console: Console, scene: Scene) -> None:
    event = add_event(scene.workspace.id, body='{"payload":{},"x":1}', status=EventStatus.PARTIAL)
    states = (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.DEAD, DeliveryState.WITHDRAWN)
    for state in states:
        add_delivery(
            event, connect(scene.workspace, RemotePeer()), state=state, delivered_at=event.created_at
        )

    page = console.page(f"events/{event.message_id}")

    assert "1 of 3 peers has it. Peer and 1 more: given up, a dead letter." in page.text
    assert page.texts("summary .status") == ["dead", "dead", "delivered", "withdrawn"]
    assert "Retry all 2 now" in page.text
