"""The whole API between two real instances: each call, and what it does on the other side."""

from typing import Any

import pytest

from tests.e2e.instance import Instance

pytestmark = pytest.mark.e2e


def connect(alpha: Instance, beta: Instance) -> tuple[str, str]:
    """Connect them; alpha's and beta's id of the connection."""
    asked = alpha.api("POST", "/connections/initiate", {"remoteUrl": beta.base_url, "note": "hello"})
    assert asked.status == 202, asked
    [pending] = beta.wait_for(lambda it: it.get("/connections?status=pending")["data"], "a request")
    accepted = beta.post(f"/connections/{pending['id']}/accept")
    assert accepted["status"] == "active"
    ours = asked.body["id"]
    alpha.wait_for(lambda it: it.get(f"/connections/{ours}")["status"] == "active", "an accept")
    return ours, pending["id"]


def subscribe(subscriber: Instance, connection_id: str, publisher: Instance, pattern: str) -> dict[str, Any]:
    """Subscribe, and have it approved on the other side."""
    asked = subscriber.api("POST", "/events/subscribe", {"connectionId": connection_id, "eventType": pattern})
    assert (asked.status, asked.body["status"]) == (201, "pending")
    [theirs] = publisher.get("/events/subscriptions?direction=outgoing&status=pending")["data"]
    assert publisher.post(f"/events/subscriptions/{theirs['id']}/approve")["isActive"]
    subscriber.wait_for(lambda it: it.get("/events/subscriptions?status=active")["data"], "an approval")
    return theirs


def await_delivery(publisher: Instance, message_id: str) -> None:
    """Wait until the event is delivered."""
    publisher.wait_for(
        lambda it: it.get(f"/events/messages/{message_id}")["status"] == "delivered", "a delivered event"
    )


def test_two_instances_connect_and_steer_their_connection(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair

    seen = alpha.post("/connections/preview", {"remoteUrl": beta.base_url})
    ours, theirs = connect(alpha, beta)
    mine, other = alpha.get(f"/connections/{ours}"), beta.get(f"/connections/{theirs}")

    assert seen["remoteUrl"] == beta.base_url
    assert seen["fingerprint"] == mine["fingerprint"]
    assert mine["wireConnectionId"] == other["wireConnectionId"]
    assert mine["pairingCode"] == other["pairingCode"]
    assert (mine["direction"], other["direction"], other["note"]) == ("outgoing", "incoming", "hello")

    again = alpha.api("POST", "/connections/initiate", {"remoteUrl": beta.base_url})
    assert (again.status, again.body["code"]) == (409, "connection_exists")
    wrong = alpha.api("POST", f"/connections/{ours}/accept")
    assert (wrong.status, wrong.body["code"]) == (409, "invalid_state")

    verified = alpha.post(f"/connections/{ours}/verify")
    assert verified["ok"] is True
    assert verified["roundTripMs"] >= 0
    assert alpha.post(f"/connections/{ours}/mark-verified", {"reason": "by phone"})["verifiedAt"]
    assert alpha.post(f"/connections/{ours}/retry-now")["status"] == "active"
    assert alpha.post(f"/connections/{ours}/pause", {"direction": "outgoing"})["status"] == "active"
    assert alpha.post(f"/connections/{ours}/unpause")["status"] == "active"
    no_review = alpha.api("POST", f"/connections/{ours}/keys/accept")
    assert (no_review.status, no_review.body["code"]) == (409, "invalid_state")
    assert alpha.api("POST", f"/connections/{ours}/keys/refuse").status == 409
    streams = alpha.get(f"/connections/{ours}/stream")
    assert (streams["outgoing"]["headSequence"], streams["incoming"]["missing"]) == (0, [])
    replay = alpha.api("POST", f"/connections/{ours}/replay", {"fromSequence": 1})
    assert (replay.status, replay.body["error"]) == (202, None)
    assert replay.body["status"] in ("running", "complete")

    assert alpha.post(f"/connections/{ours}/suspend", {"reason": "pause"})["suspendedBy"] == "me"
    assert beta.get(f"/connections/{theirs}")["suspendedBy"] == "peer"
    assert beta.api("POST", f"/connections/{theirs}/resume").status == 409
    assert alpha.post(f"/connections/{ours}/resume")["status"] == "active"
    assert beta.post(f"/connections/{theirs}/disconnect")["status"] == "disconnected"
    assert alpha.get(f"/connections/{ours}")["status"] == "disconnected"


def test_events_go_over_and_are_consumed_in_order(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    ours, theirs = connect(alpha, beta)
    subscribe(beta, theirs, alpha, "task.*")
    start = beta.get("/events/messages?direction=incoming&order=asc")["nextCursor"]

    events = [{"eventType": "task.created", "payload": {"n": n}} for n in range(250)]
    published = alpha.post("/events/publish/batch", {"events": events})["data"]
    lone = alpha.post("/events/publish", {"eventType": "task.done", "payload": {"n": 250}, "subject": "x"})
    missed = alpha.post("/events/publish", {"eventType": "note.created", "payload": {}})
    await_delivery(alpha, lone["messageId"])

    assert {event["deliveries"] for event in published} == {1}
    assert (lone["deliveries"], missed["deliveries"]) == (1, 0)
    came: list[int] = []
    cursor = start
    while True:
        page = beta.get(f"/events/messages?direction=incoming&order=asc&limit=100&cursor={cursor}")
        came += [row["payload"]["n"] for row in page["data"]]
        cursor = page["nextCursor"]
        if not page["hasMore"]:
            break
    assert came == list(range(251))

    shown = alpha.get(f"/events/messages/{lone['messageId']}")
    [delivery] = shown["deliveries"]
    assert (delivery["status"], delivery["sequence"], delivery["connectionId"]) == ("delivered", 251, ours)
    assert [(a["number"], a["statusCode"]) for a in delivery["attempts"]] == [(1, 200)]
    assert alpha.get(f"/events/messages/{missed['messageId']}")["status"] == "unsubscribed"
    assert 'tidings_deliveries_total{outcome="acked"} 251.0' in alpha.api("GET", "/metrics").body
    assert 'tidings_events_received_total{outcome="stored"} 251.0' in beta.api("GET", "/metrics").body
    stream = beta.get(f"/connections/{theirs}/stream")["incoming"]
    assert (stream["contiguous"], stream["headSequence"], stream["missing"]) == (251, 251, [])


def test_what_is_held_goes_on_and_what_is_dead_is_counted(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    ours, theirs = connect(alpha, beta)
    granted = subscribe(beta, theirs, alpha, "task.**")

    alpha.post(f"/connections/{ours}/pause", {"direction": "outgoing"})
    event = alpha.post("/events/publish", {"eventType": "task.created", "payload": {}})
    [held] = alpha.get("/deliveries?status=held")["data"]
    assert (held["messageId"], alpha.get(f"/connections/{ours}")["waiting"]) == (event["messageId"], 1)
    alpha.post(f"/connections/{ours}/unpause")
    await_delivery(alpha, event["messageId"])

    alpha.post(f"/connections/{ours}/pause")
    late = alpha.post("/events/publish", {"eventType": "task.created", "payload": {}})
    beta.post(f"/connections/{theirs}/disconnect")
    alpha.wait_for(lambda it: it.get("/deliveries?status=dead")["data"], "a dead letter")
    assert alpha.get("/deliveries/dead/groups")["data"] == [
        {"connectionId": ours, "error": "connection_closed", "count": 1}
    ]
    dry = alpha.api("POST", "/deliveries/retry", {"filter": {"status": "dead"}, "dryRun": True})
    assert (dry.status, dry.body["count"]) == (200, 1)
    assert alpha.get(f"/events/messages/{late['messageId']}")["status"] == "dead"
    shown = alpha.get("/events/subscriptions?direction=outgoing")["data"]
    assert [(row["id"], row["isActive"]) for row in shown] == [(granted["id"], False)]


def test_a_subscription_ends_from_either_side(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    _, theirs = connect(alpha, beta)
    granted = subscribe(beta, theirs, alpha, "task.**")

    body = {"connectionId": theirs, "eventType": "task.**"}
    assert beta.api("POST", "/events/subscribe", body).status == 409
    ended = beta.api("POST", "/events/unsubscribe", body)
    assert (ended.status, ended.body["isActive"], ended.body["status"]) == (200, False, "cancelled")
    assert beta.api("POST", "/events/unsubscribe", body).status == 404
    assert alpha.api("POST", f"/events/subscriptions/{granted['id']}/revoke").status == 409

    second = beta.post("/events/subscribe", body)
    [waiting] = alpha.get("/events/subscriptions?status=pending")["data"]
    assert (
        alpha.post(f"/events/subscriptions/{waiting['id']}/reject", {"reason": "no"})["status"] == "rejected"
    )
    states = {row["id"]: row["status"] for row in beta.get("/events/subscriptions")["data"]}
    assert states[second["id"]] == "rejected"


def test_a_remote_that_is_not_there_is_502(instance: Instance) -> None:
    nobody = {"remoteUrl": "http://127.0.0.1:9"}

    answers = [instance.api("POST", f"/connections/{call}", nobody) for call in ("preview", "initiate")]

    assert [(answer.status, answer.body["code"]) for answer in answers] == [(502, "remote_unreachable")] * 2


def test_a_body_that_is_too_large_is_answered_all_the_same(instance: Instance) -> None:
    large = "x" * (17 * 1024 * 1024)

    answer = instance.api("POST", "/events/publish", {"eventType": "task.created", "payload": {"x": large}})
    stranger = instance.api("POST", "/events/publish", {"x": large}, Authorization="Bearer tdg_nobody")
    after = instance.api("GET", "/connections")

    assert (answer.status, answer.body["code"]) == (413, "too_large")
    assert (stranger.status, stranger.body["code"]) == (401, "authentication_failed")
    assert after.status == 200


def test_the_server_is_ready_and_counts(instance: Instance) -> None:
    instance.post("/events/publish", {"eventType": "task.created", "payload": {}})

    ready = instance.api("GET", "/readyz")
    numbers = instance.api("GET", "/metrics").body

    assert (ready.status, ready.body["missing"]) == (200, [])
    assert "tidings_events_published_total 1.0" in numbers
    assert 'tidings_http_requests_total{endpoint="api.publish",status="202"} 1.0' in numbers
