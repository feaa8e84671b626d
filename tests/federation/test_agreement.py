"""Both sides say the same, whatever was done on either: random actions, then a comparison of the lists."""

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from app.federation import connections, subscriptions
from app.models import Direction, Subscription
from app.protocol.errors import Problem
from app.protocol.states import SubscriptionStatus
from tests.federation.conftest import MakeSide, Pair, Side

PATTERNS = ("task.created", "task.*", "task.**", "auto.x", "**")
Act = Callable[[Side, Random], object]


def subscribe(side: Side, rng: Random) -> object:
    return side.do(
        subscriptions.subscribe_to_event_type,
        side.workspace_id,
        side.connection().public_id,
        rng.choice(PATTERNS),
    )


def unsubscribe(side: Side, rng: Random) -> object:
    return side.do(
        subscriptions.unsubscribe_from_event_type,
        side.workspace_id,
        side.connection().public_id,
        rng.choice(PATTERNS),
    )


def decide(side: Side, rng: Random) -> object:
    asked = side.rows(Subscription, Subscription.direction == Direction.OUTGOING)
    act = rng.choice([subscriptions.approve, subscriptions.reject, subscriptions.revoke])
    return side.do(act, side.workspace_id, rng.choice(asked).public_id) if asked else None


def stop_or_go(side: Side, rng: Random) -> object:
    act = rng.choice([connections.suspend, connections.resume, connections.resume])
    return side.do(act, side.connection().id)


def work_one(side: Side, _rng: Random) -> object:
    return side.work()


ACTS: list[Act] = [subscribe, subscribe, unsubscribe, decide, decide, stop_or_go, work_one, work_one]


@pytest.mark.parametrize("seed", range(4))
def test_both_sides_list_the_same_after_random_actions(make_side: MakeSide, seed: int) -> None:
    pair = Pair(make_side(FEDERATION_AUTO_GRANT="auto.**"), make_side())
    pair.connect()
    rng = Random(seed)

    for _ in range(60):
        # What is not possible now is refused, and must change nothing.
        with suppress(Problem):
            rng.choice(ACTS)(rng.choice([pair.alpha, pair.beta]), rng)
    let_everything_through(pair)

    assert pair.alpha.connection().status == pair.beta.connection().status == "active"
    assert listed(pair.alpha, Direction.INCOMING) == listed(pair.beta, Direction.OUTGOING)
    assert listed(pair.alpha, Direction.OUTGOING) == listed(pair.beta, Direction.INCOMING)
    assert len(listed(pair.alpha, Direction.INCOMING)) > 0


def let_everything_through(pair: Pair) -> None:
    """End all suspensions, and let refused messages go out anew without their wait."""
    pair.settle()
    for side in (pair.alpha, pair.beta):
        if side.connection().suspended_by_me:
            side.do(connections.resume, side.connection().id)
    pair.settle()
    for _ in range(3):
        for side in (pair.alpha, pair.beta):
            side.do(connections.retry_now, side.connection().id)
        pair.settle()


def listed(side: Side, direction: Direction) -> list[tuple[str, str, str | None, str, int | None]]:
    """What a side says of one direction: everything that both know."""
    return sorted(
        (
            row.wire_subscription_id,
            row.event_type,
            row.granted_event_type if row.status is SubscriptionStatus.ACTIVE else None,
            row.status.value,
            row.lease_expires_at if row.status is SubscriptionStatus.ACTIVE else None,
        )
        for row in side.rows(Subscription, Subscription.direction == direction)
    )
