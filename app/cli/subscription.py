"""`flask subscription`: which event types flow over a connection, in both directions."""

from collections.abc import Callable

import click

from app.cli.answered import tell_answer
from app.cli.lookup import connection_id, subscription_id, workspace_named
from app.cli.output import (
    Group,
    note,
    output_option,
    print_list,
    print_one,
    read_object,
    refused,
    workspace_option,
)
from app.federation import subscriptions
from app.models import Direction, Subscription
from app.protocol.control import ControlType
from app.protocol.states import SubscriptionStatus
from app.reports.subscriptions import get_event_subscriptions, get_subscription_details, subscription_details

_STATUSES = ["pending", "active", "rejected", "revoked", "cancelled", "expired"]


@click.group(cls=Group)
def subscription() -> None:
    """Subscribe to events of others, and decide about those who want ours."""


@subscription.command()
@click.argument("connection", metavar="CONNECTION")
@click.argument("event_type", metavar="PATTERN")
@click.option("--metadata", default="{}", show_default=True, help="Own notes, a JSON object; never sent.")
@workspace_option
@output_option
def create(connection: str, event_type: str, metadata: str, workspace: str, output: str) -> None:
    """Ask for the events of PATTERN over CONNECTION: task.created, 'task.*', 'task.**', or '**' for all."""
    place = workspace_named(workspace)
    made = subscriptions.subscribe_to_event_type(
        place.id, connection_id(place, connection), event_type, read_object(metadata.encode(), "--metadata")
    )
    print_one(subscription_details(made), output)
    if made.status is SubscriptionStatus.REJECTED:
        refused(f"The other side refused {event_type}: {made.reason or 'no reason given'}")
    tell_answer(made.connection_id, ControlType.SUBSCRIPTION_REQUEST)
    if made.status is SubscriptionStatus.PENDING:
        note("Waiting for the people of the other side: `flask subscription approve` there, or by its API.")


@subscription.command("list")
@click.option("--connection", help="Only over this connection (its id, or the beginning of it).")
@click.option(
    "--direction",
    type=click.Choice([value.value for value in Direction]),
    help="incoming: we get their events; outgoing: they get ours.",
)
@click.option("--status", type=click.Choice(_STATUSES), help="Only with this status.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Rows of a page.")
@click.option("--cursor", help="Go on after a page: its nextCursor.")
@workspace_option
@output_option
def list_(
    connection: str | None,
    direction: str | None,
    status: str | None,
    limit: int,
    cursor: str | None,
    workspace: str,
    output: str,
) -> None:
    """List subscriptions of both directions, the newest first."""
    place = workspace_named(workspace)
    page = get_event_subscriptions(
        place.id,
        connection_id=connection_id(place, connection) if connection else None,
        direction=direction,
        status=status,
        limit=limit,
        cursor=cursor,
    )
    print_list(page, ("id", "direction", "eventType", "status", "connectionId", "leaseExpiresAt"), output)


def _decision(
    name: str, act: Callable[[int, str, str | None], Subscription], tells: ControlType, says: str
) -> None:
    """Add a command by which the publisher's side decides about a subscription."""

    @subscription.command(name, help=says)
    @click.argument("id_", metavar="ID")
    @click.option("--reason", help="Told to the other side, up to 1000 characters.")
    @workspace_option
    @output_option
    def decide(id_: str, reason: str | None, workspace: str, output: str) -> None:
        place = workspace_named(workspace)
        decided = act(place.id, subscription_id(place, id_), reason)
        print_one(subscription_details(decided), output)
        tell_answer(decided.connection_id, tells)


_decision(
    "approve",
    subscriptions.approve,
    ControlType.SUBSCRIPTION_APPROVE,
    "Grant what the other side asked for (its events leave us).",
)
_decision(
    "reject", subscriptions.reject, ControlType.SUBSCRIPTION_REJECT, "Refuse what the other side asked for."
)
_decision(
    "revoke",
    subscriptions.revoke,
    ControlType.SUBSCRIPTION_REVOKE,
    "Take a grant back; what was not sent yet is withdrawn.",
)


@subscription.command()
@click.argument("id_", metavar="ID")
@workspace_option
@output_option
def cancel(id_: str, workspace: str, output: str) -> None:
    """Want the events of our subscription ID no longer."""
    place = workspace_named(workspace)
    ours = get_subscription_details(place.id, subscription_id(place, id_))
    if ours["direction"] != "incoming":
        raise click.UsageError("This subscription is the other side's. `flask subscription revoke` ends it.")
    ended = subscriptions.unsubscribe_from_event_type(place.id, ours["connectionId"], ours["eventType"])
    print_one(subscription_details(ended), output)
    tell_answer(ended.connection_id, ControlType.SUBSCRIPTION_CANCEL)
