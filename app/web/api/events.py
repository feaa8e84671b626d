"""The event log: what came in, what went out, and sending again what did not arrive."""

from app.errors import InvalidCursor, NotFound
from app.outbox.dead_letters import retry_event
from app.reports.details import EventMessageDetails
from app.reports.event_log import get_event_message, get_event_messages
from app.reports.paging import Page
from app.web.api import api
from app.web.api.schemas import EventQuery, RetryEvent
from app.web.api.shapes import Listing, RetryAnswer
from app.web.auth import Bearer, Scope


@api.get(
    "/events/messages",
    tag="Events",
    scope=Scope.EVENTS_READ,
    query=EventQuery,
    answers={200: Listing[EventMessageDetails]},
    problems=(InvalidCursor,),
)
def list_messages(bearer: Bearer, query: EventQuery) -> Page[EventMessageDetails]:
    """List events, newest first; or consume them with order=asc.

    With direction=incoming and order=asc every page has a nextCursor, also an empty last one: go on from it
    for what came since, in the order of commit.
    """
    return get_event_messages(
        bearer.workspace_id,
        direction=query.direction,
        event_type=query.event_type,
        connection_id=query.connection_id,
        status=query.status,
        created_after=query.created_after,
        created_before=query.created_before,
        order=query.order,
        limit=query.limit,
        cursor=query.cursor,
    )


@api.get(
    "/events/messages/<message_id>",
    tag="Events",
    scope=Scope.EVENTS_READ,
    answers={200: EventMessageDetails},
    problems=(NotFound,),
)
def show_message(bearer: Bearer, message_id: str) -> EventMessageDetails:
    """Show one event with its deliveries and their attempts."""
    return get_event_message(bearer.workspace_id, message_id)


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
