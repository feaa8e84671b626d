"""Deliveries: what waits, what arrived, what died, and what to do about it."""

from collections.abc import Callable

from app.errors import InvalidCursor, NotFound
from app.models import Operation, OperationKind, OperationState
from app.outbox import operations
from app.outbox.dead_letters import DeliveryFilter, Preview, preview, retry_event
from app.protocol.errors import InvalidState
from app.reports.deliveries import list_dead_groups, list_deliveries
from app.reports.details import DeadGroup, DeliveryDetails, OperationDetails
from app.reports.operations import list_operations, operation_details
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
from app.web.params import ListQuery

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

    A dry run answers 200 with counts by connection and error and changes nothing. What matches now is taken;
    a large set is worked off in the background, and `operationId` tells how far that is.
    """
    chosen = _filter(body.filter)
    if body.dry_run:
        return _counted(preview(bearer.workspace_id, chosen, body.max_items))
    return _started(
        operations.start(bearer.workspace_id, OperationKind.RETRY, chosen, max_items=body.max_items)
    )


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
    taken = retry_event(bearer.workspace_id, message_id, body.connection_id)
    return RetryAnswer(count=taken, dryRun=False, groups=[])


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

    A dry run answers 200 with counts by connection and error and changes nothing. What matches now is taken;
    a large set is worked off in the background, and `operationId` tells how far that is.
    """
    chosen = _filter(body.filter)
    if body.dry_run:
        return _counted(preview(bearer.workspace_id, chosen))
    return _started(operations.start(bearer.workspace_id, OperationKind.DISCARD, chosen, reason=body.reason))


@api.get(
    "/operations",
    tag="Deliveries",
    scope=READ,
    query=ListQuery,
    answers={200: Listing[OperationDetails]},
    problems=(InvalidCursor,),
)
def browse_operations(bearer: Bearer, query: ListQuery) -> Page[OperationDetails]:
    """List the sets of deliveries that were sent again or discarded, newest first."""
    return list_operations(bearer.workspace_id, limit=query.limit, cursor=query.cursor)


@api.get(
    "/operations/<operation_id>",
    tag="Deliveries",
    scope=READ,
    answers={200: OperationDetails},
    problems=(NotFound,),
)
def show_operation(bearer: Bearer, operation_id: str) -> OperationDetails:
    """Tell how far an operation is."""
    return operation_details(operations.get(bearer.workspace_id, operation_id))


def _steering(verb: str, says: str, act: Callable[[int, str], Operation]) -> None:
    """Declare a call that stops an operation or lets it go on."""

    def steer(bearer: Bearer, operation_id: str) -> OperationDetails:
        return operation_details(act(bearer.workspace_id, operation_id))

    steer.__name__ = f"{verb}_operation"
    steer.__doc__ = says
    api.post(
        f"/operations/<operation_id>/{verb}",
        tag="Deliveries",
        scope=Scope.DELIVERIES_WRITE,
        answers={200: OperationDetails},
        problems=(NotFound, InvalidState),
    )(steer)


_steering("pause", "Stop an operation after the piece in hand.", operations.pause)
_steering("resume", "Let a paused operation go on.", operations.resume)
_steering("cancel", "End an operation; what was done stays done.", operations.cancel)


def _filter(choice: DeliveryChoice) -> DeliveryFilter:
    return DeliveryFilter(
        status=choice.status or "dead",
        connection_id=choice.connection_id,
        event_type=choice.event_type,
        error=choice.error,
        ids=None if choice.ids is None else tuple(choice.ids),
    )


def _counted(found: Preview) -> Answer:
    groups = [
        RetryGroup(connectionId=group.connection_id, error=group.error, count=group.count)
        for group in found.groups
    ]
    return Answer(RetryAnswer(count=found.count, dryRun=True, groups=groups), 200)


def _started(operation: Operation) -> Answer:
    is_done = operation.state is OperationState.DONE
    body = RetryAnswer(
        count=operation.done if is_done else operation.total,
        dryRun=False,
        groups=[],
        operationId=operation.public_id,
    )
    return Answer(body, 202)
