"""What calls answer beside the details that `app.reports.details` names."""

from typing import Generic, NotRequired, TypeVar

from typing_extensions import TypedDict

Row = TypeVar("Row")


class Listing(TypedDict, Generic[Row]):
    """One page of a list."""

    data: list[Row]
    nextCursor: str | None
    hasMore: bool


class PublishedEvent(TypedDict):
    """An event that was stored, and to how many connections it goes."""

    messageId: str
    eventType: str
    timestamp: str
    deliveries: int


class BatchEntry(TypedDict):
    """One event of a batch."""

    messageId: str
    eventType: str
    deliveries: int


class PublishedBatch(TypedDict):
    """The events of a batch, in the order given."""

    data: list[BatchEntry]


class PreviewDetails(TypedDict):
    """What an instance says of itself, and how far away it is."""

    instanceId: str
    name: str
    remoteUrl: str
    software: str
    versions: list[str]
    features: list[str]
    limits: dict[str, int]
    keyId: str
    fingerprint: str
    pairingCode: str
    #: Active keys that are pinned for this instance already.
    knownFingerprints: list[str]
    isSelf: bool
    clockSkewMs: int | None
    latencyMs: int


class VerificationDetails(TypedDict):
    """Whether the peer answered, and how fast."""

    connectionId: str
    ok: bool
    status: str
    roundTripMs: int
    clockSkewMs: int | None


class RetryGroup(TypedDict):
    """Deliveries of one connection with the same error."""

    connectionId: str
    error: str | None
    count: int


class RetryAnswer(TypedDict):
    """How many deliveries were taken, or would be; groups only for a dry run.

    A large set is worked off in the background: `operationId` names what tells how far that is.
    """

    count: int
    dryRun: bool
    groups: list[RetryGroup]
    operationId: NotRequired[str]


class FieldProblem(TypedDict):
    """One bad field; the pointer of a query parameter is /name."""

    pointer: str
    code: str
    detail: str


class ProblemDocument(TypedDict):
    """RFC 9457: why a call was refused."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    requestId: str | None
    errors: NotRequired[list[FieldProblem]]
