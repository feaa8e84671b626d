"""Publishing by the API: shapes, all or none, CloudEvents, idempotency, limits."""

import threading
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask
from sqlalchemy import func, select

from app import clock
from app.access import tokens
from app.database import db
from app.models import Delivery, Event, IdempotencyKey
from app.web.api import idempotency
from tests.exchange import Scene, make_scene, subscribe
from tests.web.api.conftest import PREFIX, Caller

EVENT = {"eventType": "task.created", "payload": {"id": 7, "title": "Zaun streichen"}}
CLOUD_EVENT = {
    "specversion": "1.0",
    "id": "a-1",
    "source": "https://shop.example/orders",
    "type": "task.created",
    "data": {"id": 7},
}
CLOUD = {"Content-Type": "application/cloudevents+json"}
CLOUD_BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def stored() -> int:
    db.session.rollback()
    return db.session.scalar(select(func.count()).select_from(Event)) or 0


def body_of(message_id: str) -> dict[str, Any]:
    text = db.session.scalars(select(Event.body).where(Event.message_id == message_id)).one()
    value: dict[str, Any] = orjson.loads(text)
    return value


def test_an_event_is_stored_with_its_deliveries(scene: Scene, caller: Caller) -> None:
    subscribe(scene.connection)

    answer = caller.post("/events/publish", EVENT | {"subject": "task/7"})

    assert answer.status_code == 202
    assert set(answer.json) == {"messageId", "eventType", "timestamp", "deliveries"}
    assert (answer.json["eventType"], answer.json["deliveries"]) == ("task.created", 1)
    assert answer.json["timestamp"].endswith("Z")
    assert body_of(answer.json["messageId"])["subject"] == "task/7"
    assert db.session.scalar(select(func.count()).select_from(Delivery)) == 1


def test_an_event_nobody_wants_is_kept_and_says_so(scene: Scene, caller: Caller) -> None:
    answer = caller.post("/events/publish", EVENT)

    assert answer.json["deliveries"] == 0
    shown = caller.get(f"/events/messages/{answer.json['messageId']}").json
    assert (shown["status"], shown["deliveries"]) == ("unsubscribed", [])


def test_a_batch_answers_in_the_order_given(scene: Scene, caller: Caller) -> None:
    subscribe(scene.connection, "task.*")
    events = [EVENT | {"eventType": f"{kind}.created"} for kind in ("task", "note", "task")]

    answer = caller.post("/events/publish/batch", {"events": events})

    assert answer.status_code == 202
    assert [(e["eventType"], e["deliveries"]) for e in answer.json["data"]] == [
        ("task.created", 1),
        ("note.created", 0),
        ("task.created", 1),
    ]
    assert set(answer.json["data"][0]) == {"messageId", "eventType", "deliveries"}


@pytest.mark.parametrize(
    "bad, pointer",
    [
        ({"eventType": "Task!", "payload": {}}, "/events/1/eventType"),
        ({"eventType": "task.*", "payload": {}}, "/events/1/eventType"),
        ({"payload": {}}, "/events/1/eventType"),
        ({"eventType": "task.created"}, "/events/1/payload"),
        ({"eventType": "task.created", "payload": []}, "/events/1/payload"),
        ({"eventType": "task.created", "payload": {}, "colour": 1}, "/events/1/colour"),
        ({"eventType": "task.created", "payload": {}, "subject": "x" * 1025}, "/events/1/subject"),
        ("task.created", "/events/1"),
    ],
)
def test_one_bad_event_stops_the_batch_and_is_named(
    scene: Scene, caller: Caller, bad: object, pointer: str
) -> None:
    answer = caller.post("/events/publish/batch", {"events": [EVENT, bad, EVENT]})

    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json["errors"]] == [pointer]
    assert stored() == 0


@pytest.mark.parametrize("number, status", [(0, 400), (1, 202), (1000, 202), (1001, 400)])
def test_a_batch_has_1_to_1000_events(scene: Scene, caller: Caller, number: int, status: int) -> None:
    answer = caller.post("/events/publish/batch", {"events": [EVENT] * number})

    assert answer.status_code == status
    assert status == 202 or answer.json["errors"][0]["pointer"] == "/events"


def test_an_event_over_its_limit_is_413_and_named(scene: Scene, caller: Caller) -> None:
    large = EVENT | {"payload": {"text": "x" * 65_536}}

    answer = caller.post("/events/publish/batch", {"events": [EVENT, large]})

    assert (answer.status_code, answer.json["code"]) == (413, "too_large")
    assert answer.json["errors"][0]["pointer"] == "/events/1"
    assert stored() == 0


def test_a_body_over_16_mebibytes_is_413(scene: Scene, caller: Caller) -> None:
    answer = caller.post("/events/publish/batch", b" " * (16 * 1024 * 1024 + 1))

    assert (answer.status_code, answer.json["code"]) == (413, "too_large")


def test_a_number_that_receivers_would_refuse_is_refused_here(scene: Scene, caller: Caller) -> None:
    answer = caller.post("/events/publish", b'{"eventType":"task.created","payload":{"n":1e20}}')

    assert answer.status_code == 400


def test_a_traceparent_goes_on_with_the_event(scene: Scene, caller: Caller) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    kept = caller.post("/events/publish", EVENT, {"traceparent": trace}).json
    ignored = caller.post("/events/publish", EVENT, {"traceparent": "nonsense"}).json

    assert body_of(kept["messageId"])["traceparent"] == trace
    assert "traceparent" not in body_of(ignored["messageId"])


# CloudEvents


def test_a_cloudevent_becomes_an_event(scene: Scene, caller: Caller) -> None:
    event = CLOUD_EVENT | {
        "subject": "task/7",
        "dataschema": "https://shop.example/task.json",
        "datacontenttype": "application/json",
        "time": "2026-01-01T00:00:00+02:00",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }

    answer = caller.post("/events/publish", orjson.dumps(event), CLOUD)

    assert answer.status_code == 202
    body = body_of(answer.json["messageId"])
    assert (body["eventType"], body["payload"], body["subject"]) == ("task.created", {"id": 7}, "task/7")
    assert body["dataSchema"] == "https://shop.example/task.json"
    assert body["traceparent"] == event["traceparent"]


def test_source_and_id_of_a_cloudevent_make_it_idempotent(scene: Scene, caller: Caller) -> None:
    first = caller.post("/events/publish", orjson.dumps(CLOUD_EVENT), CLOUD)
    second = caller.post("/events/publish", orjson.dumps(CLOUD_EVENT), CLOUD)
    other = caller.post("/events/publish", orjson.dumps(CLOUD_EVENT | {"id": "a-2"}), CLOUD)

    assert second.json == first.json
    assert second.headers["Idempotent-Replayed"] == "true"
    assert other.json["messageId"] != first.json["messageId"]
    assert stored() == 2


@pytest.mark.parametrize(
    "change, pointer",
    [
        ({"specversion": "0.3"}, "/specversion"),
        ({"type": "Task!"}, "/type"),
        ({"data": [1]}, "/data"),
        ({"data_base64": "AA=="}, "/data_base64"),
        ({"datacontenttype": "text/xml"}, "/datacontenttype"),
        ({"time": "yesterday"}, "/time"),
        ({"comexampleextension": "1"}, "/comexampleextension"),
        ({"source": ""}, "/source"),
        ({"traceparent": "nonsense"}, "/traceparent"),
        ({"subject": ""}, "/subject"),
        ({"dataschema": "x" * 1025}, "/dataschema"),
    ],
)
def test_a_bad_attribute_of_a_cloudevent_is_named(
    scene: Scene, caller: Caller, change: dict[str, Any], pointer: str
) -> None:
    bad = CLOUD_EVENT | change

    one = caller.post("/events/publish", orjson.dumps(bad), CLOUD)
    many = caller.post("/events/publish/batch", orjson.dumps([CLOUD_EVENT, bad]), CLOUD_BATCH)

    assert (one.status_code, many.status_code) == (400, 400)
    assert one.json["errors"][0]["pointer"] == pointer
    assert many.json["errors"][0]["pointer"] == f"/1{pointer}"
    assert stored() == 0


def test_a_batch_of_cloudevents_takes_the_header_alone(scene: Scene, caller: Caller) -> None:
    raw = orjson.dumps([CLOUD_EVENT, CLOUD_EVENT])

    first = caller.post("/events/publish/batch", raw, CLOUD_BATCH)
    second = caller.post("/events/publish/batch", raw, CLOUD_BATCH)

    assert (first.status_code, len(first.json["data"])) == (202, 2)
    assert "Idempotent-Replayed" not in second.headers
    assert stored() == 4


def test_the_other_form_of_cloudevents_is_415(scene: Scene, caller: Caller) -> None:
    one = caller.post("/events/publish", orjson.dumps([CLOUD_EVENT]), CLOUD_BATCH)
    many = caller.post("/events/publish/batch", orjson.dumps(CLOUD_EVENT), CLOUD)

    assert (one.status_code, many.status_code) == (415, 415)


# Idempotency


def test_the_same_key_and_body_publish_once(scene: Scene, caller: Caller) -> None:
    key = {"Idempotency-Key": "order-7"}

    first = caller.post("/events/publish", EVENT, key)
    second = caller.post("/events/publish", EVENT, key)

    assert (first.status_code, second.status_code) == (202, 202)
    assert second.data == first.data
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert stored() == 1


def test_the_same_key_with_another_body_or_call_is_422(scene: Scene, caller: Caller) -> None:
    key = {"Idempotency-Key": "order-7"}
    caller.post("/events/publish", EVENT, key)

    other_body = caller.post("/events/publish", EVENT | {"subject": "x"}, key)
    other_call = caller.post("/events/publish/batch", {"events": [EVENT]}, key)

    assert (other_body.status_code, other_body.json["code"]) == (422, "idempotency_key_reused")
    assert (other_call.status_code, other_call.json["code"]) == (422, "idempotency_key_reused")


def test_a_refused_call_leaves_its_key_unused(scene: Scene, caller: Caller) -> None:
    key = {"Idempotency-Key": "order-7"}
    refused = caller.post("/events/publish", {"eventType": "No!", "payload": {}}, key)

    answer = caller.post("/events/publish", EVENT, key)

    assert (refused.status_code, answer.status_code) == (400, 202)


def test_a_key_stands_for_24_hours(scene: Scene, caller: Caller) -> None:
    key = {"Idempotency-Key": "order-7"}
    caller.post("/events/publish", EVENT, key)

    with clock.frozen_at(clock.now_ms() + idempotency.KEPT_MS + 1):
        later = caller.post("/events/publish", EVENT | {"subject": "another"}, key)

    assert later.status_code == 202
    assert stored() == 2


def test_old_keys_do_not_pile_up(scene: Scene, caller: Caller) -> None:
    for n in range(3):
        caller.post("/events/publish", EVENT, {"Idempotency-Key": f"old-{n}"})

    with clock.frozen_at(clock.now_ms() + idempotency.KEPT_MS + 1):
        caller.post("/events/publish", EVENT, {"Idempotency-Key": "new"})

    db.session.rollback()
    assert db.session.scalars(select(IdempotencyKey.key)).all() == ["new"]


@pytest.mark.parametrize("key", ["", "x" * 256, "\x7f"])
def test_a_key_that_is_none_is_400(scene: Scene, caller: Caller, key: str) -> None:
    answer = caller.post("/events/publish", EVENT, {"Idempotency-Key": key})

    assert answer.status_code == 400


def test_calls_with_one_key_at_the_same_time_publish_once(app: Flask, scene: Scene) -> None:
    _, secret = tokens.create(scene.workspace.id, "test")
    answers: list[tuple[int, bytes]] = []
    start = threading.Barrier(4)

    def call() -> None:
        client = app.test_client()
        start.wait()
        answer = client.post(
            f"{PREFIX}/events/publish",
            json=EVENT,
            headers={"Authorization": f"Bearer {secret}", "Idempotency-Key": "one"},
        )
        answers.append((answer.status_code, answer.data))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {status for status, _ in answers} == {202}
    assert len({body for _, body in answers}) == 1
    assert stored() == 1


# Limits


def test_answers_tell_what_is_left_of_the_limit(scene: Scene, caller: Caller) -> None:
    answer = caller.post("/events/publish/batch", {"events": [EVENT] * 3})

    assert answer.headers["RateLimit-Policy"] == '"publish";q=20000;w=1'
    assert answer.headers["RateLimit"].startswith('"publish";r=19')


def test_over_the_limit_is_429_with_the_time_to_wait(make_app: Callable[..., Flask]) -> None:
    app = make_app(RATE_LIMIT_PUBLISH="5")
    with app.app_context():
        scene = make_scene()
        _, secret = tokens.create(scene.workspace.id, "test")
        caller = Caller(app.test_client(), secret)

        first = caller.post("/events/publish/batch", {"events": [EVENT] * 5})
        second = caller.post("/events/publish/batch", {"events": [EVENT] * 5})

        assert (first.status_code, second.status_code) == (202, 429)
        assert second.json["code"] == "rate_limited"
        assert int(second.headers["Retry-After"]) >= 1
        assert second.headers["RateLimit"].startswith('"publish";r=0;t=')
        assert stored() == 5


def test_without_redis_an_event_is_taken_all_the_same(make_app: Callable[..., Flask]) -> None:
    app = make_app(REDIS_URL="redis://127.0.0.1:1/0")
    with app.app_context():
        scene = make_scene()
        subscribe(scene.connection)
        _, secret = tokens.create(scene.workspace.id, "test")

        answer = Caller(app.test_client(), secret).post("/events/publish", EVENT)

        assert (answer.status_code, answer.json["deliveries"]) == (202, 1)


def test_an_event_that_shares_its_signature_shows_its_place(caller: Caller) -> None:
    first, second = caller.post(
        "/events/publish/batch",
        {"events": [{"eventType": "task.created", "payload": {"n": n}} for n in range(2)]},
    ).json["data"]
    alone = caller.post("/events/publish", {"eventType": "task.created", "payload": {}}).json

    shown = [caller.get(f"/events/messages/{one['messageId']}").json for one in (first, second, alone)]

    assert shown[0]["signature"] == shown[1]["signature"]
    assert [(one["proof"]["index"], one["proof"]["size"]) for one in shown[:2]] == [(0, 2), (1, 2)]
    assert "proof" not in shown[2]
