"""Lists by the API: pages, cursors, filters, and what a row shows."""

import re
from typing import Any

import pytest

from app.database import db, transaction
from app.models import Attempt, AttemptEntry, Direction, EventStatus, OperationKind, Stream, StreamGap
from app.models.ids import IdKind, public_id
from app.outbox import operations
from app.outbox.dead_letters import DeliveryFilter
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from tests.exchange import RemotePeer, Scene, connect, subscribe
from tests.reports.rows import add_delivery, add_event
from tests.web.api.conftest import Caller

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messageId"] for row in rows]


# Pages


def test_pages_are_newest_first_and_linked(scene: Scene, caller: Caller) -> None:
    made = [add_event(scene.workspace.id).message_id for _ in range(5)]

    first = caller.get("/events/messages", limit=3)
    second = caller.get("/events/messages", limit=3, cursor=first.json["nextCursor"])

    assert ids(first.json["data"]) == made[:1:-1]
    assert first.json["hasMore"] is True
    assert re.search(
        r'^<http://127\.0\.0\.1:5000/api/v1/federation/.*[?&]cursor=.*>; rel="next"$', first.headers["Link"]
    )
    assert ids(second.json["data"]) == made[1::-1]
    assert (second.json["nextCursor"], second.json["hasMore"]) == (None, False)
    assert "Link" not in second.headers


def test_the_link_leads_to_the_next_page(scene: Scene, caller: Caller) -> None:
    made = [add_event(scene.workspace.id).message_id for _ in range(3)]
    first = caller.get("/events/messages", limit=2, direction="outgoing")
    [url] = re.findall("<(.*)>", first.headers["Link"])

    second = caller.client.get(url, headers=caller.headers())

    assert ids(second.json["data"]) == made[:1]


def test_a_cursor_of_another_list_or_other_filters_is_refused(scene: Scene, caller: Caller) -> None:
    for _ in range(3):
        add_event(scene.workspace.id)
    cursor = caller.get("/events/messages", limit=2).json["nextCursor"]

    answers = [
        caller.get("/events/messages", cursor=cursor, direction="outgoing"),
        caller.get("/deliveries", cursor=cursor),
        caller.get("/events/messages", cursor=cursor[:-1] + ("A" if cursor[-1] != "A" else "B")),
        caller.get("/events/messages", cursor="nonsense!"),
        caller.get("/events/messages", cursor=""),
    ]

    assert [(answer.status_code, answer.json["code"]) for answer in answers] == [(400, "invalid_cursor")] * 5


def test_a_consumer_goes_on_from_an_empty_page(scene: Scene, caller: Caller) -> None:
    query = {"direction": "incoming", "order": "asc"}
    empty = caller.get("/events/messages", **query).json
    made = [add_event(scene.workspace.id, scene.connection).message_id for _ in range(3)]
    add_event(scene.workspace.id)

    first = caller.get("/events/messages", **query, limit=2, cursor=empty["nextCursor"]).json
    second = caller.get("/events/messages", **query, limit=2, cursor=first["nextCursor"]).json
    last = caller.get("/events/messages", **query, limit=2, cursor=second["nextCursor"]).json
    made.append(add_event(scene.workspace.id, scene.connection).message_id)
    more = caller.get("/events/messages", **query, limit=2, cursor=last["nextCursor"]).json

    assert (empty["data"], empty["hasMore"]) == ([], False)
    assert (ids(first["data"]), first["hasMore"]) == (made[:2], True)
    assert (ids(second["data"]), second["hasMore"]) == (made[2:3], False)
    assert (last["data"], last["nextCursor"]) == ([], second["nextCursor"])
    assert ids(more["data"]) == made[3:]


# Events


def test_events_are_filtered(scene: Scene, caller: Caller) -> None:
    workspace_id = scene.workspace.id
    other = connect(scene.workspace, RemotePeer(), checked_at=1)
    a = add_event(workspace_id, scene.connection, created_at=1_000_000_000_000).message_id
    b = add_event(workspace_id, other, event_type="note.created", created_at=1_000_000_001_000).message_id
    sent = add_event(workspace_id, status=EventStatus.DEAD, created_at=1_000_000_002_000)
    add_delivery(sent, other, state=DeliveryState.DEAD, error_code="too_large")
    c = sent.message_id

    def found(**query: str) -> list[str]:
        return ids(caller.all("/events/messages", limit="1", **query))

    assert found() == [c, b, a]
    assert found(direction="incoming") == [b, a]
    assert found(direction="outgoing") == [c]
    assert found(eventType="note.created") == [b]
    assert found(status="dead") == [c]
    assert found(connectionId=scene.connection.public_id) == [a]
    assert found(connectionId=other.public_id) == [c, b]
    assert found(connectionId=other.public_id, direction="outgoing") == [c]
    assert found(connectionId=other.public_id, status="delivered") == [b]
    assert found(connectionId="00000000-0000-4000-8000-000000000000") == []
    assert found(createdAfter="2001-09-09T01:46:41Z") == [c, b]
    assert found(createdBefore="2001-09-09T01:46:41Z") == [b, a]
    assert found(createdAfter="2001-09-09T03:46:41.000+02:00", createdBefore="2001-09-09T01:46:41.5Z") == [b]


def test_an_incoming_event_shows_what_came(scene: Scene, caller: Caller) -> None:
    event = add_event(scene.workspace.id, scene.connection, sequence=7)

    shown = caller.get(f"/events/messages/{event.message_id}").json

    assert shown == {
        "id": public_id(IdKind.EVENT, event.id),
        "workspaceId": scene.workspace.public_id,
        "connectionId": scene.connection.public_id,
        "messageType": "EVENT",
        "direction": "incoming",
        "messageId": event.message_id,
        "correlationId": None,
        "eventType": "task.created",
        "payload": {"n": 1},
        "status": "delivered",
        "sequence": 7,
        "error": None,
        "createdAt": shown["deliveredAt"],
        "deliveredAt": shown["createdAt"],
        "signature": "c2ln",
        "keyId": "k-1",
        "deliveries": [],
    }
    assert TIME.fullmatch(shown["createdAt"])


def test_an_outgoing_event_shows_its_deliveries_and_attempts(scene: Scene, caller: Caller) -> None:
    event = add_event(scene.workspace.id, status=EventStatus.DELIVERED)
    with transaction():
        failed, acked = (
            Attempt(
                connection_id=scene.connection.id,
                batch_id="b",
                size=1,
                started_at=started,
                duration_ms=5,
                status_code=code,
                error_code=error,
                error_detail=error,
                response_body=body,
                ack=ack,
            )
            for started, code, error, body, ack in (
                (1_000, 503, "overloaded", "busy", None),
                (2_000, 200, None, None, "{" + "ü" * 20_000),
            )
        )
        db.session.add_all([failed, acked])
        db.session.flush()
    delivery = add_delivery(
        event, scene.connection, state=DeliveryState.DELIVERED, attempts=2, sequence=4,
        attempt_id=acked.id, delivered_at=2_005,
    )  # fmt: skip
    with transaction():
        db.session.add(
            AttemptEntry(
                delivery_id=delivery.id,
                attempt_id=failed.id,
                number=1,
                trigger="auto",
                error_code="overloaded",
            )
        )

    shown = caller.get(f"/events/messages/{event.message_id}").json

    assert (shown["connectionId"], shown["sequence"], shown["status"]) == (None, None, "delivered")
    assert shown["deliveredAt"] == "1970-01-01T00:00:02.005Z"
    [one] = shown["deliveries"]
    assert (one["status"], one["sequence"], one["connectionId"]) == (
        "delivered",
        4,
        scene.connection.public_id,
    )
    first, second = one["attempts"]
    assert first == {
        "number": 1,
        "trigger": "auto",
        "startedAt": "1970-01-01T00:00:01.000Z",
        "durationMs": 5,
        "statusCode": 503,
        "errorCode": "overloaded",
        "errorDetail": "overloaded",
        "batchId": "b",
        "responseBody": "busy",
    }
    assert (second["number"], second["statusCode"], second["errorCode"]) == (2, 200, None)
    assert len(second["responseBody"].encode()) in (16_383, 16_384)


def test_the_error_of_an_event_is_that_of_what_has_not_arrived(scene: Scene, caller: Caller) -> None:
    other = connect(scene.workspace, RemotePeer(), checked_at=1)
    event = add_event(scene.workspace.id, status=EventStatus.PARTIAL)
    add_delivery(
        event, scene.connection, state=DeliveryState.DELIVERED, error_code="overloaded", delivered_at=9
    )
    add_delivery(event, other, state=DeliveryState.DEAD, error_code="not_subscribed")

    [shown] = caller.get("/events/messages").json["data"]

    assert (shown["error"], shown["deliveredAt"]) == ("not_subscribed", "1970-01-01T00:00:00.009Z")


# Deliveries


def test_deliveries_are_filtered_and_held_is_derived(scene: Scene, caller: Caller) -> None:
    paused = connect(scene.workspace, RemotePeer(), checked_at=1, paused_outgoing=True)
    states = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.DEAD)
    for state in states:
        event = add_event(scene.workspace.id)
        add_delivery(event, scene.connection, state=state)
        add_delivery(event, paused, state=state)

    def found(**query: str) -> list[tuple[str, str]]:
        rows = caller.all("/deliveries", limit="1", **query)
        return sorted((row["connectionId"], row["status"]) for row in rows)

    sending, held = scene.connection.public_id, paused.public_id
    assert found(status="pending") == [(sending, "pending")]
    assert found(status="held") == [(held, "held")]
    assert found(status="dead", connectionId=held) == [(held, "dead")]
    assert found(status="withdrawn") == []
    assert len(found()) == 6
    assert found(eventType="note.created") == []
    assert found(connectionId="00000000-0000-4000-8000-000000000000") == []


def test_a_delivery_shows_when_it_goes_next(scene: Scene, caller: Caller) -> None:
    with transaction():
        scene.connection.retry_at = 5_000
    event = add_event(scene.workspace.id, created_at=1_000)
    delivery = add_delivery(event, scene.connection, error_code="overloaded", attempts=1, sequence=3)

    [shown] = caller.get("/deliveries").json["data"]

    assert shown == {
        "id": public_id(IdKind.DELIVERY, delivery.id),
        "messageId": event.message_id,
        "connectionId": scene.connection.public_id,
        "eventType": "task.created",
        "status": "pending",
        "sequence": 3,
        "error": "overloaded",
        "attempts": 1,
        "nextAttemptAt": "1970-01-01T00:00:05.000Z",
        "createdAt": "1970-01-01T00:00:01.000Z",
        "deliveredAt": None,
    }


def test_dead_letters_are_counted_by_connection_and_error(scene: Scene, caller: Caller) -> None:
    for error in ("too_large", "too_large", "not_subscribed"):
        event = add_event(scene.workspace.id)
        add_delivery(event, scene.connection, state=DeliveryState.DEAD, error_code=error)

    answer = caller.get("/deliveries/dead/groups")

    connection = scene.connection.public_id
    assert answer.json == {
        "data": [
            {"connectionId": connection, "error": "too_large", "count": 2},
            {"connectionId": connection, "error": "not_subscribed", "count": 1},
        ],
        "nextCursor": None,
        "hasMore": False,
    }


def test_a_dry_run_counts_and_a_retry_takes(scene: Scene, caller: Caller) -> None:
    event = add_event(scene.workspace.id, status=EventStatus.DEAD)
    add_delivery(event, scene.connection, state=DeliveryState.DEAD, error_code="too_large")

    dry = caller.post("/deliveries/retry", {"filter": {}, "dryRun": True})
    before = caller.get("/deliveries").json["data"][0]["status"]
    taken = caller.post("/deliveries/retry", {"filter": {"status": "dead"}, "maxItems": 10})
    after = caller.get("/deliveries").json["data"][0]["status"]

    group = {"connectionId": scene.connection.public_id, "error": "too_large", "count": 1}
    assert (dry.status_code, dry.json) == (200, {"count": 1, "dryRun": True, "groups": [group]})
    assert (taken.status_code, taken.json["count"]) == (202, 1)
    assert (before, after) == ("dead", "pending")


def test_an_event_is_retried_and_a_delivery_discarded(scene: Scene, caller: Caller) -> None:
    event = add_event(scene.workspace.id, status=EventStatus.DEAD)
    add_delivery(event, scene.connection, state=DeliveryState.DEAD, error_code="too_large")

    retried = caller.post(f"/events/messages/{event.message_id}/retry")
    discarded = caller.post("/deliveries/discard", {"filter": {"status": "pending"}, "reason": "no use"})

    assert (retried.status_code, retried.json["count"]) == (202, 1)
    assert (discarded.status_code, discarded.json["count"]) == (202, 1)


def test_what_was_taken_can_be_followed_and_stopped(scene: Scene, caller: Caller) -> None:
    event = add_event(scene.workspace.id, status=EventStatus.DEAD)
    add_delivery(event, scene.connection, state=DeliveryState.DEAD, error_code="too_large")
    chosen = DeliveryFilter(error="too_large")
    large = operations.start(scene.workspace.id, OperationKind.RETRY, chosen, at_once=0)
    path = f"/operations/{large.public_id}"

    shown = caller.get(path).json
    paused = caller.post(f"{path}/pause").json
    cancelled = caller.post(f"{path}/cancel").json
    refused = caller.post(f"{path}/resume")
    taken = caller.post("/deliveries/retry", {"filter": {"error": "too_large"}}).json

    assert (shown["status"], shown["total"], shown["done"]) == ("running", 1, 0)
    assert shown["filter"] == {"status": "dead", "error": "too_large"}
    assert [paused["status"], cancelled["status"]] == ["paused", "cancelled"]
    assert (refused.status_code, refused.json["code"]) == (409, "invalid_state")
    assert taken["count"] == 1
    listed = caller.get("/operations").json["data"]
    assert [(row["id"], row["status"]) for row in listed] == [
        (taken["operationId"], "done"),
        (large.public_id, "cancelled"),
    ]
    assert caller.get("/operations/00000000-0000-4000-8000-000000000000").status_code == 404


@pytest.mark.parametrize(
    "path, body, pointer",
    [
        ("/deliveries/retry", {"filter": {"ids": ["x"]}}, "/filter/ids/0"),
        ("/deliveries/retry", {}, "/filter"),
        ("/deliveries/retry", {"filter": {"status": "delivered"}}, "/filter/status"),
        ("/deliveries/retry", {"filter": {"state": "dead"}}, "/filter/state"),
        ("/deliveries/retry", {"filter": {}, "maxItems": 0}, "/maxItems"),
        ("/deliveries/discard", {"filter": {}}, "/reason"),
    ],
)
def test_a_bad_choice_of_deliveries_is_named(
    scene: Scene, caller: Caller, path: str, body: dict[str, Any], pointer: str
) -> None:
    answer = caller.post(path, body)

    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, pointer)


# Connections and subscriptions

#: As the reference of the API names them.
CONNECTION_MEMBERS = """
    id wireConnectionId workspaceId direction remoteInstanceId remoteName remoteUrl remoteWorkspace status
    suspendedBy keyReview fingerprint newFingerprint pairingCode verifiedAt note reason version features
    clockSkewMs lastReceivedAt lastDeliveredAt waiting createdAt updatedAt
"""
SUBSCRIPTION_MEMBERS = """
    id workspaceId connectionId eventType direction filter metadata status isActive leaseExpiresAt createdAt
    updatedAt
"""


def test_a_connection_is_shown_with_all_its_members(scene: Scene, caller: Caller) -> None:
    for state in (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.DEAD):
        add_delivery(add_event(scene.workspace.id), scene.connection, state=state)

    shown = caller.get(f"/connections/{scene.connection.public_id}").json

    assert set(shown) == set(CONNECTION_MEMBERS.split())
    assert (shown["status"], shown["suspendedBy"], shown["waiting"]) == ("active", None, 2)
    assert (shown["remoteInstanceId"], shown["fingerprint"]) == (
        scene.peer.instance_id,
        scene.peer.key.fingerprint,
    )
    assert shown["wireConnectionId"] == scene.connection.wire_connection_id
    assert shown["pairingCode"]


@pytest.mark.parametrize(
    "mine, theirs, shown",
    [(True, False, "me"), (False, True, "peer"), (True, True, "both"), (False, False, None)],
)
def test_who_suspended_is_shown(
    scene: Scene, caller: Caller, mine: bool, theirs: bool, shown: str | None
) -> None:
    with transaction():
        scene.connection.suspended_by_me = mine
        scene.connection.suspended_by_peer = theirs

    assert caller.get(f"/connections/{scene.connection.public_id}").json["suspendedBy"] == shown


def test_connections_are_listed_by_status_and_unchecked_requests_are_not(
    scene: Scene, caller: Caller
) -> None:
    ended = connect(scene.workspace, RemotePeer(), checked_at=1, status=ConnectionStatus.DISCONNECTED)
    hidden = connect(
        scene.workspace,
        RemotePeer(),
        status=ConnectionStatus.PENDING,
        direction=Direction.INCOMING,
        checked_at=None,
    )

    found = caller.all("/connections", limit="1")
    by_status = caller.all("/connections", status="disconnected")

    assert [row["id"] for row in found] == [ended.public_id, scene.connection.public_id]
    assert [row["id"] for row in by_status] == [ended.public_id]
    assert caller.get(f"/connections/{hidden.public_id}").status_code == 404


def test_streams_show_what_is_missing(scene: Scene, caller: Caller) -> None:
    with transaction():
        common = {"connection_id": scene.connection.id, "created_at": 1}
        incoming = Stream(
            direction=Direction.INCOMING,
            epoch="e-in",
            head_sequence=12,
            contiguous=3,
            ranges="[[6,7],[9,9]]",
            **common,
        )
        outgoing = Stream(
            direction=Direction.OUTGOING, epoch="e-out", head_sequence=5, contiguous=4, **common
        )
        db.session.add_all([incoming, outgoing])
        db.session.flush()
        db.session.add(
            StreamGap(stream_id=incoming.id, from_sequence=2, to_sequence=2, reason="refused", created_at=1)
        )
    event = add_event(scene.workspace.id, status=EventStatus.DEAD)
    add_delivery(event, scene.connection, state=DeliveryState.DEAD, stream_id=outgoing.id, sequence=2)

    shown = caller.get(f"/connections/{scene.connection.public_id}/stream").json

    told = {"fromSequence": 2, "toSequence": 2, "reason": "refused"}
    holes = [(4, 5), (8, 8), (10, 12)]
    alone = {"earlier": [], "wentBackAt": None}
    assert shown["incoming"] == {
        "streamEpoch": "e-in",
        "contiguous": 3,
        "headSequence": 12,
        "missing": [told]
        + [{"fromSequence": low, "toSequence": high, "reason": "missing"} for low, high in holes],
        **alone,
    }
    assert shown["outgoing"] == {
        "streamEpoch": "e-out",
        "contiguous": 4,
        "headSequence": 5,
        "missing": [told],
        **alone,
    }


def test_streams_of_a_connection_that_never_was_active_are_empty(scene: Scene, caller: Caller) -> None:
    shown = caller.get(f"/connections/{scene.connection.public_id}/stream").json

    empty = {"streamEpoch": None, "contiguous": 0, "headSequence": 0, "missing": []}
    empty |= {"earlier": [], "wentBackAt": None}
    assert shown == {"incoming": empty, "outgoing": empty}


def test_subscriptions_are_listed_and_filtered(scene: Scene, caller: Caller) -> None:
    theirs = subscribe(scene.connection, "task.**")
    ours = subscribe(
        scene.connection, "note.*", Direction.INCOMING, status=SubscriptionStatus.REQUESTED, details='{"a":1}'
    )

    found = caller.all("/events/subscriptions", limit="1")
    pending = caller.all("/events/subscriptions", status="pending")
    incoming = caller.all(
        "/events/subscriptions", direction="incoming", connectionId=scene.connection.public_id
    )

    assert [row["id"] for row in found] == [ours.public_id, theirs.public_id]
    assert set(found[0]) == set(SUBSCRIPTION_MEMBERS.split())
    assert [(row["id"], row["status"], row["isActive"]) for row in pending] == [
        (ours.public_id, "pending", False)
    ]
    assert [(row["id"], row["metadata"]) for row in incoming] == [(ours.public_id, {"a": 1})]
    assert (found[1]["direction"], found[1]["isActive"], found[1]["filter"]) == ("outgoing", True, None)


def test_what_is_not_subscribed_to_cannot_be_ended(scene: Scene, caller: Caller) -> None:
    body = {"connectionId": scene.connection.public_id, "eventType": "task.*"}

    answer = caller.post("/events/unsubscribe", body)

    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


def test_a_suspended_connection_takes_no_subscription(scene: Scene, caller: Caller) -> None:
    with transaction():
        scene.connection.status = ConnectionStatus.SUSPENDED
    body = {"connectionId": scene.connection.public_id, "eventType": "task.*"}

    answer = caller.post("/events/subscribe", body)

    assert (answer.status_code, answer.json["code"]) == (409, "invalid_state")


def test_a_subscription_that_is_there_is_409(scene: Scene, caller: Caller) -> None:
    subscribe(scene.connection, "task.*", Direction.INCOMING)
    body = {"connectionId": scene.connection.public_id, "eventType": "task.*"}

    answer = caller.post("/events/subscribe", body)

    assert (answer.status_code, answer.json["code"]) == (409, "subscription_exists")
