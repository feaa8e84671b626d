"""The event log: what came in and what went out."""

from app.errors import InvalidCursor, NotFound
from app.reports.details import EventMessageDetails
from app.reports.event_log import get_event_message, get_event_messages
from app.reports.paging import Page
from app.web.api import api
from app.web.api.schemas import EventQuery
from app.web.api.shapes import Listing
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
