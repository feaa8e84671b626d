"""Two instances in processes of their own: what one publishes the other has, and the ack is back."""

import pytest

from tests.e2e.instance import Instance, connect, subscribe

pytestmark = pytest.mark.e2e


def test_events_arrive_in_order_and_their_acknowledgments_come_back(pair: tuple[Instance, Instance]) -> None:
    alpha, beta = pair
    _, at_beta = connect(alpha, beta)
    subscribe(beta, alpha, "task.*", at_beta)

    events = [{"eventType": "task.created", "payload": {"n": number}} for number in range(250)]
    published = alpha.post("/events/publish/batch", {"events": events})["data"]

    alpha.wait_for(
        lambda one: len(one.all("/deliveries?status=delivered")) == len(events), "all acknowledgments", 60
    )
    arrived = beta.get("/events/messages?direction=incoming&order=asc&limit=200")
    rest = beta.get(f"/events/messages?direction=incoming&order=asc&limit=200&cursor={arrived['nextCursor']}")
    assert [row["payload"]["n"] for row in arrived["data"] + rest["data"]] == list(range(250))
    assert [row["messageId"] for row in arrived["data"] + rest["data"]] == [
        row["messageId"] for row in published
    ]


def test_what_was_published_while_redis_and_workers_were_killed_is_delivered(
    pair: tuple[Instance, Instance],
) -> None:
    alpha, beta = pair
    _, at_beta = connect(alpha, beta)
    subscribe(beta, alpha, "task.*", at_beta)

    for number in range(60):
        if number == 10:
            alpha.kill9("valkey")
        if number == 20:
            alpha.kill9("worker 1")
        if number == 30:
            beta.kill9("valkey")
        if number == 40:
            alpha.kill9("worker 2")
        alpha.post("/events/publish", {"eventType": "task.created", "payload": {"n": number}})

    beta.wait_for(lambda one: len(one.all("/events/messages?direction=incoming")) == 60, "all events", 60)
    alpha.wait_for(lambda one: len(one.all("/deliveries?status=delivered")) == 60, "all acknowledgments", 60)
    rows = beta.get("/events/messages?direction=incoming&order=asc&limit=200")["data"]
    assert [row["payload"]["n"] for row in rows] == list(range(60))
