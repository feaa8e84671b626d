"""Subscriptions, as subscriber and as publisher."""

import pytest

from app import clock
from app.errors import SubscriptionExists
from app.federation import connections, subscriptions
from app.models import ControlOut, Direction, Subscription
from app.protocol.errors import InvalidRequest, InvalidState, NotFound
from app.protocol.states import SubscriptionStatus
from tests.federation.conftest import MakeSide, Pair

DAY_MS = 86_400_000


def test_a_person_grants_what_policy_does_not(connected: Pair) -> None:
    connected.subscribe("task.*")
    [asked] = connected.beta.rows(Subscription)
    [mine] = connected.alpha.rows(Subscription)
    assert asked.status == mine.status == SubscriptionStatus.PENDING

    connected.beta.do(subscriptions.approve, connected.beta.workspace_id, asked.public_id)
    connected.settle()

    [asked], [mine] = connected.beta.rows(Subscription), connected.alpha.rows(Subscription)
    assert asked.status == mine.status == SubscriptionStatus.ACTIVE
    assert asked.lease_expires_at == mine.lease_expires_at
    assert connected.beta.do(subscriptions.grants_for, connected.beta.workspace_id) == [
        (asked.connection_id, "task.*")
    ]


def test_policy_grants_at_once_what_it_covers_wholly(make_side: MakeSide) -> None:
    pair = Pair(make_side(), make_side(FEDERATION_AUTO_GRANT="task.**"))
    pair.connect()

    for pattern in ("task.created", "task.*", "**"):
        pair.subscribe(pattern)

    statuses = [row.status.value for row in pair.alpha.rows(Subscription)]
    assert statuses == ["active", "active", "pending"]
    assert [row.status.value for row in pair.beta.rows(Subscription)] == statuses


def test_the_same_pattern_is_subscribed_to_once(connected: Pair) -> None:
    connected.subscribe("task.*")

    with pytest.raises(SubscriptionExists):
        connected.subscribe("task.*")


def test_subscribing_needs_an_active_connection(connected: Pair) -> None:
    connected.alpha.do(connections.suspend, connected.alpha.connection().id)

    with pytest.raises(InvalidState):
        connected.subscribe("task.*")


def test_a_pattern_that_is_none_is_refused_by_its_pointer(connected: Pair) -> None:
    with pytest.raises(InvalidRequest) as refused:
        connected.subscribe("*")

    assert refused.value.errors[0].pointer == "/eventType"


def test_unsubscribing_from_what_is_not_subscribed_is_not_found(connected: Pair) -> None:
    with pytest.raises(NotFound):
        connected.alpha.do(
            subscriptions.unsubscribe_from_event_type,
            connected.alpha.workspace_id,
            connected.alpha.connection().public_id,
            "task.*",
        )


def test_events_are_taken_until_15_s_after_the_cancel_was_answered(connected: Pair) -> None:
    connected.subscribe("task.*")
    connection = connected.alpha.connection()

    connected.alpha.do(
        subscriptions.unsubscribe_from_event_type,
        connected.alpha.workspace_id,
        connection.public_id,
        "task.*",
    )

    def accepted(after_ms: int) -> list[str]:
        now_ms = clock.now_ms() + after_ms
        return connected.alpha.do(subscriptions.accepted_patterns, connection.id, now_ms)

    assert accepted(60_000) == ["task.*"]
    connected.settle()
    assert accepted(0) == ["task.*"]
    assert accepted(16_000) == []


@pytest.mark.parametrize("first", ["alpha", "beta"])
@pytest.mark.parametrize("decision", ["approve", "reject", "revoke"])
def test_a_cancel_wins_over_a_decision_that_crosses_it(connected: Pair, decision: str, first: str) -> None:
    connected.subscribe("task.*")
    [asked] = connected.beta.rows(Subscription)
    if decision == "revoke":
        connected.beta.do(subscriptions.approve, connected.beta.workspace_id, asked.public_id)
        connected.settle()

    connected.beta.do(getattr(subscriptions, decision), connected.beta.workspace_id, asked.public_id)
    connected.alpha.do(
        subscriptions.unsubscribe_from_event_type,
        connected.alpha.workspace_id,
        connected.alpha.connection().public_id,
        "task.*",
    )
    getattr(connected, first).work()
    connected.settle()

    [asked], [mine] = connected.beta.rows(Subscription), connected.alpha.rows(Subscription)
    assert asked.status == mine.status == SubscriptionStatus.CANCELLED


def test_a_grant_can_be_taken_back_and_only_a_pending_one_rejected(connected: Pair) -> None:
    connected.subscribe("task.*")
    [asked] = connected.beta.rows(Subscription)
    connected.beta.do(subscriptions.approve, connected.beta.workspace_id, asked.public_id)
    connected.settle()

    with pytest.raises(InvalidState):
        connected.beta.do(subscriptions.reject, connected.beta.workspace_id, asked.public_id)
    connected.beta.do(subscriptions.revoke, connected.beta.workspace_id, asked.public_id, "enough")
    connected.settle()

    [asked], [mine] = connected.beta.rows(Subscription), connected.alpha.rows(Subscription)
    assert asked.status == mine.status == SubscriptionStatus.REVOKED
    assert mine.reason == "enough"


def test_a_peer_has_no_more_subscriptions_open_than_it_may(
    connected: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "MAX_OPEN", 2)
    for event_type in ("task.*", "order.*"):
        connected.subscribe(event_type)

    connected.subscribe("note.*")

    statuses = [row.status.value for row in connected.alpha.rows(Subscription)]
    assert statuses == ["pending", "pending", "rejected"]
    assert len(connected.beta.rows(Subscription)) == 2


def test_the_subscriber_does_not_decide_about_its_own_request(connected: Pair) -> None:
    mine = connected.subscribe("task.*")

    with pytest.raises(InvalidState):
        connected.alpha.do(subscriptions.approve, connected.alpha.workspace_id, mine.public_id)
    with pytest.raises(NotFound):
        connected.alpha.do(subscriptions.approve, connected.alpha.workspace_id + 1, mine.public_id)


def test_a_lease_is_renewed_at_half_life_with_the_same_id(make_side: MakeSide) -> None:
    pair = Pair(make_side(), make_side(FEDERATION_AUTO_GRANT="**"))
    pair.connect()
    pair.subscribe("task.*")
    [before] = pair.alpha.rows(Subscription)

    with clock.frozen_at(clock.now_ms() + 14 * DAY_MS):
        assert pair.alpha.do(subscriptions.renew_due) == 0
    with clock.frozen_at(clock.now_ms() + 15 * DAY_MS + 60_000):
        assert pair.alpha.do(subscriptions.renew_due) == 1
        pair.settle()

    [mine], [theirs] = pair.alpha.rows(Subscription), pair.beta.rows(Subscription)
    assert mine.wire_subscription_id == before.wire_subscription_id
    assert mine.lease_expires_at == theirs.lease_expires_at
    assert mine.lease_expires_at is not None
    assert mine.lease_expires_at - (before.lease_expires_at or 0) >= 15 * DAY_MS


def test_a_lease_that_is_over_ends_on_both_sides(make_side: MakeSide) -> None:
    pair = Pair(make_side(), make_side(FEDERATION_AUTO_GRANT="**"))
    pair.connect()
    pair.subscribe("task.*")
    [mine] = pair.alpha.rows(Subscription)
    lease = mine.lease_expires_at or 0

    with clock.frozen_at(lease + 1):
        assert pair.beta.do(subscriptions.grants_for, pair.beta.workspace_id) == []
        assert pair.alpha.do(subscriptions.expire_due) == pair.beta.do(subscriptions.expire_due) == 1
        still = pair.alpha.do(subscriptions.accepted_patterns, mine.connection_id, lease + 599_000)
        no_more = pair.alpha.do(subscriptions.accepted_patterns, mine.connection_id, lease + 601_000)

    assert (still, no_more) == (["task.*"], [])
    assert [row.status.value for row in (*pair.alpha.rows(Subscription), *pair.beta.rows(Subscription))] == [
        "expired",
        "expired",
    ]


def test_a_renewal_of_what_has_ended_at_the_publisher_ends_it_here(make_side: MakeSide) -> None:
    pair = Pair(make_side(), make_side(FEDERATION_AUTO_GRANT="**"))
    pair.connect()
    pair.subscribe("task.*")
    [mine] = pair.alpha.rows(Subscription)
    with clock.frozen_at((mine.lease_expires_at or 0) + 1):
        pair.beta.do(subscriptions.expire_due)
        pair.alpha.do(subscriptions.renew_due)
        pair.settle()

    assert pair.alpha.rows(Subscription)[0].status == SubscriptionStatus.EXPIRED


def test_subscriptions_end_with_their_connection_and_both_sides_say_so(connected: Pair) -> None:
    connected.subscribe("task.*")

    connected.beta.do(connections.disconnect, connected.beta.connection().id)
    connected.settle()

    assert connected.alpha.rows(Subscription)[0].status == SubscriptionStatus.CANCELLED
    assert connected.beta.rows(Subscription)[0].status == SubscriptionStatus.CANCELLED


def test_a_decision_that_meets_a_suspension_goes_out_anew_after_it(connected: Pair) -> None:
    connected.subscribe("task.*")
    [asked] = connected.beta.rows(Subscription)
    connected.alpha.do(connections.suspend, connected.alpha.connection().id)
    connected.settle()

    connected.beta.do(subscriptions.approve, connected.beta.workspace_id, asked.public_id)
    connected.settle()
    assert connected.alpha.rows(Subscription)[0].status == SubscriptionStatus.PENDING
    connected.alpha.do(connections.resume, connected.alpha.connection().id)
    connected.settle()

    assert connected.alpha.rows(Subscription)[0].status == SubscriptionStatus.ACTIVE
    approvals = connected.beta.rows(ControlOut, ControlOut.type == "subscription.approve")
    assert [row.state.value for row in approvals] == ["refused", "answered"]
    assert approvals[0].message_id != approvals[1].message_id


def test_directions_are_seen_from_each_side(connected: Pair) -> None:
    connected.subscribe("task.*")

    assert connected.alpha.rows(Subscription)[0].direction == Direction.INCOMING
    assert connected.beta.rows(Subscription)[0].direction == Direction.OUTGOING
