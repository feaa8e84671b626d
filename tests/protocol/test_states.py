"""The tables of states are total and say what the protocol page says."""

from itertools import product

import pytest

from app.protocol.control import ControlType
from app.protocol.errors import (
    AccessDenied,
    ConnectionClosed,
    ConnectionSuspended,
    InvalidState,
    Problem,
)
from app.protocol.states import (
    CONNECTION_TABLE,
    ENDED,
    ENDED_SUBSCRIPTION,
    OPEN,
    PUBLISHER_TABLE,
    SUBSCRIBER_TABLE,
    WAITING,
    Action,
    ConnectionStatus,
    Inbound,
    Move,
    PublisherEvent,
    SubscriberEvent,
    SubscriptionStatus,
    SuspendedBy,
    decide,
    decide_action,
    decide_publisher,
    decide_subscriber,
    subscriber_ack_event,
    suspend,
    who_suspended,
)

KINDS = [*ControlType, *Inbound]
STATUSES = [None, *ConnectionStatus]
ACTIVE, SUSPENDED = ConnectionStatus.ACTIVE, ConnectionStatus.SUSPENDED

#: The table of §4 as it is printed: unknown, requested, pending, active, suspended, ended.
#: Numbers are refusals; "same" keeps the state; a state is the one that results.
PRINTED = {
    "connection.request": ["pending", 409, 409, 409, 409, 409],
    "connection.accept": [403, "active", 409, 409, 409, 410],
    "connection.reject": [403, "rejected", 409, 409, 409, 410],
    "connection.suspend": [403, 409, 409, "suspended", "suspended", 410],
    "connection.resume": [403, 409, 409, "same", "active", 410],
    "connection.disconnect": [403, "disconnected", "disconnected", "disconnected", "disconnected", "same"],
    "verification heartbeat gap reconcile": [403, 409, 409, "same", "same", 410],
    "keys.changed": [403, "same", "same", "same", "same", 410],
    "subscription.cancel replay.complete": [403, 409, 409, "same", "same", 410],
    "subscription.request subscription.approve": [403, 409, 409, "same", "stopped", 410],
    "subscription.reject subscription.revoke": [403, 409, 409, "same", "stopped", 410],
    "replay.request event": [403, 409, 409, "same", "stopped", 410],
    "event-ack": [403, "same", "same", "same", "same", "same"],
}
REFUSALS = {403: AccessDenied, 409: InvalidState, 410: ConnectionClosed, "stopped": ConnectionSuspended}


def is_refusal(result: object) -> bool:
    return isinstance(result, type) and issubclass(result, Problem)


def test_every_pair_of_message_and_state_has_an_answer():
    assert set(CONNECTION_TABLE) == set(product(KINDS, STATUSES))
    for kind, status in product(KINDS, STATUSES):
        for by in SuspendedBy if status is SUSPENDED else [None]:
            result = decide(kind, status, by)

            assert is_refusal(result) or isinstance(result.status, ConnectionStatus)


def test_the_table_is_the_printed_one():
    columns = [[None], ["requested"], ["pending"], ["active"], ["suspended"], sorted(ENDED)]
    seen = set()
    for kinds, row in PRINTED.items():
        for kind, (cell, statuses) in product(kinds.split(), zip(row, columns, strict=True)):
            for status in statuses:
                seen.add((kind, status))
                # A peer that had suspended, so that its resume counts.
                by = SuspendedBy.PEER if status == "suspended" else None
                result = decide(next(k for k in KINDS if k == kind), status and ConnectionStatus(status), by)

                if cell in REFUSALS:
                    assert result is REFUSALS[cell], (kind, status)
                else:
                    assert result.status == (status if cell == "same" else cell), (kind, status)
    assert seen == set(product(KINDS, STATUSES))


def test_only_a_suspended_connection_says_who_suspended():
    for kind, status in product(KINDS, STATUSES):
        for by in SuspendedBy if status is SUSPENDED else [None]:
            result = decide(kind, status, by)

            if not is_refusal(result):
                assert (result.suspended_by is not None) == (result.status is SUSPENDED), (kind, status, by)


@pytest.mark.parametrize(
    "kind, by, expected",
    [
        (ControlType.CONNECTION_SUSPEND, None, Move(SUSPENDED, SuspendedBy.PEER)),
        (ControlType.CONNECTION_SUSPEND, SuspendedBy.ME, Move(SUSPENDED, SuspendedBy.BOTH)),
        (ControlType.CONNECTION_SUSPEND, SuspendedBy.PEER, Move(SUSPENDED, SuspendedBy.PEER)),
        (ControlType.CONNECTION_SUSPEND, SuspendedBy.BOTH, Move(SUSPENDED, SuspendedBy.BOTH)),
        (ControlType.CONNECTION_RESUME, None, Move(ACTIVE)),
        (ControlType.CONNECTION_RESUME, SuspendedBy.ME, InvalidState),
        (ControlType.CONNECTION_RESUME, SuspendedBy.PEER, Move(ACTIVE)),
        (ControlType.CONNECTION_RESUME, SuspendedBy.BOTH, Move(SUSPENDED, SuspendedBy.ME)),
        (ControlType.HEARTBEAT, SuspendedBy.BOTH, Move(SUSPENDED, SuspendedBy.BOTH)),
    ],
    ids=str,
)
def test_peer_suspends_and_resumes_for_itself_alone(kind, by, expected):
    assert decide(kind, SUSPENDED if by else ACTIVE, by) == expected


@pytest.mark.parametrize(
    "action, by, expected",
    [
        (Action.SUSPEND, None, Move(SUSPENDED, SuspendedBy.ME)),
        (Action.SUSPEND, SuspendedBy.PEER, Move(SUSPENDED, SuspendedBy.BOTH)),
        (Action.SUSPEND, SuspendedBy.ME, InvalidState),
        (Action.SUSPEND, SuspendedBy.BOTH, InvalidState),
        (Action.RESUME, None, InvalidState),
        (Action.RESUME, SuspendedBy.PEER, InvalidState),
        (Action.RESUME, SuspendedBy.ME, Move(ACTIVE)),
        (Action.RESUME, SuspendedBy.BOTH, Move(SUSPENDED, SuspendedBy.PEER)),
    ],
    ids=str,
)
def test_our_side_suspends_and_resumes_for_itself_alone(action, by, expected):
    assert decide_action(action, SUSPENDED if by else ACTIVE, by) == expected


def test_what_one_side_does_the_other_side_sees_alike():
    mirror = {None: None, "me": "peer", "peer": "me", "both": "both"}
    for action, kind in (
        (Action.SUSPEND, ControlType.CONNECTION_SUSPEND),
        (Action.RESUME, ControlType.CONNECTION_RESUME),
    ):
        for by in [None, *SuspendedBy]:
            mine = decide_action(action, SUSPENDED if by else ACTIVE, by)
            if is_refusal(mine):
                continue
            seen_by_peer = SuspendedBy(mirror[by]) if by else None

            theirs = decide(kind, SUSPENDED if by else ACTIVE, seen_by_peer)

            assert (theirs.status, theirs.suspended_by) == (mine.status, mirror[mine.suspended_by])


def test_only_the_asked_side_accepts_or_rejects_and_nothing_leaves_an_end():
    for action, status in product(Action, ConnectionStatus):
        by = SuspendedBy.ME if status is SUSPENDED else None
        result = decide_action(action, status, by)

        if status in ENDED:
            assert result is InvalidState
        if action in (Action.ACCEPT, Action.REJECT):
            assert is_refusal(result) == (status is not ConnectionStatus.PENDING)
        if action is Action.EXPIRE:
            assert is_refusal(result) == (status not in WAITING)
        if action is Action.DISCONNECT and status not in ENDED:
            assert result == Move(ConnectionStatus.DISCONNECTED)


def test_statuses_are_waiting_open_or_ended():
    assert set(ConnectionStatus) == WAITING | OPEN | ENDED
    assert len(WAITING) + len(OPEN) + len(ENDED) == len(ConnectionStatus)


def test_who_suspended_may_be_kept_as_two_flags():
    for by_me, by_peer in product([True, False], repeat=2):
        by = who_suspended(by_me, by_peer)

        assert (Move(SUSPENDED, by).by_me, Move(SUSPENDED, by).by_peer) == (by_me, by_peer)
    assert suspend(SuspendedBy.ME, SuspendedBy.PEER) is SuspendedBy.BOTH


# Subscriptions


def test_subscription_tables_are_total():
    assert set(SUBSCRIBER_TABLE) == set(product(SubscriberEvent, SubscriptionStatus))
    assert set(PUBLISHER_TABLE) == set(product(PublisherEvent, SubscriptionStatus))


#: §5: what may follow what. A status may always stay.
SUBSCRIBER_MOVES = {
    "requested": {"pending", "active", "rejected", "revoked", "cancelled", "expired"},
    "pending": {"active", "rejected", "revoked", "cancelled", "expired"},
    "active": {"revoked", "cancelled", "expired"},
}
PUBLISHER_MOVES = {
    "pending": {"active", "rejected", "cancelled"},
    "active": {"revoked", "cancelled", "expired"},
}


@pytest.mark.parametrize(
    "table, moves", [(SUBSCRIBER_TABLE, SUBSCRIBER_MOVES), (PUBLISHER_TABLE, PUBLISHER_MOVES)]
)
def test_subscriptions_move_only_as_the_page_says(table, moves):
    for (event, status), result in table.items():
        if not is_refusal(result) and result != status:
            assert result in moves.get(status, ()), (event, status)


def test_ended_subscription_stays_as_it_is_whatever_the_peer_sends():
    from_peer = [SubscriberEvent.APPROVE, SubscriberEvent.REJECT, SubscriberEvent.REVOKE]
    for status in ENDED_SUBSCRIPTION:
        for event in from_peer:
            assert decide_subscriber(event, status) is status
        for event in (PublisherEvent.REQUEST, PublisherEvent.CANCEL):
            assert decide_publisher(event, status) is status
        assert decide_publisher(PublisherEvent.APPROVE, status) is InvalidState


def test_unknown_subscription_is_an_invalid_state():
    for event in SubscriberEvent:
        assert decide_subscriber(event, None) is InvalidState
    for event in PublisherEvent:
        assert decide_publisher(event, None) is InvalidState


@pytest.mark.parametrize(
    "event, status, expected",
    [
        ("approve", "requested", SubscriptionStatus.ACTIVE),
        ("ack pending", "active", SubscriptionStatus.ACTIVE),
        ("reject", "active", InvalidState),
        ("revoke", "pending", InvalidState),
        ("approve", "active", SubscriptionStatus.ACTIVE),
        ("approve", "cancelled", SubscriptionStatus.CANCELLED),
    ],
)
def test_subscriber_answers_as_the_page_says(event, status, expected):
    assert decide_subscriber(SubscriberEvent(event), SubscriptionStatus(status)) is expected


def test_answer_to_a_renewal_brings_both_sides_together():
    for status in SubscriptionStatus:
        event = subscriber_ack_event(status.value)
        if status is SubscriptionStatus.REQUESTED:
            assert event is None
        elif status is not SubscriptionStatus.REJECTED:
            assert decide_subscriber(event, SubscriptionStatus.REQUESTED) is status
    assert subscriber_ack_event("nonsense") is None
