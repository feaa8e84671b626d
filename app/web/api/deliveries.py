"""Deliveries: what waits, what arrived, what died, and what to do about it."""

from app.errors import InvalidCursor, NotFound
from app.outbox.dead_letters import (
    DeliveryFilter,
    RetryResult,
    discard_deliveries,
    retry_deliveries,
    retry_event,
)
from app.reports.deliveries import list_dead_groups, list_deliveries
from app.reports.details import DeadGroup, DeliveryDetails
from app.reports.paging import Page
from app.web.api import api
from app.web.api.operation import whole
from app.web.api.schemas import (
    DeliveryChoice,
    DeliveryQuery,
    DiscardDeliveries,
    RetryDeliveries,
    RetryEvent,
)
from app.web.api.shapes import Listing, RetryAnswer, RetryGroup
from app.web.auth import Bearer, Scope
from app.web.json import Answer

READ = (Scope.EVENTS_READ, Scope.DELIVERIES_WRITE)


@api.get(
    "/deliveries",
    tag="Deliveries",
    scope=READ,
    query=DeliveryQuery,
    answers={200: Listing[DeliveryDetails]},
    problems=(InvalidCursor,),
)
def browse_deliveries(bearer: Bearer, query: DeliveryQuery) -> Page[DeliveryDetails]:
    """List deliveries, newest first.

    `held` are those whose connection does not send now: suspended, paused, or waiting for a person.
    """
    return list_deliveries(
        bearer.workspace_id,
        status=query.status,
        connection_id=query.connection_id,
        event_type=query.event_type,
        limit=query.limit,
        cursor=query.cursor,
    )


@api.post(
    "/deliveries/retry",
    tag="Deliveries",
    scope=Scope.DELIVERIES_WRITE,
    body=RetryDeliveries,
    answers={202: RetryAnswer, 200: RetryAnswer},
)
def retry(bearer: Bearer, body: RetryDeliveries) -> Answer:
    """Send deliveries again: the dead ones of the filter, or those that wait.

    A dry run answers 200 with counts by connection and error and changes nothing.
    """
    result = retry_deliveries(
        bearer.workspace_id, _filter(body.filter), dry_run=body.dry_run, max_items=body.max_items
    )
    return _answer(result, body.dry_run)


@api.post(
    "/events/messages/<message_id>/retry",
    tag="Events",
    scope=Scope.DELIVERIES_WRITE,
    body=RetryEvent,
    body_required=False,
    answers={202: RetryAnswer},
    problems=(NotFound,),
)
def retry_message(bearer: Bearer, message_id: str, body: RetryEvent) -> RetryAnswer:
    """Send the failed or dead deliveries of an event again."""
    result = retry_event(bearer.workspace_id, message_id, body.connection_id)
    return RetryAnswer(count=result.count, dryRun=False, groups=[])


@api.get(
    "/deliveries/dead/groups",
    tag="Deliveries",
    scope=READ,
    answers={200: Listing[DeadGroup]},
)
def dead_groups(bearer: Bearer) -> Page[DeadGroup]:
    """Count dead letters by connection and error."""
    return whole(list_dead_groups(bearer.workspace_id))


@api.post(
    "/deliveries/discard",
    tag="Deliveries",
    scope=Scope.DELIVERIES_WRITE,
    body=DiscardDeliveries,
    answers={202: RetryAnswer, 200: RetryAnswer},
)
def discard(bearer: Bearer, body: DiscardDeliveries) -> Answer:
    """Give deliveries up for good.

    A dry run answers 200 with counts by connection and error and changes nothing.
    """
    result = discard_deliveries(bearer.workspace_id, _filter(body.filter), body.reason, dry_run=body.dry_run)
    return _answer(result, body.dry_run)


def _filter(choice: DeliveryChoice) -> DeliveryFilter:
    return DeliveryFilter(
        status=choice.status or "dead", connection_id=choice.connection_id, event_type=choice.event_type
    )


def _answer(result: RetryResult, dry_run: bool) -> Answer:
    groups = [
        RetryGroup(connectionId=group.connection_id, error=group.error, count=group.count)
        for group in result.groups
    ]
    body = RetryAnswer(count=result.count, dryRun=dry_run, groups=groups)
    return Answer(body, 200 if dry_run else 202)
