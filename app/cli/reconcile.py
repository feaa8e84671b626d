"""`flask stream reconcile`: compare with the other side what was sent and stored."""

import time
from collections.abc import Sequence

import click
from flask.cli import with_appcontext

from app.cli.lookup import connection_id, workspace_named
from app.cli.output import (
    Command,
    Exit,
    Failure,
    note,
    output_option,
    print_json,
    print_rows,
    refused,
    workspace_option,
)
from app.federation import streams
from app.models import Direction
from app.reconciliation import run
from app.reports.connections import connection_row
from app.reports.details import ReconciliationDetails
from app.reports.reconciliations import get_reconciliation

#: How often the progress is looked at, in seconds.
_LOOK_EVERY_S = 0.2

#: What a difference means, for people.
_MEANS = {
    "missing_there": "the other side acknowledged it, and has it no more",
    "unacknowledged": "it arrived, although it was given up here",
    "missing_here": "we acknowledged it, and have it no more",
    "not_acknowledged": "it came, and the other side does not know that",
    "unknown_here": "the other side has it from us, and we know nothing of it",
    "different": "the two sides have different events under this number",
}


@click.command(cls=Command)
@click.argument("id_", metavar="CONNECTION")
@click.option(
    "--direction",
    type=click.Choice([value.value for value in Direction]),
    help="incoming: what came to us; outgoing: what we sent. Both if not given.",
)
@click.option("--from", "from_sequence", type=click.IntRange(1, 2**53 - 1), help="First number.")
@click.option("--to", "to_sequence", type=click.IntRange(1, 2**53 - 1), help="Last number.")
@click.option(
    "--wait", type=click.IntRange(0, 3600), default=60, show_default=True, help="Seconds to wait for the end."
)
@workspace_option
@output_option
@with_appcontext
def reconcile(
    id_: str,
    direction: str | None,
    from_sequence: int | None,
    to_sequence: int | None,
    wait: int,
    workspace: str,
    output: str,
) -> None:
    """Compare with the other side of CONNECTION what was sent and stored, and mend what differs.

    Without --from the newest 50,000 numbers of the current epoch. `flask up` must run: it asks the questions.
    """
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    wanted = [Direction(direction)] if direction else _with_events(row.id)
    if not wanted:
        raise Failure("Nothing has been sent over this connection yet; there is nothing to compare.")
    try:
        begun = [
            run.start(row.id, one, from_sequence=from_sequence, to_sequence=to_sequence).public_id
            for one in wanted
        ]
    except run.NotOffered as problem:
        refused(problem.detail, "It has to be updated first.")
    shown = _wait_for(begun, wait)
    if output == "json":
        print_json({"data": shown})
    else:
        for one in shown:
            _print(one)
    _end(shown)


def _with_events(connection_row_id: int) -> list[Direction]:
    """The directions in which something was sent."""
    return [
        one
        for one in Direction
        if (stream := streams.newest(connection_row_id, one)) is not None and stream.head_sequence
    ]


def _wait_for(begun: Sequence[str], seconds: int) -> list[ReconciliationDetails]:
    """All of them as they stand at their end, or when the time is over."""
    until = time.monotonic() + seconds
    shown = [get_reconciliation(one) for one in begun]
    while any(one["status"] == "running" for one in shown) and time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
        shown = [get_reconciliation(one) for one in begun]
    return shown


def _print(one: ReconciliationDetails) -> None:
    click.echo(
        f"{one['direction']}: {one['status']}, {one['compared']} of sequence {one['fromSequence']} to "
        f"{one['toSequence']} compared, {one['found']} differ, {one['repaired']} mended"
    )
    rows = [
        (str(found["sequence"]), found["messageId"], found["repair"] or "-", _MEANS[found["kind"]])
        for found in one["differences"]
    ]
    print_rows(("sequence", "messageId", "mended", "because"), rows)


def _end(shown: Sequence[ReconciliationDetails]) -> None:
    """Exit code and advice: 0 only if all is equal or mended."""
    if any(one["status"] == "running" for one in shown):
        note("It is not done yet, and goes on while `flask up` runs. Ask again to see how far it is.")
    for one in shown:
        if one["status"] == "failed":
            raise Failure(
                f"The comparison failed: {one['error']}: {one['errorDetail'] or 'no detail'}. "
                "`flask connection verify` tells whether the other side answers.",
                Exit.FAILED,
            )
    left = sum(one["found"] - one["repaired"] for one in shown)
    if left:
        raise Failure(
            f"{left} differences need a person. `flask event show ID` shows an event; ask the other side.",
            Exit.FAILED,
        )
