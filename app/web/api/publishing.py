"""Publish: one event, or up to a thousand at once, as JSON of ours or as CloudEvents."""

from collections.abc import Callable
from typing import Any

import orjson
from flask import Response, request
from pydantic import TypeAdapter

from app import metrics
from app.config import settings
from app.errors import IdempotencyInProgress, IdempotencyKeyReused
from app.outbox.publish import NewEvent, Published, publish_event, publish_events
from app.protocol.canonical import loads
from app.protocol.errors import RateLimited, TooLarge
from app.reports.times import rfc3339
from app.web.api import api, cloudevents, idempotency
from app.web.api.schemas import CloudEvent, PublishBatch, PublishEvent
from app.web.api.shapes import PublishedBatch, PublishedEvent
from app.web.auth import Bearer, Scope
from app.web.json import JSON, Answer
from app.web.limits import draw
from app.web.params import check_media_type, read_bytes, validate
from app.web.request_id import current_traceparent

#: Bytes of a publish body.
MAX_PUBLISH_BYTES = 16 * 1024 * 1024

_ONE = TypeAdapter(PublishEvent)
_MANY = TypeAdapter(PublishBatch)

_HEADERS = {
    "Idempotency-Key": "The same key and body within 24 hours: the first answer again.",
    "traceparent": "W3C Trace Context, sent on with the events.",
}
_PROBLEMS = (IdempotencyKeyReused, IdempotencyInProgress, TooLarge, RateLimited)


@api.post(
    "/events/publish",
    tag="Events",
    scope=Scope.EVENTS_PUBLISH,
    body=PublishEvent,
    reads_body=True,
    other_bodies={cloudevents.ONE: CloudEvent},
    headers=_HEADERS,
    answers={202: PublishedEvent},
    problems=_PROBLEMS,
)
def publish(bearer: Bearer) -> Response:
    """Publish one event.

    It is signed and stored, with a delivery for every connection that subscribed to its type, before this
    answers. Of a CloudEvent, source and id act as the Idempotency-Key unless the header is given.
    """
    media_type = check_media_type(request, (JSON, cloudevents.ONE))
    raw = read_bytes(request, MAX_PUBLISH_BYTES)
    key = idempotency.read_key(request)
    if media_type == JSON:
        event = _new(validate(_ONE, loads(raw)), current_traceparent())
        act = _publish_one
    else:
        event, implied = cloudevents.read_event(loads(raw))
        key = key or implied
        act = _publish_cloudevent
    _draw(bearer, 1)
    return _once(bearer, key, raw, lambda: act(bearer.workspace_id, event))


@api.post(
    "/events/publish/batch",
    tag="Events",
    scope=Scope.EVENTS_PUBLISH,
    body=PublishBatch,
    reads_body=True,
    other_bodies={cloudevents.BATCH: list[CloudEvent]},
    headers=_HEADERS,
    answers={202: PublishedBatch},
    problems=_PROBLEMS,
)
def publish_batch(bearer: Bearer) -> Response:
    """Publish up to 1,000 events, all or none, in the order given."""
    media_type = check_media_type(request, (JSON, cloudevents.BATCH))
    raw = read_bytes(request, MAX_PUBLISH_BYTES)
    key = idempotency.read_key(request)
    if media_type == JSON:
        traceparent = current_traceparent()
        events = [_new(event, traceparent) for event in validate(_MANY, loads(raw)).events]
        act = _publish_many
    else:
        events = cloudevents.read_batch(loads(raw))
        act = _publish_cloudevents
    _draw(bearer, len(events))
    return _once(bearer, key, raw, lambda: act(bearer.workspace_id, events))


def _new(event: PublishEvent, traceparent: str | None) -> NewEvent:
    return NewEvent(event.event_type, event.payload, event.subject, None, traceparent)


def _draw(bearer: Bearer, events: int) -> None:
    draw("publish", bearer.public_id, events, settings().rate_limit_publish)


def _once(bearer: Bearer, key: str | None, raw: bytes, act: Callable[[], bytes]) -> Response:
    call = idempotency.fingerprint(request.path, raw) if key is not None else ""
    outcome = idempotency.once(bearer.workspace_id, key, call, act, 202)
    return Answer(outcome.body, 202, {"Idempotent-Replayed": "true"} if outcome.replayed else None)


def _publish_one(workspace_id: int, event: NewEvent) -> bytes:
    published = publish_event(
        workspace_id, event.event_type, event.payload, event.subject, event.data_schema, event.traceparent
    )
    metrics.EVENTS_PUBLISHED.inc()
    return orjson.dumps(
        PublishedEvent(
            messageId=published.message_id,
            eventType=published.event_type,
            timestamp=rfc3339(published.timestamp),
            deliveries=published.deliveries,
        )
    )


def _publish_many(workspace_id: int, events: list[NewEvent]) -> bytes:
    return _batch_answer(publish_events(workspace_id, events))


def _publish_cloudevent(workspace_id: int, event: NewEvent) -> bytes:
    with cloudevents.attributes_named(0):
        return _publish_one(workspace_id, event)


def _publish_cloudevents(workspace_id: int, events: list[NewEvent]) -> bytes:
    with cloudevents.attributes_named(1):
        return _batch_answer(publish_events(workspace_id, events, pointer_prefix=""))


def _batch_answer(published: list[Published]) -> bytes:
    metrics.EVENTS_PUBLISHED.inc(amount=len(published))
    data: list[Any] = [
        {"messageId": one.message_id, "eventType": one.event_type, "deliveries": one.deliveries}
        for one in published
    ]
    return orjson.dumps({"data": data})
