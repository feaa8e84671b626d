"""`flask event`: publish events, and see what became of them."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from app.cli.lookup import connection_id, message_id, workspace_named
from app.cli.output import (
    Exit,
    Failure,
    Group,
    note,
    output_option,
    print_list,
    print_one,
    print_rows,
    read_object,
    workspace_option,
)
from app.cli.proof import export, verify
from app.cli.receipts import digest_of, receipts_of
from app.models import Direction, EventStatus, Workspace
from app.outbox.dead_letters import retry_event
from app.outbox.publish import NewEvent, Published, publish_event, publish_events
from app.protocol.errors import Problem
from app.protocol.event_types import check_event_type
from app.reports.event_log import get_event_message, get_event_messages
from app.reports.times import parse_rfc3339, rfc3339
from app.reports.why import as_lines, explain

#: Events of a file that are published in one transaction.
FILE_BATCH = 500
#: Bad lines of a file that are named.
LINES_NAMED = 20


@click.group(cls=Group)
def event() -> None:
    """Publish events, list them, and see what became of them."""


@event.command()
@click.argument("event_type", metavar="TYPE", required=False)
@click.option(
    "--payload", default="{}", show_default=True, help="JSON object; @FILE reads a file, - reads stdin."
)
@click.option("--subject", help="What the event is about, up to 1024 characters.")
@click.option(
    "--lines",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Publish many: a file with one {"eventType", "payload", "subject"?} a line.',
)
@workspace_option
@output_option
def publish(
    event_type: str | None, payload: str, subject: str | None, lines: Path | None, workspace: str, output: str
) -> None:
    """Publish an event of TYPE (task.created), or with --lines all events of a file."""
    place = workspace_named(workspace)
    if lines is not None and event_type is None:
        print_one(_publish_file(place, lines), output)
        return
    if event_type is None or lines is not None:
        raise click.UsageError("Give either TYPE or --lines FILE.")
    published = publish_event(place.id, event_type, read_object(_text(payload), "--payload"), subject)
    print_one(_published(published), output)
    if published.deliveries == 0:
        note(f"Nobody is subscribed to it. `flask event show {published.message_id} --why` tells why.")


@event.command("list")
@click.option(
    "--direction",
    type=click.Choice([value.value for value in Direction]),
    help="incoming: came to us; outgoing: ours.",
)
@click.option("--type", "event_type", help="Only this event type.")
@click.option("--connection", help="Only over this connection (its id, or the beginning of it).")
@click.option(
    "--status", type=click.Choice([value.value for value in EventStatus]), help="Only with this status."
)
@click.option("--after", metavar="TIME", help="Created at or after (2026-01-01T00:00:00Z).")
@click.option("--before", metavar="TIME", help="Created at or before.")
@click.option("--order", type=click.Choice(["asc", "desc"]), default="desc", show_default=True,
              help="asc, with --direction incoming, is the order of arrival.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="Events of a page.")
@click.option("--cursor", help="Go on after a page: its nextCursor.")
@workspace_option
@output_option
def list_(
    direction: str | None,
    event_type: str | None,
    connection: str | None,
    status: str | None,
    after: str | None,
    before: str | None,
    order: str,
    limit: int,
    cursor: str | None,
    workspace: str,
    output: str,
) -> None:
    """List events of both directions, the newest first."""
    place = workspace_named(workspace)
    if event_type is not None:
        check_event_type(event_type, "--type")
    page = get_event_messages(
        place.id,
        direction=direction,
        event_type=event_type,
        connection_id=connection_id(place, connection) if connection else None,
        status=status,
        created_after=_time(after, "--after"),
        created_before=_time(before, "--before"),
        order=order,
        limit=limit,
        cursor=cursor,
    )
    columns = ("messageId", "direction", "eventType", "status", "createdAt", "deliveredAt")
    print_list(page, columns, output)


@event.command()
@click.argument("event_id", metavar="ID")
@click.option("--why", is_flag=True, help="Say for each connection why the event did or did not go there.")
@workspace_option
@output_option
def show(event_id: str, why: bool, workspace: str, output: str) -> None:
    """Show the event with the messageId ID, its deliveries, and the receipts of those who stored it.

    With -o json: the document of GET /events/messages/{messageId} with `digest` and `receipts`, and `why` if
    it was asked for.
    """
    place = workspace_named(workspace)
    found = message_id(place, event_id)
    document: dict[str, Any] = dict(get_event_message(place.id, found))
    document["digest"] = digest_of(place.id, found)
    document["receipts"] = receipts_of(place.id, found)
    if why:
        document["why"] = explain(place.id, found)
    if output == "json":
        print_one(document, output)
    else:
        _print_event(document)


@event.command()
@click.argument("event_id", metavar="ID")
@click.option("--connection", help="Only the delivery to this connection.")
@workspace_option
@output_option
def retry(event_id: str, connection: str | None, workspace: str, output: str) -> None:
    """Send the failed, dead or waiting deliveries of the event ID again, now."""
    place = workspace_named(workspace)
    to = connection_id(place, connection) if connection else None
    taken = retry_event(place.id, message_id(place, event_id), to)
    print_one({"count": taken, "dryRun": False, "groups": []}, output)


event.add_command(verify)
event.add_command(export)


def _print_event(document: dict[str, Any]) -> None:
    shown = (
        "messageId",
        "eventType",
        "direction",
        "status",
        "createdAt",
        "deliveredAt",
        "keyId",
        "digest",
        "payload",
    )
    print_one({name: document[name] for name in shown}, "table")
    deliveries = document["deliveries"]
    if deliveries:
        click.echo("\nDeliveries")
        columns = ("connectionId", "status", "sequence", "attempts", "nextAttemptAt", "error")
        cells = [
            [str(len(row[name]) if name == "attempts" else row[name] or "-") for name in columns]
            for row in deliveries
        ]
        print_rows(columns, cells)
    if document["receipts"]:
        click.echo("\nReceipts, verified")
        members = ("connectionId", "status", "keyId", "digest")
        print_rows(members, [[receipt[name] for name in members] for receipt in document["receipts"]])
    if "why" in document:
        click.echo("\nWhy")
        for line in as_lines(document["why"]) or ["It came from a peer; `--why` is about events of ours."]:
            click.echo(f"  {line}")


def _publish_file(place: Workspace, path: Path) -> dict[str, Any]:
    """Publish a file batch by batch; all or none of each.

    Nothing if a line is no event in form (a pipe is not read ahead). A field that is refused ends it there.
    """
    if path.is_file():
        _check_lines(path)
    published = deliveries = 0
    with path.open("rb") as file:
        events = _events_of(file)
        with click.progressbar(length=path.stat().st_size, label="publishing", file=sys.stderr) as bar:
            while batch := list(islice(events, FILE_BATCH)):
                try:
                    done = publish_events(place.id, batch, pointer_prefix="")
                except Problem as problem:
                    where = _line_of(problem, published)
                    raise Failure(
                        f"{where}: {problem.detail} {published} events before it are published; "
                        "mend the line, and leave those out.",
                        Exit.USAGE,
                    ) from problem
                published += len(done)
                deliveries += sum(event.deliveries for event in done)
                bar.update(file.tell() - bar.pos)
    return {"published": published, "deliveries": deliveries}


def _check_lines(path: Path) -> None:
    """End the command if a line is no event in form, and name all such lines, or the first ones."""
    bad: list[str] = []
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                _event_of(number, line)
            except Failure as failure:
                count += 1
                if count <= LINES_NAMED:
                    bad.append(failure.message.removesuffix(_STEP))
    if count:
        more = f" And {count - LINES_NAMED} more." if count > LINES_NAMED else ""
        raise Failure(f"Nothing was published. {' '.join(bad)}{more}{_STEP}", Exit.USAGE)


def _events_of(lines: Iterable[bytes]) -> Iterator[NewEvent]:
    for number, line in enumerate(lines, 1):
        event = _event_of(number, line)
        if event is not None:
            yield event


_STEP = " --help shows one."


def _event_of(number: int, line: bytes) -> NewEvent | None:
    """The event of a line, None of an empty one. Raises Failure that names the line."""
    if not line.strip():
        return None
    where = f"line {number}"
    members = read_object(line, where)
    unknown = members.keys() - {"eventType", "payload", "subject"}
    if unknown or "eventType" not in members:
        raise Failure(f"{where}: a line has eventType, payload and perhaps subject.{_STEP}", Exit.USAGE)
    return NewEvent(members["eventType"], members.get("payload", {}), members.get("subject"))


def _line_of(problem: Problem, published: int) -> str:
    """Where in the file the problem is, counted in events."""
    first = problem.errors[0].pointer.split("/") if problem.errors else []
    if len(first) > 1 and first[1].isdigit():
        return f"event {published + int(first[1]) + 1}"
    return f"one of the events from {published + 1} on"


def _text(payload: str) -> bytes:
    if payload == "-":
        return sys.stdin.buffer.read()
    if payload.startswith("@"):
        try:
            return Path(payload[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"--payload: {error.strerror}: {payload[1:]}") from error
    return payload.encode(errors="surrogateescape")


def _time(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise click.UsageError(f"{option}: give a time such as 2026-01-01T00:00:00Z.") from None


def _published(published: Published) -> dict[str, Any]:
    return {
        "messageId": published.message_id,
        "eventType": published.event_type,
        "timestamp": rfc3339(published.timestamp),
        "deliveries": published.deliveries,
    }
