"""The shapes in which this instance's own people and scripts see things: API, command line and pages alike.

Names and values are a contract (camelCase, RFC 3339 times, UUIDs). They are typed dictionaries, so that a
list of two hundred costs no objects, and the API's document is made from these same types.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

#: Rows counted for `waiting` at most; beyond it the number says "this many or more".
WAITING_CAP = 100_000

DirectionText = Literal["incoming", "outgoing"]
#: A connection's status as shown; the same words as inside.
ConnectionStatusText = Literal[
    "requested", "pending", "active", "suspended", "disconnected", "rejected", "expired"
]
#: `pending` covers the inside's `requested`: asked, and not answered yet.
SubscriptionStatusText = Literal["pending", "active", "rejected", "revoked", "cancelled", "expired"]
#: `held` is a pending delivery whose connection does not send now.
DeliveryStatusText = Literal["pending", "sending", "held", "delivered", "dead", "withdrawn"]
ReplayStatusText = Literal["waiting", "requested", "running", "complete", "refused", "failed"]
EventStatusText = Literal["pending", "delivered", "partial", "dead", "unsubscribed"]
OperationKindText = Literal["retry", "discard"]
OperationStatusText = Literal["running", "paused", "done", "cancelled"]
ReconciliationStatusText = Literal["running", "done", "failed"]
DifferenceText = Literal[
    "missing_there", "unacknowledged", "missing_here", "not_acknowledged", "unknown_here", "different"
]


class ConnectionDetails(TypedDict):
    """One connection, as this side sees it."""

    id: str
    wireConnectionId: str
    workspaceId: str
    direction: DirectionText
    remoteInstanceId: str | None
    remoteName: str | None
    remoteUrl: str | None
    remoteWorkspace: str | None
    status: ConnectionStatusText
    suspendedBy: Literal["me", "peer", "both"] | None
    keyReview: bool
    #: Of the key that is trusted.
    fingerprint: str | None
    #: While `keyReview`: of the key that the peer signs with now, and that nobody vouched for.
    newFingerprint: str | None
    pairingCode: str | None
    verifiedAt: str | None
    note: str | None
    reason: str | None
    version: str | None
    features: list[str]
    clockSkewMs: int | None
    lastReceivedAt: str | None
    lastDeliveredAt: str | None
    waiting: int
    createdAt: str
    updatedAt: str


class SubscriptionDetails(TypedDict):
    """One subscription; `direction` is that of its events."""

    id: str
    workspaceId: str
    connectionId: str
    eventType: str
    direction: DirectionText
    filter: None
    metadata: dict[str, Any]
    status: SubscriptionStatusText
    isActive: bool
    leaseExpiresAt: str | None
    createdAt: str
    updatedAt: str


class DeliveryDetails(TypedDict):
    """One event on its way to one connection."""

    id: str
    messageId: str
    connectionId: str
    eventType: str
    status: DeliveryStatusText
    sequence: int | None
    error: str | None
    attempts: int
    nextAttemptAt: str | None
    createdAt: str
    deliveredAt: str | None


class Attempt(TypedDict):
    """One request that carried a delivery."""

    number: int
    trigger: Literal["auto", "manual", "replay"]
    startedAt: str
    durationMs: int
    statusCode: int | None
    errorCode: str | None
    errorDetail: str | None
    batchId: str
    responseBody: str | None


class EventDelivery(TypedDict):
    """A delivery of an event, with its attempts in order instead of their number."""

    id: str
    messageId: str
    connectionId: str
    eventType: str
    status: DeliveryStatusText
    sequence: int | None
    error: str | None
    attempts: list[Attempt]
    nextAttemptAt: str | None
    createdAt: str
    deliveredAt: str | None


class EventProof(TypedDict):
    """The place of an event among those that share its signature, and its way to their root (§1.3)."""

    index: int
    size: int
    path: list[str]


class EventMessageDetails(TypedDict):
    """One event, ours or a peer's."""

    id: str
    workspaceId: str
    connectionId: str | None
    messageType: Literal["EVENT"]
    direction: DirectionText
    messageId: str
    correlationId: None
    eventType: str
    payload: dict[str, Any]
    status: EventStatusText
    sequence: int | None
    error: str | None
    createdAt: str
    deliveredAt: str | None
    signature: str
    keyId: str
    #: Only of an event that shares its signature with others.
    proof: NotRequired[EventProof]
    #: Only where one event is shown.
    deliveries: NotRequired[list[EventDelivery]]


class DeadGroup(TypedDict):
    """Dead letters of one connection that died of the same error."""

    connectionId: str
    error: str | None
    count: int


class OperationDetails(TypedDict):
    """A set of deliveries that is sent again or discarded, and how far that is."""

    id: str
    kind: OperationKindText
    filter: dict[str, Any]
    reason: str | None
    maxItems: int | None
    status: OperationStatusText
    #: Deliveries in the set when it was frozen; of those the ones taken, and those passed over.
    total: int
    done: int
    skipped: int
    #: Milliseconds that the rest takes at the pace so far; null unless it runs and has begun.
    remainingMs: int | None
    startedBy: str
    createdAt: str
    updatedAt: str
    finishedAt: str | None


class Difference(TypedDict):
    """One event on which both sides differ, and what was done about it; null: a person must look."""

    sequence: int
    messageId: str
    kind: DifferenceText
    repair: Literal["sent_again", "acknowledged", "replay_asked"] | None


class ReconciliationDetails(TypedDict):
    """A comparison of what was sent over a connection with what was stored, and what it found."""

    id: str
    connectionId: str
    direction: DirectionText
    streamEpoch: str
    status: ReconciliationStatusText
    fromSequence: int
    toSequence: int
    #: Numbers compared; differences found, and those of them that were mended.
    compared: int
    found: int
    repaired: int
    differences: list[Difference]
    error: str | None
    errorDetail: str | None
    askedBy: str
    createdAt: str
    finishedAt: str | None


class MissingRange(TypedDict):
    """Numbers of a stream that did not come, both ends included, and why."""

    fromSequence: int
    toSequence: int
    reason: str


class EpochDetails(TypedDict):
    """One run of the counting: complete up to `contiguous` of `headSequence`, but for what is missing."""

    streamEpoch: str | None
    contiguous: int
    headSequence: int
    missing: list[MissingRange]


class StreamDetails(EpochDetails):
    """One direction: the current epoch, and earlier ones of which something is missing."""

    earlier: list[EpochDetails]
    #: Outgoing: when the peer last said that it has less than before, as after a restore from a backup.
    wentBackAt: str | None


class ReplayDetails(TypedDict):
    """A replay: what was asked for, and how far it came. `incoming`: we asked, and the events come to us."""

    replayId: str
    connectionId: str
    direction: DirectionText
    status: ReplayStatusText
    streamEpoch: str | None
    fromSequence: int | None
    toSequence: int | None
    since: str | None
    until: str | None
    eventTypes: list[str] | None
    requestedBy: str
    #: Events that came, or that the peer acknowledged.
    count: int
    #: Of those, events that the receiver did not have.
    stored: int
    #: Events that the receiver refused.
    refused: int
    #: 0 to 1, as far as it is known.
    progress: float | None
    error: str | None
    errorDetail: str | None
    createdAt: str
    updatedAt: str
    finishedAt: str | None


class ConnectionStreams(TypedDict):
    """Both directions' counters."""

    incoming: StreamDetails
    outgoing: StreamDetails


class Check(TypedDict):
    """One thing that must be right for the instance to work."""

    name: str
    ok: bool
    detail: str
    #: What to do about it; empty while all is well.
    fix: str
