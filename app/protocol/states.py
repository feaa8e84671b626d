"""The states of connections, subscriptions and deliveries, and every move between them, as tables (§4, §5).

The tables are total: each pair of message (or own action) and state has an entry, so whether it is legal
is decided nowhere else. A repeat of a stored control message gets its stored answer
before the table is asked (`control.is_repeat`), and an event that repeats a stored one is
`duplicate` in every state, which the inbox sees to.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from app.protocol.control import ControlType
from app.protocol.errors import AccessDenied, ConnectionClosed, ConnectionSuspended, InvalidState, Problem


class ConnectionStatus(StrEnum):
    REQUESTED = "requested"  #: mine, waiting for the peer
    PENDING = "pending"  #: theirs, waiting for us
    ACTIVE = "active"  #: traffic flows
    SUSPENDED = "suspended"  #: open, but one of us has stopped the traffic
    DISCONNECTED = "disconnected"  #: ended by one of us
    REJECTED = "rejected"  #: ended: the asked side said no
    EXPIRED = "expired"  #: ended: not answered in 14 days, or crossed by the peer's own request


class SuspendedBy(StrEnum):
    ME = "me"
    PEER = "peer"
    BOTH = "both"


class SubscriptionStatus(StrEnum):
    REQUESTED = "requested"  #: subscriber only: the publisher has not answered yet
    PENDING = "pending"  #: a person at the publisher decides
    ACTIVE = "active"  #: granted, until the lease ends
    REJECTED = "rejected"  #: ended: never granted
    REVOKED = "revoked"  #: ended by the publisher
    CANCELLED = "cancelled"  #: ended by the subscriber, or with its connection
    EXPIRED = "expired"  #: ended: the lease was not renewed


class DeliveryState(StrEnum):
    PENDING = "pending"  #: waits for its turn, or for a retry
    SENDING = "sending"  #: in the request under way, under a lease
    DELIVERED = "delivered"  #: acknowledged by a verified ack
    DEAD = "dead"  #: given up; a person may send it again
    WITHDRAWN = "withdrawn"  #: no longer granted before it was sent


#: Statuses in which a connection still waits for an answer, is open, has not ended, or has.
WAITING = frozenset({ConnectionStatus.REQUESTED, ConnectionStatus.PENDING})
OPEN = frozenset({ConnectionStatus.ACTIVE, ConnectionStatus.SUSPENDED})
LIVE = WAITING | OPEN
ENDED = frozenset(ConnectionStatus) - LIVE

#: Statuses of a subscription that has not ended, and those that it does not leave again.
LIVE_SUBSCRIPTION = frozenset(
    {SubscriptionStatus.REQUESTED, SubscriptionStatus.PENDING, SubscriptionStatus.ACTIVE}
)
ENDED_SUBSCRIPTION = frozenset(SubscriptionStatus) - LIVE_SUBSCRIPTION

Refusal = type[Problem]


# Connections: what comes in


class Inbound(StrEnum):
    """What else comes in over a connection, beside control messages."""

    EVENT = "event"  #: one event, or a batch
    EVENT_ACK = "event-ack"  #: a late ack


class Move(NamedTuple):
    """The state after a move; equal to the one before if nothing changes."""

    status: ConnectionStatus
    suspended_by: SuspendedBy | None = None

    @property
    def by_me(self) -> bool:
        """Whether I have suspended."""
        return self.suspended_by in (SuspendedBy.ME, SuspendedBy.BOTH)

    @property
    def by_peer(self) -> bool:
        """Whether the peer has suspended."""
        return self.suspended_by in (SuspendedBy.PEER, SuspendedBy.BOTH)


def who_suspended(by_me: bool, by_peer: bool) -> SuspendedBy | None:
    """The two flags as one value; None if neither side has suspended."""
    if by_me and by_peer:
        return SuspendedBy.BOTH
    if by_me:
        return SuspendedBy.ME
    return SuspendedBy.PEER if by_peer else None


class Step(Enum):
    """What a message does to a connection that may take it."""

    KEEP = auto()  #: accepted, the state stays
    ASK = auto()  #: a stranger's request: → pending
    ACCEPT = auto()  #: → active
    REJECT = auto()  #: → rejected
    SUSPEND = auto()  #: → suspended, and the peer is among those who did
    RESUME = auto()  #: the peer takes its own suspension back, if it has one
    END = auto()  #: → disconnected


Cell = Step | Refusal
_Row = tuple[Cell, Cell, Cell, Cell, Cell, Cell]

_KEEP = Step.KEEP
_403, _409, _410 = AccessDenied, InvalidState, ConnectionClosed
_STOPPED = ConnectionSuspended

#: The table of §4. Columns: unknown, requested, pending, active, suspended, ended.
_CONNECTION_ROWS: dict[ControlType | Inbound, _Row] = {
    ControlType.CONNECTION_REQUEST: (Step.ASK, _409, _409, _409, _409, _409),
    ControlType.CONNECTION_ACCEPT: (_403, Step.ACCEPT, _409, _409, _409, _410),
    ControlType.CONNECTION_REJECT: (_403, Step.REJECT, _409, _409, _409, _410),
    ControlType.CONNECTION_SUSPEND: (_403, _409, _409, Step.SUSPEND, Step.SUSPEND, _410),
    ControlType.CONNECTION_RESUME: (_403, _409, _409, _KEEP, Step.RESUME, _410),
    ControlType.CONNECTION_DISCONNECT: (_403, Step.END, Step.END, Step.END, Step.END, _KEEP),
    ControlType.VERIFICATION: (_403, _409, _409, _KEEP, _KEEP, _410),
    ControlType.HEARTBEAT: (_403, _409, _409, _KEEP, _KEEP, _410),
    ControlType.GAP: (_403, _409, _409, _KEEP, _KEEP, _410),
    ControlType.RECONCILE: (_403, _409, _409, _KEEP, _KEEP, _410),
    ControlType.KEYS_CHANGED: (_403, _KEEP, _KEEP, _KEEP, _KEEP, _410),
    ControlType.SUBSCRIPTION_CANCEL: (_403, _409, _409, _KEEP, _KEEP, _410),
    ControlType.REPLAY_COMPLETE: (_403, _409, _409, _KEEP, _KEEP, _410),
    ControlType.SUBSCRIPTION_REQUEST: (_403, _409, _409, _KEEP, _STOPPED, _410),
    ControlType.SUBSCRIPTION_APPROVE: (_403, _409, _409, _KEEP, _STOPPED, _410),
    ControlType.SUBSCRIPTION_REJECT: (_403, _409, _409, _KEEP, _STOPPED, _410),
    ControlType.SUBSCRIPTION_REVOKE: (_403, _409, _409, _KEEP, _STOPPED, _410),
    ControlType.REPLAY_REQUEST: (_403, _409, _409, _KEEP, _STOPPED, _410),
    Inbound.EVENT: (_403, _409, _409, _KEEP, _STOPPED, _410),
    Inbound.EVENT_ACK: (_403, _KEEP, _KEEP, _KEEP, _KEEP, _KEEP),
}

_COLUMNS: tuple[frozenset[ConnectionStatus | None], ...] = (
    frozenset({None}),
    frozenset({ConnectionStatus.REQUESTED}),
    frozenset({ConnectionStatus.PENDING}),
    frozenset({ConnectionStatus.ACTIVE}),
    frozenset({ConnectionStatus.SUSPENDED}),
    ENDED,
)

#: Every pair of what comes in and my status (None: unknown connection).
CONNECTION_TABLE: Mapping[tuple[ControlType | Inbound, ConnectionStatus | None], Cell] = {
    (kind, status): cell
    for kind, row in _CONNECTION_ROWS.items()
    for statuses, cell in zip(_COLUMNS, row, strict=True)
    for status in statuses
}


def decide(
    kind: ControlType | Inbound, status: ConnectionStatus | None, suspended_by: SuspendedBy | None = None
) -> Move | Refusal:
    """What a verified message does to the connection: the state after it, or the Problem to raise.

    `suspended_by` is given exactly for a suspended connection.
    """
    cell = CONNECTION_TABLE[kind, status]
    return cell if isinstance(cell, type) else _step(cell, status, suspended_by)


def _step(step: Step, status: ConnectionStatus | None, suspended_by: SuspendedBy | None) -> Move | Refusal:
    match step:
        case Step.ASK:
            return Move(ConnectionStatus.PENDING)
        case Step.ACCEPT:
            return Move(ConnectionStatus.ACTIVE)
        case Step.REJECT:
            return Move(ConnectionStatus.REJECTED)
        case Step.END:
            return Move(ConnectionStatus.DISCONNECTED)
        case Step.SUSPEND:
            return Move(ConnectionStatus.SUSPENDED, suspend(suspended_by, SuspendedBy.PEER))
        case Step.RESUME:
            return _resume(suspended_by, SuspendedBy.PEER)
        case Step.KEEP:
            assert status is not None  # noqa: S101 - no row keeps an unknown connection
            return Move(status, suspended_by)


def suspend(suspended_by: SuspendedBy | None, side: SuspendedBy) -> SuspendedBy:
    """Who has suspended, once that side (me or peer) has too."""
    return side if suspended_by in (None, side) else SuspendedBy.BOTH


def _resume(suspended_by: SuspendedBy | None, side: SuspendedBy) -> Move | Refusal:
    other = SuspendedBy.ME if side is SuspendedBy.PEER else SuspendedBy.PEER
    if suspended_by is side:
        return Move(ConnectionStatus.ACTIVE)
    if suspended_by is SuspendedBy.BOTH:
        return Move(ConnectionStatus.SUSPENDED, other)
    return InvalidState


# Connections: what our own side does


class Action(StrEnum):
    ACCEPT = "accept"  #: the asked side says yes; active when the peer has answered 200
    REJECT = "reject"  #: the asked side says no
    SUSPEND = "suspend"  #: our own suspension
    RESUME = "resume"  #: our own suspension taken back
    DISCONNECT = "disconnect"  #: for good; before accept it is a withdrawal
    EXPIRE = "expire"  #: 14 days without an answer, or our request was crossed


_ACTION_STATUSES: dict[Action, frozenset[ConnectionStatus]] = {
    Action.ACCEPT: frozenset({ConnectionStatus.PENDING}),
    Action.REJECT: frozenset({ConnectionStatus.PENDING}),
    Action.SUSPEND: OPEN,
    Action.RESUME: frozenset({ConnectionStatus.SUSPENDED}),
    Action.DISCONNECT: LIVE,
    Action.EXPIRE: WAITING,
}

_ACTION_RESULTS = {
    Action.ACCEPT: ConnectionStatus.ACTIVE,
    Action.REJECT: ConnectionStatus.REJECTED,
    Action.DISCONNECT: ConnectionStatus.DISCONNECTED,
    Action.EXPIRE: ConnectionStatus.EXPIRED,
}


def decide_action(
    action: Action, status: ConnectionStatus, suspended_by: SuspendedBy | None = None
) -> Move | Refusal:
    """The state after an action of our own side, or InvalidState.

    Only who suspended may resume; suspending twice is refused.
    """
    if status not in _ACTION_STATUSES[action]:
        return InvalidState
    if action is Action.RESUME:
        return _resume(suspended_by, SuspendedBy.ME)
    if action is not Action.SUSPEND:
        return Move(_ACTION_RESULTS[action])
    if suspended_by in (SuspendedBy.ME, SuspendedBy.BOTH):
        return InvalidState
    return Move(ConnectionStatus.SUSPENDED, suspend(suspended_by, SuspendedBy.ME))


# Subscriptions


class SubscriberEvent(Enum):
    """What happens to a subscription on the subscriber's side."""

    ACK_PENDING = "ack pending"  #: the publisher answered our request: a person decides
    ACK_ACTIVE = "ack active"  #: it answered: granted, or renewed
    ACK_REJECTED = "ack rejected"  #: it answered: refused
    ACK_REVOKED = "ack revoked"  #: it answered: revoked there meanwhile
    ACK_CANCELLED = "ack cancelled"  #: it answered: cancelled there meanwhile
    ACK_EXPIRED = "ack expired"  #: it answered: the lease has ended there
    APPROVE = "approve"  #: subscription.approve came in
    REJECT = "reject"  #: subscription.reject came in
    REVOKE = "revoke"  #: subscription.revoke came in
    CANCEL = "cancel"  #: we want it no longer
    EXPIRE = "expire"  #: the lease has ended
    CONNECTION_END = "connection end"  #: the connection has ended


class PublisherEvent(Enum):
    """What happens to a subscription on the publisher's side."""

    REQUEST = "request"  #: subscription.request came in for one that exists
    CANCEL = "cancel"  #: subscription.cancel came in
    APPROVE = "approve"  #: we grant it, or grant it anew
    REJECT = "reject"  #: we refuse it
    REVOKE = "revoke"  #: we take the grant back
    EXPIRE = "expire"  #: the lease has ended
    CONNECTION_END = "connection end"  #: the connection has ended


SubscriptionCell = SubscriptionStatus | Refusal

_REQUESTED, _PENDING, _ACTIVE = (
    SubscriptionStatus.REQUESTED,
    SubscriptionStatus.PENDING,
    SubscriptionStatus.ACTIVE,
)
_REJECTED, _REVOKED = SubscriptionStatus.REJECTED, SubscriptionStatus.REVOKED
_CANCELLED, _EXPIRED = SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED

#: Columns: requested, pending, active. An ended one keeps its status: 200 with the state it has.
_SUBSCRIBER_ROWS: dict[SubscriberEvent, tuple[SubscriptionCell, SubscriptionCell, SubscriptionCell]] = {
    # An approve or reject may overtake the answer to our request, which then changes nothing.
    SubscriberEvent.ACK_PENDING: (_PENDING, _PENDING, _ACTIVE),
    SubscriberEvent.ACK_ACTIVE: (_ACTIVE, _ACTIVE, _ACTIVE),
    SubscriberEvent.ACK_REJECTED: (_REJECTED, _REJECTED, _REVOKED),
    # It has ended at the publisher meanwhile, so that both sides agree again.
    SubscriberEvent.ACK_REVOKED: (_REVOKED, _REVOKED, _REVOKED),
    SubscriberEvent.ACK_CANCELLED: (_CANCELLED, _CANCELLED, _CANCELLED),
    SubscriberEvent.ACK_EXPIRED: (_EXPIRED, _EXPIRED, _EXPIRED),
    SubscriberEvent.APPROVE: (_ACTIVE, _ACTIVE, _ACTIVE),
    SubscriberEvent.REJECT: (_REJECTED, _REJECTED, InvalidState),
    SubscriberEvent.REVOKE: (InvalidState, InvalidState, _REVOKED),
    SubscriberEvent.CANCEL: (_CANCELLED, _CANCELLED, _CANCELLED),
    SubscriberEvent.EXPIRE: (InvalidState, InvalidState, _EXPIRED),
    SubscriberEvent.CONNECTION_END: (_CANCELLED, _CANCELLED, _CANCELLED),
}

#: A publisher never holds a `requested` one.
_PUBLISHER_ROWS: dict[PublisherEvent, tuple[SubscriptionCell, SubscriptionCell, SubscriptionCell]] = {
    PublisherEvent.REQUEST: (InvalidState, _PENDING, _ACTIVE),
    PublisherEvent.CANCEL: (InvalidState, _CANCELLED, _CANCELLED),
    PublisherEvent.APPROVE: (InvalidState, _ACTIVE, _ACTIVE),
    PublisherEvent.REJECT: (InvalidState, _REJECTED, InvalidState),
    PublisherEvent.REVOKE: (InvalidState, InvalidState, _REVOKED),
    PublisherEvent.EXPIRE: (InvalidState, InvalidState, _EXPIRED),
    PublisherEvent.CONNECTION_END: (InvalidState, _CANCELLED, _CANCELLED),
}

#: What a person or a job does itself, rather than a message of the peer: on an ended one it is refused.
_OWN_DECISIONS = frozenset(
    {
        SubscriberEvent.CANCEL,
        PublisherEvent.APPROVE,
        PublisherEvent.REJECT,
        PublisherEvent.REVOKE,
    }
)


def _subscription_table(
    rows: Mapping[SubscriberEvent, tuple[SubscriptionCell, ...]]
    | Mapping[PublisherEvent, tuple[SubscriptionCell, ...]],
) -> dict[tuple[SubscriberEvent | PublisherEvent, SubscriptionStatus], SubscriptionCell]:
    table: dict[tuple[SubscriberEvent | PublisherEvent, SubscriptionStatus], SubscriptionCell] = {}
    for event, cells in rows.items():
        table |= {
            (event, status): cell for status, cell in zip((_REQUESTED, _PENDING, _ACTIVE), cells, strict=True)
        }
        table |= {
            (event, status): InvalidState if event in _OWN_DECISIONS else status
            for status in ENDED_SUBSCRIPTION
        }
    return table


SUBSCRIBER_TABLE = _subscription_table(_SUBSCRIBER_ROWS)
PUBLISHER_TABLE = _subscription_table(_PUBLISHER_ROWS)


def decide_subscriber(event: SubscriberEvent, status: SubscriptionStatus | None) -> SubscriptionCell:
    """The status after it, or the Problem to raise; an unknown subscription (None) is InvalidState."""
    return InvalidState if status is None else SUBSCRIBER_TABLE[event, status]


def decide_publisher(event: PublisherEvent, status: SubscriptionStatus | None) -> SubscriptionCell:
    """The status after it, or the Problem to raise; an unknown subscription (None) is InvalidState.

    A request for an unknown one makes it, which is for the policy of grants to decide.
    """
    return InvalidState if status is None else PUBLISHER_TABLE[event, status]


def subscriber_ack_event(status: str) -> SubscriberEvent | None:
    """What the status of the answer to our subscription.request means; None for a status that is none."""
    return _ACK_EVENTS.get(status)


_ACK_EVENTS = {
    "pending": SubscriberEvent.ACK_PENDING,
    "active": SubscriberEvent.ACK_ACTIVE,
    "rejected": SubscriberEvent.ACK_REJECTED,
    "revoked": SubscriberEvent.ACK_REVOKED,
    "cancelled": SubscriberEvent.ACK_CANCELLED,
    "expired": SubscriberEvent.ACK_EXPIRED,
}
