"""What calls bring: bodies and query strings as types. They validate, and make the OpenAPI document."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from app.outbox.dead_letters import MAX_IDS
from app.outbox.publish import MAX_EVENTS
from app.protocol.event_types import is_event_type, is_pattern
from app.protocol.origins import parse_origin
from app.reports.details import (
    ConnectionStatusText,
    DeliveryStatusText,
    DirectionText,
    EventStatusText,
    SubscriptionStatusText,
)
from app.web.params import Body, Id, ListQuery, Time

#: A subscription's notes as JSON, bytes.
MAX_METADATA_BYTES = 16_384


def _origin(text: str) -> str:
    try:
        return parse_origin(text)
    except ValueError:
        raise PydanticCustomError("format", "must be http(s)://host[:port] without a path") from None


def _pattern(text: str) -> str:
    if not is_pattern(text):
        raise PydanticCustomError(
            "format", "must be an event type, or a pattern such as task.* or task.** or **"
        )
    return text


def _event_type(text: str) -> str:
    if not is_event_type(text):
        raise PydanticCustomError("format", "must be an event type such as task.created")
    return text


def _small(value: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(value)) > MAX_METADATA_BYTES:
        raise PydanticCustomError("limit", "must have at most 16384 bytes of JSON")
    return value


def _milliseconds(value: Any) -> Any:
    """RFC 3339 in bodies, which are strict about types."""
    if not isinstance(value, str):
        raise PydanticCustomError("type", "must be an RFC 3339 time")
    return value


Origin = Annotated[str, Field(max_length=300, examples=["https://b.example"]), AfterValidator(_origin)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$", examples=["default"])]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Pattern = Annotated[str, Field(examples=["task.*"]), AfterValidator(_pattern)]
EventType = Annotated[str, Field(examples=["task.created"]), AfterValidator(_event_type)]
Moment = Annotated[Time, BeforeValidator(_milliseconds)]
Sequence = Annotated[int, Field(ge=1, le=2**53 - 1)]


# Connections


class Preview(Body):
    """Whom to look at."""

    remote_url: Origin


class Initiate(Body):
    """Whom to ask for a connection."""

    remote_url: Origin
    to_workspace: Slug | None = Field(None, description="The remote workspace; else its default one.")
    note: Text | None = Field(None, description="What the people there are told.")
    replace: bool = Field(False, description="Ask even if a connection is open, to take its place.")


class Reason(Body):
    """Why."""

    reason: Text | None = None


class Steering(Body):
    """Which direction, and why."""

    direction: DirectionText | None = Field(None, description="For pause and unpause; else both.")
    reason: Text | None = None


class ReplayRange(Body):
    """What to send again; what is given is and-ed."""

    from_sequence: Sequence | None = None
    to_sequence: Sequence | None = None
    since: Moment | None = None
    until: Moment | None = None
    event_types: Annotated[list[Pattern], Field(min_length=1, max_length=100)] | None = None


class ConnectionQuery(ListQuery):
    """Which connections."""

    status: ConnectionStatusText | None = None


# Subscriptions


class Subscribe(Body):
    """What to subscribe to."""

    connection_id: Id
    event_type: Pattern
    filter: None = Field(None, description="Reserved.")
    metadata: Annotated[dict[str, Any], AfterValidator(_small)] | None = Field(
        None, description="Notes of your own; never sent."
    )


class Unsubscribe(Body):
    """What to end."""

    connection_id: Id
    event_type: Pattern


class SubscriptionQuery(ListQuery):
    """Which subscriptions; `direction` is that of the events."""

    connection_id: Id | None = None
    direction: DirectionText | None = None
    status: SubscriptionStatusText | None = None


# Events


class PublishEvent(Body):
    """One event. Its JCS with the signature has at most 65,536 bytes."""

    event_type: str = Field(
        examples=["task.created"], description="1 to 8 segments [a-z0-9_-]{1,64} with dots between."
    )
    payload: dict[str, Any] = Field(examples=[{"id": 7, "title": "Paint the fence"}])
    subject: str | None = Field(None, description="What the event is about, up to 1,024 characters.")


class PublishBatch(Body):
    """Up to 1,000 events, all or none."""

    events: Annotated[list[PublishEvent], Field(min_length=1, max_length=MAX_EVENTS)]


class EventQuery(ListQuery):
    """Which events."""

    direction: DirectionText | None = None
    event_type: EventType | None = None
    connection_id: Id | None = None
    status: EventStatusText | None = None
    created_after: Time | None = Field(None, description="This time and later.")
    created_before: Time | None = Field(None, description="This time and earlier.")
    order: Literal["asc", "desc"] = Field(
        "desc", description="asc needs direction=incoming: go on from nextCursor for ever, nothing is missed."
    )


class RetryEvent(Body):
    """Which delivery of the event; else all that failed."""

    connection_id: Id | None = None


# Deliveries


class DeliveryQuery(ListQuery):
    """Which deliveries."""

    status: DeliveryStatusText | None = None
    connection_id: Id | None = None
    event_type: EventType | None = None


class DeliveryChoice(Body):
    """Which deliveries; the dead ones if no status is given."""

    status: Literal["dead", "pending", "held"] | None = None
    connection_id: Id | None = None
    event_type: EventType | None = None
    error: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="The error code that the last attempt left."
    )
    ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_IDS)] | None = Field(
        None, description="Only these deliveries."
    )


class RetryDeliveries(Body):
    """What to send again."""

    filter: DeliveryChoice
    dry_run: bool = Field(False, description="Only count.")
    max_items: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class DiscardDeliveries(Body):
    """What to give up for good."""

    filter: DeliveryChoice
    reason: Text
    dry_run: bool = Field(False, description="Only count.")


# CloudEvents 1.0, as far as they are taken


def _is_json(text: str) -> str:
    media_type, _, parameter = text.lower().replace(" ", "").replace('"', "").partition(";")
    if media_type != "application/json" or parameter not in ("", "charset=utf-8"):
        raise PydanticCustomError("format", "must be application/json")
    return text


JsonType = Annotated[str, AfterValidator(_is_json)]
CloudEventText = Annotated[str, Field(min_length=1, max_length=1024)]


class CloudEvent(Body):
    """A CloudEvent 1.0 in the structured mode."""

    specversion: Literal["1.0"]
    id: CloudEventText
    source: CloudEventText
    type: str = Field(examples=["task.created"])
    data: dict[str, Any]
    subject: str | None = None
    dataschema: str | None = None
    datacontenttype: JsonType | None = Field(None, description="application/json, if given.")
    time: Moment | None = Field(None, description="Checked and not kept.")
    traceparent: (
        Annotated[str, Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None
    ) = None
