"""§5: subscriptions in both directions."""

from typing import Any

import pytest

from tests.conformance import wire
from tests.conformance.conftest import MakeBond
from tests.conformance.foreign_peer import EVENTS, Received, Reply, Subscription, problem, reply
from tests.conformance.subject import Bond, wait_for
from tests.conformance.wire import MISSING, Message, new_id, now_ms

# --- the peer subscribes, the subject publishes ---


def test_what_the_policy_grants_is_active_at_once(standing: Bond) -> None:
    _, answer = standing.peer.subscribe(standing.link, f"{standing.topic}.*")

    grant = answer.value["payload"]
    assert (answer.status, answer.value["status"]) == (200, "active")
    assert (grant["eventType"], grant["nextSequence"]) == (f"{standing.topic}.*", 1)
    assert grant["streamEpoch"] == standing.stream("outgoing")["streamEpoch"]
    assert now_ms() < grant["leaseExpiresAt"] <= now_ms() + 2_592_000_000 + 5_000


def test_what_the_policy_does_not_grant_waits_for_a_person(bond: Bond) -> None:
    subscription, answer = bond.peer.subscribe(bond.link, f"ask.{bond.topic}.*")
    waiting = bond.subject.publish(f"ask.{bond.topic}.early")

    [row] = bond.subscriptions("outgoing", status="pending")
    approved = bond.subject.post(f"/events/subscriptions/{row['id']}/approve")

    told = bond.peer.take("subscription.approve")
    assert (answer.status, answer.value["status"]) == (202, "pending")
    assert approved["status"] == "active"
    assert told.payload["subscriptionId"] == subscription.subscription_id
    assert told.payload["eventType"] == f"ask.{bond.topic}.*"
    assert told.payload["leaseExpiresAt"] > now_ms()
    assert waiting["deliveries"] == 0


def test_a_person_rejects(bond: Bond) -> None:
    subscription, _ = bond.peer.subscribe(bond.link, f"ask.{bond.topic}.*")
    [row] = bond.subscriptions("outgoing", status="pending")

    bond.subject.post(f"/events/subscriptions/{row['id']}/reject", reason="Not for you")

    told = bond.peer.take("subscription.reject")
    assert told.payload == {"subscriptionId": subscription.subscription_id, "reason": "Not for you"}
    assert subscription.status == "rejected"


def test_after_a_revoke_nothing_is_sent_any_more(bond: Bond) -> None:
    subscription = bond.listen()
    [row] = bond.subscriptions("outgoing", status="active")

    bond.subject.post(f"/events/subscriptions/{row['id']}/revoke", reason="No longer")
    published = bond.publish()

    assert bond.peer.take("subscription.revoke").payload["reason"] == "No longer"
    assert subscription.status == "revoked"
    assert published["deliveries"] == 0


def test_after_a_cancel_nothing_is_sent_any_more(bond: Bond) -> None:
    subscription = bond.listen()

    answer = bond.peer.end_subscription(bond.link, subscription, "cancel")
    again = bond.peer.end_subscription(bond.link, subscription, "cancel")

    assert [(one.status, one.value["status"]) for one in (answer, again)] == [(200, "cancelled")] * 2
    assert bond.publish()["deliveries"] == 0


@pytest.mark.parametrize("verb", ["cancel", "revoke"])
def test_unsent_deliveries_are_withdrawn_with_the_subscription(bond: Bond, verb: str) -> None:
    subscription = bond.listen()
    bond.peer.always_answer(EVENTS, problem("overloaded", retry_after="60"))
    numbered = bond.publish()
    bond.take_batch()
    bond.wait_for_failure(numbered)

    if verb == "cancel":
        assert bond.peer.end_subscription(bond.link, subscription, "cancel").status == 200
    else:
        [row] = bond.subscriptions("outgoing", status="active")
        bond.subject.post(f"/events/subscriptions/{row['id']}/revoke")

    gap = bond.peer.take("gap")
    assert (gap.payload["fromSequence"], gap.payload["toSequence"], gap.payload["reason"]) == (
        1,
        1,
        "withdrawn",
    )
    bond.wait_for_delivery(numbered, "withdrawn")


@pytest.mark.parametrize("refused", ["the request", "the entry"])
def test_what_was_under_way_when_its_grant_ended_is_withdrawn_when_it_comes_back(
    bond: Bond, refused: str
) -> None:
    subscription = bond.listen()

    def cancel_first(request: Received, usual: Any) -> Reply:
        assert bond.peer.end_subscription(bond.link, subscription, "cancel").status == 200
        if refused == "the request":
            return problem("overloaded", retry_after="60")
        [event] = request.events
        entry = {
            "sequence": 1,
            "correlationId": event["messageId"],
            "received": False,
            "status": "rejected",
            "digest": wire.digest("event", event),
            "error": {"code": "overloaded", "detail": "later", "retryable": True},
        }
        return reply(bond.peer.ack_batch(bond.link, request.value, [entry]))

    bond.peer.answer_with(EVENTS, cancel_first)

    published = bond.publish()

    told = bond.peer.take("gap").payload
    assert (told["fromSequence"], told["toSequence"], told["reason"]) == (1, 1, "withdrawn")
    bond.wait_for_delivery(published, "withdrawn")


def test_what_another_subscription_still_grants_is_not_withdrawn(bond: Bond) -> None:
    first, _second = bond.listen(f"{bond.topic}.*"), bond.listen(f"{bond.topic}.created")
    bond.peer.answer_with(EVENTS, problem("overloaded", retry_after="1"))
    published = bond.publish("created")
    bond.take_batch()

    bond.peer.end_subscription(bond.link, first, "cancel")
    bond.act("retry-now")

    assert [event["messageId"] for event in bond.take_batch().events] == [published["messageId"]]


def test_a_renewal_is_granted_at_once_and_prolongs_the_lease(bond: Bond) -> None:
    subscription, first = bond.peer.subscribe(bond.link, f"{bond.topic}.*", leaseSeconds=60)
    said = {
        "subscriptionId": subscription.subscription_id,
        "eventType": f"{bond.topic}.*",
        "leaseSeconds": 600,
    }

    second = bond.peer.control(bond.link, "subscription.request", {**said, "leaseSeconds": 600})

    assert (second.status, second.value["status"]) == (200, "active")
    assert second.value["payload"]["leaseExpiresAt"] > first.value["payload"]["leaseExpiresAt"] + 500_000


def test_a_renewal_of_what_a_person_granted_is_granted_at_once(bond: Bond) -> None:
    subscription = bond.listen(f"ask.{bond.topic}.*")
    said = {
        "subscriptionId": subscription.subscription_id,
        "eventType": f"ask.{bond.topic}.*",
        "leaseSeconds": 2_592_000,
    }

    answer = bond.peer.control(bond.link, "subscription.request", said)

    assert (answer.status, answer.value["status"]) == (200, "active")


def test_a_renewal_for_another_pattern_is_refused(bond: Bond) -> None:
    subscription = bond.listen()
    said = {"subscriptionId": subscription.subscription_id, "eventType": "auto.**", "leaseSeconds": 600}

    answer = bond.peer.control(bond.link, "subscription.request", said)

    assert (answer.status, answer.code) == (409, "invalid_state")


def test_a_message_for_an_ended_subscription_is_told_its_state(bond: Bond) -> None:
    subscription = bond.listen()
    bond.peer.end_subscription(bond.link, subscription, "cancel")
    said = {
        "subscriptionId": subscription.subscription_id,
        "eventType": subscription.event_type,
        "leaseSeconds": 600,
    }

    answer = bond.peer.control(bond.link, "subscription.request", said)

    assert (answer.status, answer.value["status"]) == (200, "cancelled")


@pytest.mark.parametrize("seconds", [60, 31_536_000])
def test_the_lease_may_be_shortened_but_not_prolonged(standing: Bond, seconds: int) -> None:
    _, answer = standing.peer.subscribe(standing.link, f"{standing.topic}.*", leaseSeconds=seconds)

    assert now_ms() < answer.value["payload"]["leaseExpiresAt"] <= now_ms() + seconds * 1000 + 5_000


PATTERNS = {
    "task.created": True,
    "task.*": True,
    "task.**": True,
    "**": True,
    "a.b.c.d.e.f.g.h": True,
    "a.b.c.d.e.f.g.*": True,
    "a-b_c.0": True,
    "s" * 64: True,
    "*": False,
    "*.task": False,
    "task.*.created": False,
    "task.**.created": False,
    "task.cr*": False,
    "task.": False,
    ".task": False,
    "task..created": False,
    "Task": False,
    "task created": False,
    "a.b.c.d.e.f.g.h.i": False,
    "a.b.c.d.e.f.g.h.*": False,
    "s" * 65: False,
    "": False,
}


def test_patterns_are_taken_and_refused_by_their_grammar(standing: Bond) -> None:
    answers = {pattern: standing.peer.subscribe(standing.link, pattern)[1] for pattern in PATTERNS}

    assert {pattern: answer.status < 300 for pattern, answer in answers.items()} == PATTERNS
    refused = [answer for pattern, answer in answers.items() if not PATTERNS[pattern]]
    assert {tuple(answer.pointers) for answer in refused} == {("/payload/eventType",)}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"leaseSeconds": 59}, "/payload/leaseSeconds"),
        ({"leaseSeconds": 31_536_001}, "/payload/leaseSeconds"),
        ({"leaseSeconds": MISSING}, "/payload/leaseSeconds"),
        ({"subscriptionId": "one"}, "/payload/subscriptionId"),
        ({"eventType": MISSING}, "/payload/eventType"),
        ({"filter": {}}, "/payload/filter"),
        ({"filter": None}, "/payload/filter"),
    ],
)
def test_the_bad_member_of_a_request_is_named(standing: Bond, changes: Message, pointer: str) -> None:
    _, answer = standing.peer.subscribe(standing.link, f"{standing.topic}.*", **changes)

    assert (answer.status, answer.code, answer.pointers) == (400, "invalid_request", [pointer])


@pytest.mark.parametrize("verb", ["approve", "reject", "revoke", "cancel"])
def test_an_unknown_subscription_is_an_invalid_state(standing: Bond, verb: str) -> None:
    subscription = Subscription(new_id(), f"{standing.topic}.*", "pending")

    if verb == "approve":
        answer = standing.peer.approve(standing.link, subscription)
    else:
        answer = standing.peer.end_subscription(standing.link, subscription, verb)

    assert (answer.status, answer.code) == (409, "invalid_state")


def test_a_subscription_id_may_be_used_in_both_directions(bond: Bond) -> None:
    subscription = bond.offer()

    _, answer = bond.peer.subscribe(
        bond.link, f"{bond.topic}.**", subscriptionId=subscription.subscription_id
    )

    assert (answer.status, answer.value["status"]) == (200, "active")
    assert len(bond.subscriptions("incoming", status="active")) == 1
    assert len(bond.subscriptions("outgoing", status="active")) == 1


# --- the filter ---


def test_only_what_is_granted_is_sent(bond: Bond, make_bond: MakeBond) -> None:
    other = make_bond()
    bond.listen(f"{bond.topic}.a.*")
    other.listen(f"{bond.topic}.b.*")

    to_other = bond.publish("b.x")
    to_both = [bond.publish("c.x"), bond.publish("a"), bond.publish("a.x.y")]
    to_bond = bond.publish("a.x")

    bond.wait_for_delivery(to_bond, "delivered")
    other.wait_for_delivery(to_other, "delivered")
    assert [event["eventType"] for event in bond.link.events] == [f"{bond.topic}.a.x"]
    assert [event["eventType"] for event in other.link.events] == [f"{bond.topic}.b.x"]
    assert [one["deliveries"] for one in to_both] == [0, 0, 0]


def test_an_event_that_matches_several_subscriptions_is_sent_once(bond: Bond) -> None:
    for pattern in (f"{bond.topic}.*", f"{bond.topic}.**", f"{bond.topic}.created"):
        bond.listen(pattern)

    published = bond.publish("created")

    bond.wait_for_delivery(published, "delivered")
    assert published["deliveries"] == 1
    assert bond.take_batch().sequences == [1]
    assert [event["messageId"] for event in bond.link.events] == [published["messageId"]]


# --- the subject subscribes, the peer publishes ---


def subscribe(bond: Bond, pattern: str | None = None) -> Message:
    return bond.subject.post(
        "/events/subscribe", connectionId=bond.local_id, eventType=pattern or f"{bond.topic}.*"
    )


def test_the_subject_asks_with_a_lease_of_thirty_days(bond: Bond) -> None:
    bond.peer.grants.append("**")

    details = subscribe(bond)

    asked = bond.peer.take("subscription.request")
    assert asked.payload["eventType"] == f"{bond.topic}.*"
    assert asked.payload["leaseSeconds"] == 2_592_000
    assert "filter" not in asked.payload
    assert (details["status"], details["isActive"]) == ("active", True)


def test_a_grant_can_come_later(bond: Bond) -> None:
    details = subscribe(bond)
    bond.peer.take("subscription.request")
    [asked] = bond.link.theirs.values()

    answer = bond.peer.approve(bond.link, asked)

    assert details["status"] == "pending"
    assert (answer.status, answer.value["status"]) == (200, "active")
    assert bond.subscriptions("incoming", status="active")


def test_a_grant_that_overtakes_the_ack_stands(bond: Bond) -> None:
    def approve_first(request: Received, usual: Any) -> Reply:
        answer = usual()
        asked = bond.link.theirs[request.payload["subscriptionId"]]
        assert bond.peer.approve(bond.link, asked).value["status"] == "active"
        return answer

    bond.peer.answer_with("subscription.request", approve_first)

    subscribe(bond)

    assert bond.peer.take("subscription.request").reply.value["status"] == "pending"
    assert wait_for(lambda: bond.subscriptions("incoming", status="active"), "it is active")
    # The ack `pending` is read after this answer; a second look would see it fall back.
    assert bond.act("verify")
    assert bond.subscriptions("incoming", status="active")


def test_a_reject_that_overtakes_the_ack_stands(bond: Bond) -> None:
    def reject_first(request: Received, usual: Any) -> Reply:
        answer = usual()
        asked = bond.link.theirs[request.payload["subscriptionId"]]
        assert bond.peer.end_subscription(bond.link, asked, "reject").value["status"] == "rejected"
        return answer

    bond.peer.answer_with("subscription.request", reject_first)

    subscribe(bond)

    bond.peer.take("subscription.request")
    assert bond.act("verify")
    assert bond.subscriptions("incoming", status="rejected")


def test_a_rejection_in_the_answer_is_shown(bond: Bond) -> None:
    bond.peer.answer_with(
        "subscription.request",
        lambda request, usual: Reply(200, usual_rejection(bond, request)),
    )

    details = subscribe(bond)

    assert (details["status"], details["isActive"]) == ("rejected", False)


def usual_rejection(bond: Bond, request: Received) -> bytes:
    bond.link.theirs.pop(request.payload["subscriptionId"], None)
    return wire.encode(bond.peer.control_ack(bond.link, request.value, status="rejected"))


def test_a_narrower_grant_bounds_what_is_taken(bond: Bond) -> None:
    subscribe(bond, f"{bond.topic}.**")
    bond.peer.take("subscription.request")
    [asked] = bond.link.theirs.values()
    bond.peer.approve(bond.link, asked, eventType=f"{bond.topic}.a.*")

    inside = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.a.x"))
    outside = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.b.x"))

    assert inside.value["acks"][0]["status"] == "stored"
    assert outside.value["acks"][0]["error"]["code"] == "not_subscribed"
    assert outside.value["acks"][0]["error"]["retryable"] is False


def test_more_granted_than_requested_is_refused(bond: Bond) -> None:
    subscribe(bond)
    bond.peer.take("subscription.request")
    [asked] = bond.link.theirs.values()

    answer = bond.peer.approve(bond.link, asked, eventType=f"{bond.topic}.**")

    assert (answer.status, answer.pointers) == (400, ["/payload/eventType"])
    assert bond.subscriptions("incoming", status="pending")


def test_what_waits_for_its_grant_is_taken_already(bond: Bond) -> None:
    subscribe(bond)
    bond.peer.take("subscription.request")

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.early"))

    assert answer.value["acks"][0]["status"] == "stored"


def test_what_nobody_asked_for_is_refused(bond: Bond) -> None:
    bond.offer(f"{bond.topic}.a.*")

    single = bond.peer.send_event(bond.link.remote, bond.peer.event(f"{bond.topic}.b"), bond.link)
    batch = bond.peer.publish(
        bond.link, bond.peer.event(f"{bond.topic}.a"), bond.peer.event(f"{bond.topic}.a.x")
    )

    assert (single.status, single.code) == (403, "not_subscribed")
    assert [entry["status"] for entry in batch.value["acks"]] == ["rejected", "stored"]
    assert batch.value["contiguous"] == 2
    assert [one["eventType"] for one in bond.stored()] == [f"{bond.topic}.a.x"]


def test_a_reject_of_an_active_subscription_is_an_invalid_state(bond: Bond) -> None:
    answer = bond.peer.end_subscription(bond.link, bond.offer(), "reject")

    assert (answer.status, answer.code) == (409, "invalid_state")


def test_after_a_revoke_nothing_is_taken_and_a_late_approve_is_told_so(bond: Bond) -> None:
    subscription = bond.offer()

    revoked = bond.peer.end_subscription(bond.link, subscription, "revoke")
    approved = bond.peer.approve(bond.link, subscription)
    refused = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.late"))

    assert (revoked.value["status"], approved.value["status"]) == ("revoked", "revoked")
    assert refused.value["acks"][0]["error"]["code"] == "not_subscribed"
    assert bond.subscriptions("incoming")[0]["status"] == "revoked"


def test_a_new_grant_of_an_active_subscription_replaces_the_old(bond: Bond) -> None:
    subscription = bond.offer(f"{bond.topic}.**")

    bond.peer.approve(bond.link, subscription, eventType=f"{bond.topic}.only")

    answers = bond.peer.publish(
        bond.link, bond.peer.event(f"{bond.topic}.only"), bond.peer.event(f"{bond.topic}.other")
    )
    assert [entry["status"] for entry in answers.value["acks"]] == ["stored", "rejected"]


def test_an_unsubscribe_is_told_and_late_events_are_still_taken(bond: Bond) -> None:
    subscription = bond.offer()

    details = bond.subject.post(
        "/events/unsubscribe", connectionId=bond.local_id, eventType=subscription.event_type
    )

    told = bond.peer.take("subscription.cancel")
    late = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.late"))
    crossing = bond.peer.approve(bond.link, subscription)
    assert told.payload == {"subscriptionId": subscription.subscription_id}
    assert details["isActive"] is False
    assert late.value["acks"][0]["status"] == "stored"
    assert (crossing.status, crossing.value["status"]) == (200, "cancelled")
    assert bond.subscriptions("incoming")[0]["status"] == "cancelled"


def test_after_an_unsubscribe_one_can_subscribe_again_under_a_new_id(bond: Bond) -> None:
    first = bond.offer()
    bond.subject.post("/events/unsubscribe", connectionId=bond.local_id, eventType=first.event_type)
    bond.peer.take("subscription.cancel")

    details = subscribe(bond)

    bond.peer.take("subscription.request")
    again = bond.peer.take("subscription.request")
    assert again.payload["subscriptionId"] != first.subscription_id
    assert details["status"] == "active"


def test_a_short_lease_is_renewed_at_half_life(bond: Bond) -> None:
    subscribe(bond)
    bond.peer.take("subscription.request")
    [asked] = bond.link.theirs.values()
    approved_at = now_ms()

    bond.peer.approve(bond.link, asked, leaseExpiresAt=approved_at + 6_000)

    renewal = bond.peer.take("subscription.request")
    assert renewal.value["timestamp"] >= approved_at + 2_500
    assert renewal.payload["subscriptionId"] == asked.subscription_id
    assert renewal.payload["eventType"] == asked.event_type
    assert renewal.reply.value["status"] == "active"
    assert bond.act("verify")
    assert len(bond.subscriptions("incoming", status="active")) == 1


def test_an_event_after_the_lease_is_taken_because_clocks_differ(bond: Bond) -> None:
    subscribe(bond)
    bond.peer.take("subscription.request")
    [asked] = bond.link.theirs.values()
    bond.peer.always_answer("subscription.request", problem("overloaded"))
    bond.peer.approve(bond.link, asked, leaseExpiresAt=now_ms() + 1_000)
    wait_for(lambda: now_ms() > (asked.lease_expires_at or 0) + 100, "the lease is over")

    answer = bond.peer.publish(bond.link, bond.peer.event(f"{bond.topic}.late"))

    assert answer.value["acks"][0]["status"] == "stored"
