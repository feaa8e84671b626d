"""Why an event went to nobody, or not to somebody: one reason for each connection of its workspace.

It tells what stands in the way now. Where something changed after the event was published, it says that too,
since an event goes only to those who were subscribed when it was published. A reason is a fact; what to type
about it stands beside it, since the console has buttons for that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import sqlalchemy as sa

from app.database import db
from app.models import Connection, Delivery, Direction, Event, Subscription, event_named
from app.protocol.event_types import matches
from app.protocol.states import OPEN, DeliveryState, SubscriptionStatus
from app.reports.ailments import HELD, what_ails
from app.reports.connections import is_visible
from app.reports.times import rfc3339


class Reason(TypedDict):
    """What stands between the event and one connection; without a connection, between it and everybody."""

    connectionId: str | None
    remoteName: str | None
    reason: str
    detail: str
    #: A command that would change it, in a sentence; empty if there is none.
    step: str


class _Said(NamedTuple):
    """A reason: its constant name, the sentence, and the command in a sentence."""

    reason: str
    detail: str
    step: str = ""


def explain(workspace_id: int, message_id: str) -> list[Reason]:
    """One reason for each connection of the workspace, the newest connection first.

    The event is an outgoing one of this workspace; for others the list is empty.
    """
    event = db.session.scalar(
        sa.select(Event)
        .where(event_named(workspace_id, message_id))
        .where(Event.direction == Direction.OUTGOING)
    )
    if event is None:
        return []
    connections = db.session.scalars(
        sa.select(Connection)
        .where(Connection.workspace_id == workspace_id, is_visible())
        .order_by(Connection.id.desc())
    ).all()
    if not connections:
        return [
            Reason(
                connectionId=None,
                remoteName=None,
                reason="no_connection",
                detail="This workspace has no connection.",
                step="`flask connection request URL` asks another instance for one.",
            )
        ]
    deliveries = _deliveries(event.id)
    wishes = _wishes([connection.id for connection in connections])
    return [
        _reason(connection, _why(event, connection, deliveries.get(connection.id), wishes[connection.id]))
        for connection in connections
    ]


def _reason(connection: Connection, said: _Said) -> Reason:
    return Reason(
        connectionId=connection.public_id,
        remoteName=connection.peer.name if connection.peer else connection.claimed_base_url,
        reason=said.reason,
        detail=said.detail,
        step=said.step,
    )


def _deliveries(event_id: int) -> Mapping[int, Delivery]:
    rows = db.session.scalars(sa.select(Delivery).where(Delivery.event_id == event_id))
    return {row.connection_id: row for row in rows}


def _wishes(connection_ids: Sequence[int]) -> Mapping[int, list[Subscription]]:
    """What the peers asked for, the latest first."""
    found: dict[int, list[Subscription]] = {connection_id: [] for connection_id in connection_ids}
    rows = db.session.scalars(
        sa.select(Subscription)
        .where(Subscription.connection_id.in_(connection_ids), Subscription.direction == Direction.OUTGOING)
        .order_by(Subscription.id.desc())
    )
    for row in rows:
        found[row.connection_id].append(row)
    return found


def _why(
    event: Event, connection: Connection, delivery: Delivery | None, wishes: Sequence[Subscription]
) -> _Said:
    if delivery is not None:
        return _of_delivery(connection, delivery)
    if connection.status not in OPEN:
        return _Said("connection_not_open", f"The connection is {connection.status.value}.")
    matching = [
        wish for wish in wishes if matches(wish.granted_event_type or wish.event_type, event.event_type)
    ]
    if matching:
        return _of_subscription(event, matching[0])
    narrowed = [wish for wish in wishes if matches(wish.event_type, event.event_type)]
    if narrowed:
        wish = narrowed[0]
        return _Said(
            "granted_less",
            f"They asked for {wish.event_type}, but only {wish.granted_event_type} was granted.",
        )
    asked = ", ".join(sorted({wish.event_type for wish in wishes if wish.status in _LIVE}))
    if asked:
        return _Said("no_pattern_matches", f"They asked for {asked}; {event.event_type} is none of these.")
    return _Said(
        "nothing_asked_for",
        "They have no subscription.",
        "The other side makes it with `flask subscription create`.",
    )


#: Subscriptions that a peer still means.
_LIVE = (SubscriptionStatus.PENDING, SubscriptionStatus.ACTIVE)


def _of_delivery(connection: Connection, delivery: Delivery) -> _Said:
    match delivery.state:
        case DeliveryState.DELIVERED:
            return _Said("delivered", f"It arrived: acknowledged at {rfc3339(delivery.delivered_at)}.")
        case DeliveryState.DEAD:
            return _Said(
                "dead", f"It was given up: {_error(delivery)}.", "`flask event retry` sends it again."
            )
        case DeliveryState.WITHDRAWN:
            return _Said("withdrawn", "The subscription ended before it was sent.")
        case DeliveryState.SENDING:
            return _Said("sending", "It is being sent now.")
    ailment = what_ails(connection)
    if ailment is not None:
        kind = "held" if ailment.kind in HELD else "waiting"
        return _Said(kind, ailment.detail, ailment.do)
    if delivery.error_code:
        return _Said(
            "waiting", f"It is tried again at {rfc3339(delivery.next_attempt_at)}: {_error(delivery)}."
        )
    return _Said("waiting", "It waits for a worker.", "`flask doctor` tells whether one runs.")


def _of_subscription(event: Event, wish: Subscription) -> _Said:
    pattern = wish.granted_event_type or wish.event_type
    match wish.status:
        case SubscriptionStatus.ACTIVE:
            return _Said(
                "subscribed_later",
                f"Their subscription to {pattern} is active now, but was not when this event was published, "
                f"at {rfc3339(event.created_at)}.",
            )
        case SubscriptionStatus.PENDING:
            return _Said(
                "not_approved",
                f"They asked for {pattern}, and nobody decided yet.",
                f"`flask subscription approve {wish.public_id}` grants it.",
            )
        case SubscriptionStatus.EXPIRED:
            return _Said(
                "lease_expired", f"Their subscription to {pattern} ended at {rfc3339(wish.lease_expires_at)}."
            )
    return _Said(
        "subscription_ended",
        f"Their subscription to {pattern} is {wish.status.value} since {rfc3339(wish.updated_at)}.",
    )


def _error(delivery: Delivery) -> str:
    return (
        ": ".join(part for part in (delivery.error_code, delivery.error_detail) if part)
        or "no error is known"
    )


def as_lines(reasons: Sequence[Reason]) -> list[str]:
    """The reasons for people, one line each."""
    return [_line(reason) for reason in reasons]


def _line(reason: Mapping[str, Any]) -> str:
    said = f"{reason['detail']} {reason['step']}".strip()
    if reason["connectionId"] is None:
        return said
    return f"{reason['remoteName'] or 'unknown'} ({reason['connectionId']}): {said}"
