"""Subscriptions: ours to peers' events, and peers' to ours."""

from collections.abc import Callable

from app.errors import InvalidCursor, InvalidState, NotFound, SubscriptionExists
from app.federation import subscriptions
from app.reports.details import SubscriptionDetails
from app.reports.paging import Page
from app.reports.subscriptions import get_event_subscriptions, subscription_details
from app.web.api import api
from app.web.api.operation import View
from app.web.api.schemas import Reason, Subscribe, SubscriptionQuery, Unsubscribe
from app.web.api.shapes import Listing
from app.web.auth import Bearer, Scope

READ = (Scope.EVENTS_READ, Scope.SUBSCRIPTIONS_WRITE)


def _decision(name: str) -> Callable[[View], View]:
    """Declare a call by which the publisher decides about a subscription of a peer."""
    return api.post(
        f"/events/subscriptions/<subscription_id>/{name}",
        tag="Subscriptions",
        scope=Scope.SUBSCRIPTIONS_WRITE,
        body=Reason,
        body_required=False,
        answers={200: SubscriptionDetails},
        problems=(NotFound, InvalidState),
    )


@api.post(
    "/events/subscribe",
    tag="Subscriptions",
    scope=Scope.SUBSCRIPTIONS_WRITE,
    body=Subscribe,
    answers={201: SubscriptionDetails},
    problems=(SubscriptionExists, InvalidState, NotFound),
)
def subscribe(bearer: Bearer, body: Subscribe) -> SubscriptionDetails:
    """Subscribe to a type, or a pattern of types, of a peer's events.

    `active` if the peer granted it within 2 s, else `pending`.
    """
    subscription = subscriptions.subscribe_to_event_type(
        bearer.workspace_id, body.connection_id, body.event_type, body.metadata
    )
    return subscription_details(subscription)


@api.post(
    "/events/unsubscribe",
    tag="Subscriptions",
    scope=Scope.SUBSCRIPTIONS_WRITE,
    body=Unsubscribe,
    answers={200: SubscriptionDetails},
    problems=(NotFound,),
)
def unsubscribe(bearer: Bearer, body: Unsubscribe) -> SubscriptionDetails:
    """End a subscription of ours."""
    subscription = subscriptions.unsubscribe_from_event_type(
        bearer.workspace_id, body.connection_id, body.event_type
    )
    return subscription_details(subscription)


@api.get(
    "/events/subscriptions",
    tag="Subscriptions",
    scope=READ,
    query=SubscriptionQuery,
    answers={200: Listing[SubscriptionDetails]},
    problems=(InvalidCursor,),
)
def list_subscriptions(bearer: Bearer, query: SubscriptionQuery) -> Page[SubscriptionDetails]:
    """List subscriptions of both directions, newest first."""
    return get_event_subscriptions(
        bearer.workspace_id,
        connection_id=query.connection_id,
        direction=query.direction,
        status=query.status,
        limit=query.limit,
        cursor=query.cursor,
    )


@_decision("approve")
def approve_subscription(bearer: Bearer, subscription_id: str, body: Reason) -> SubscriptionDetails:
    """Grant a peer the events that it asked for."""
    return subscription_details(subscriptions.approve(bearer.workspace_id, subscription_id, body.reason))


@_decision("reject")
def reject_subscription(bearer: Bearer, subscription_id: str, body: Reason) -> SubscriptionDetails:
    """Refuse a peer the events that it asked for."""
    return subscription_details(subscriptions.reject(bearer.workspace_id, subscription_id, body.reason))


@_decision("revoke")
def revoke_subscription(bearer: Bearer, subscription_id: str, body: Reason) -> SubscriptionDetails:
    """Take back a grant; what was not sent yet is withdrawn."""
    return subscription_details(subscriptions.revoke(bearer.workspace_id, subscription_id, body.reason))
