"""`flask dead`: deliveries that were given up, and what to do about them."""

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from app.cli.lookup import connection_id, workspace_named
from app.cli.output import (
    Exit,
    Failure,
    Group,
    note,
    one_page,
    output_option,
    print_list,
    print_one,
    workspace_option,
)
from app.models import Operation, OperationKind, OperationState, Workspace
from app.outbox import operations
from app.outbox.dead_letters import DeliveryFilter, preview
from app.protocol.event_types import check_event_type
from app.reports.deliveries import list_dead_groups, list_deliveries
from app.reports.operations import list_operations, operation_details
from app.reports.times import rfc3339

#: How often the progress of a worker is looked at, in seconds.
_LOOK_EVERY_S = 0.5


@click.group(cls=Group)
def dead() -> None:
    """See which deliveries were given up, send them again, or discard them."""


def _choosing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose deliveries."""
    for option in (
        click.option("--id", "ids", metavar="ID", multiple=True, help="Only this delivery; may be repeated."),
        click.option("--type", "event_type", help="Only of this event type."),
        click.option("--error", help="Only those whose last attempt left this error code."),
        click.option("--connection", help="Only over this connection (its id, or the beginning of it)."),
        click.option(
            "--status",
            type=click.Choice(["dead", "pending", "held"]),
            default="dead",
            show_default=True,
            help="Given up; waiting; or waiting on a connection that does not send now.",
        ),
    ):
        command = option(command)
    return command


@dead.command("list")
@click.option("--connection", help="Only over this connection (its id, or the beginning of it).")
@click.option("--error", help="Only with this error code.")
@click.option("--type", "event_type", help="Only of this event type.")
@click.option("--each", is_flag=True, help="One by one, the newest first, instead of counted.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Rows of a page.")
@click.option("--cursor", help="Go on after a page: its nextCursor.")
@workspace_option
@output_option
def list_(
    connection: str | None,
    error: str | None,
    event_type: str | None,
    each: bool,
    limit: int,
    cursor: str | None,
    workspace: str,
    output: str,
) -> None:
    """Count dead letters by connection and error, or list them one by one with --each."""
    place = workspace_named(workspace)
    to = connection_id(place, connection) if connection else None
    if event_type is not None:
        check_event_type(event_type, "--type")
    if each or cursor is not None:
        page = list_deliveries(
            place.id,
            status="dead",
            connection_id=to,
            event_type=event_type,
            error=error,
            limit=limit,
            cursor=cursor,
        )
        columns = ("id", "messageId", "eventType", "connectionId", "error", "createdAt")
        print_list(page, columns, output)
        return
    groups = [
        group
        for group in list_dead_groups(place.id, event_type=event_type)
        if to in (None, group["connectionId"]) and error in (None, group["error"])
    ]
    print_list(one_page(groups), ("connectionId", "error", "count"), output)


@dead.command()
@_choosing
@click.option("--max", "max_items", type=click.IntRange(1), help="At most so many, the oldest first.")
@click.option("--dry-run", is_flag=True, help="Only count what would be sent.")
@workspace_option
@output_option
def retry(
    status: str,
    connection: str | None,
    error: str | None,
    event_type: str | None,
    ids: tuple[str, ...],
    max_items: int | None,
    dry_run: bool,
    workspace: str,
    output: str,
) -> None:
    """Send deliveries again: those that match now, however many.

    With -o json: the document that POST /deliveries/retry answers.
    """
    place = workspace_named(workspace)
    chosen = _chosen(place, status, connection, error, event_type, ids)
    if dry_run:
        _print_preview(place, chosen, max_items, output)
        return
    _do(place, OperationKind.RETRY, chosen, None, max_items, output)


@dead.command()
@_choosing
@click.option("--reason", required=True, help="Why, for the record; up to 1000 characters.")
@click.option("--dry-run", is_flag=True, help="Only count what would be discarded.")
@workspace_option
@output_option
def discard(
    status: str,
    connection: str | None,
    error: str | None,
    event_type: str | None,
    ids: tuple[str, ...],
    reason: str,
    dry_run: bool,
    workspace: str,
    output: str,
) -> None:
    """Give deliveries up for good: those that match now.

    With -o json: the document that POST /deliveries/discard answers.
    """
    place = workspace_named(workspace)
    if not 1 <= len(reason) <= 1000:
        raise click.UsageError("--reason: give 1 to 1000 characters.")
    chosen = _chosen(place, status, connection, error, event_type, ids)
    if dry_run:
        _print_preview(place, chosen, None, output)
        return
    _do(place, OperationKind.DISCARD, chosen, reason, None, output)


@dead.command("operations")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Rows of a page.")
@click.option("--cursor", help="Go on after a page: its nextCursor.")
@workspace_option
@output_option
def operations_(limit: int, cursor: str | None, workspace: str, output: str) -> None:
    """List what was sent again or discarded, and how far it is, the newest first."""
    place = workspace_named(workspace)
    columns = ("id", "kind", "status", "total", "done", "skipped", "startedBy", "createdAt")
    print_list(list_operations(place.id, limit=limit, cursor=cursor), columns, output)


def _steering(name: str, act: Callable[[int, str], Operation], says: str) -> None:
    """Add a command that stops an operation or lets it go on."""

    @dead.command(name, help=says)
    @click.argument("id_", metavar="ID")
    @workspace_option
    @output_option
    def steer(id_: str, workspace: str, output: str) -> None:
        print_one(operation_details(act(workspace_named(workspace).id, id_)), output)


_steering("pause", operations.pause, "Stop the operation ID after the piece in hand.")
_steering("resume", operations.resume, "Let the paused operation ID go on; a worker does it.")
_steering("cancel", operations.cancel, "End the operation ID; what was done stays done.")


def _chosen(
    place: Workspace,
    status: str,
    connection: str | None,
    error: str | None,
    event_type: str | None,
    ids: tuple[str, ...],
) -> DeliveryFilter:
    if event_type is not None:
        check_event_type(event_type, "--type")
    to = connection_id(place, connection) if connection else None
    return DeliveryFilter(status, to, event_type, error, ids or None)


def _print_preview(place: Workspace, chosen: DeliveryFilter, max_items: int | None, output: str) -> None:
    found = preview(place.id, chosen, max_items)
    groups = [
        {"connectionId": group.connection_id, "error": group.error, "count": group.count}
        for group in found.groups
    ]
    if output == "json":
        print_one({"count": found.count, "dryRun": True, "groups": groups}, output)
        return
    print_list(one_page(groups), ("connectionId", "error", "count"), output)
    if found.count:
        pace = "" if found.estimate_ms is None else f", {max(1, found.estimate_ms // 1000)} s of sending"
        note(
            f"{found.count} deliveries, the oldest of {rfc3339(found.oldest_at)}, in {found.requests} "
            f"requests{pace}. Nothing was changed."
        )


def _do(
    place: Workspace,
    kind: OperationKind,
    chosen: DeliveryFilter,
    reason: str | None,
    max_items: int | None,
    output: str,
) -> None:
    """Work the operation off here, its progress on stderr. If this process is killed, a worker goes on."""
    with click.progressbar(length=1, label=kind.value, file=sys.stderr) as bar:

        def show(now: Operation) -> None:
            bar.length = max(1, now.total)
            bar.update(now.done + now.skipped - bar.pos)

        operation = operations.start(
            place.id, kind, chosen, reason=reason, max_items=max_items, at_once=None, tell=show
        )
        # A worker has it after all, if a sweep saw the row before this process had taken it.
        while operation.state is OperationState.RUNNING:
            time.sleep(_LOOK_EVERY_S)
            operation = operations.get(place.id, operation.public_id)
            show(operation)
    print_one(
        {"count": operation.done, "dryRun": False, "groups": [], "operationId": operation.public_id}, output
    )
    if operation.skipped:
        note(f"{operation.skipped} were passed over: they cannot be sent, or changed meanwhile.")
    if operation.state in (OperationState.PAUSED, OperationState.CANCELLED):
        raise Failure(
            f"The operation was {operation.state.value} after {operation.done} of {operation.total}. "
            f"`flask dead operations` tells more.",
            Exit.FAILED,
        )
