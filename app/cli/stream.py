"""`flask stream`: how complete what flows over a connection is, and having it sent again."""

from collections.abc import Sequence
from datetime import datetime

import click

from app.cli.lookup import connection_id, workspace_named
from app.cli.output import (
    Group,
    note,
    output_option,
    print_json,
    print_one,
    print_rows,
    refused,
    workspace_option,
)
from app.cli.reconcile import reconcile
from app.inbox import replays
from app.models import Direction
from app.reports.connections import connection_row, streams_of
from app.reports.details import EpochDetails, MissingRange, StreamDetails
from app.reports.replays import get_replay

#: What a reason means, for people.
_BECAUSE = {
    "missing": "did not come yet; it is asked for by itself",
    "lost": "asked for three times in vain",
    "expired": "too old before it could be delivered",
    "refused": "refused by the receiver",
    "erased": "deleted at the sender before it came",
    "withdrawn": "not granted any more, or taken back",
}


@click.group(cls=Group)
def stream() -> None:
    """See how complete the events of a connection are, and have them sent again."""


@stream.command()
@click.argument("id_", metavar="CONNECTION")
@workspace_option
@output_option
def status(id_: str, workspace: str, output: str) -> None:
    """Say up to where CONNECTION (an id or a URL) is complete, what is missing, and why."""
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    incoming = streams_of(row.id, Direction.INCOMING)
    outgoing = streams_of(row.id, Direction.OUTGOING)
    if output == "json":
        print_json({"incoming": incoming, "outgoing": outgoing})
        return
    _print_direction("incoming", incoming)
    click.echo()
    _print_direction("outgoing", outgoing)
    if outgoing["wentBackAt"]:
        note(
            f"At {outgoing['wentBackAt']} the other side said that it has less than before, as after a "
            "restore from a backup. It asks for what it lost."
        )


@stream.command()
@click.argument("id_", metavar="CONNECTION")
@click.option("--from", "from_sequence", type=click.IntRange(1, 2**53 - 1), help="First number.")
@click.option("--to", "to_sequence", type=click.IntRange(1, 2**53 - 1), help="Last number.")
@click.option("--since", type=click.DateTime(), help="Events of this time (UTC) and later.")
@click.option("--until", type=click.DateTime(), help="Events of this time (UTC) and earlier.")
@click.option("--type", "types", multiple=True, metavar="PATTERN", help="Only these types; can be repeated.")
@workspace_option
@output_option
def replay(
    id_: str,
    from_sequence: int | None,
    to_sequence: int | None,
    since: datetime | None,
    until: datetime | None,
    types: Sequence[str],
    workspace: str,
    output: str,
) -> None:
    """Ask the other side of CONNECTION to send events again; all that it kept, if nothing is said.

    What is here already is not stored twice.
    """
    place = workspace_named(workspace)
    row = connection_row(place.id, connection_id(place, id_))
    wanted = replays.Wanted(
        from_sequence=from_sequence,
        to_sequence=to_sequence,
        since=_milliseconds(since),
        until=_milliseconds(until),
        event_types=tuple(types) or None,
    )
    made = replays.request(row.id, wanted, requested_by="command line")
    details = get_replay(place.id, made.replay_id)
    print_one(details, output)
    if details["status"] == "refused":
        refused(f"The other side answered {details['error']}: {details['errorDetail'] or 'no detail'}")
    if details["status"] == "waiting":
        note("Another replay is under way over this connection. This one is asked for when that has ended.")
    if details["status"] == "requested":
        note("The other side has not answered yet. It is asked again by itself while `flask up` runs.")


stream.add_command(reconcile)


def _print_direction(name: str, shown: StreamDetails) -> None:
    click.echo(f"{name}: {_sentence(shown)}")
    _print_missing(shown["missing"])
    for epoch in shown["earlier"]:
        click.echo(f"{name}, earlier: {_sentence(epoch)}")
        _print_missing(epoch["missing"])


def _sentence(epoch: EpochDetails) -> str:
    if epoch["streamEpoch"] is None:
        return "nothing yet"
    return (
        f"complete up to sequence {epoch['contiguous']} of {epoch['headSequence']} "
        f"(epoch {epoch['streamEpoch']})"
    )


def _print_missing(missing: Sequence[MissingRange]) -> None:
    rows = [
        (str(gap["fromSequence"]), str(gap["toSequence"]), gap["reason"], _BECAUSE.get(gap["reason"], ""))
        for gap in missing
    ]
    print_rows(("missing", "to", "reason", "because"), rows)


def _milliseconds(moment: datetime | None) -> int | None:
    """Whoever types a time without a zone means UTC, as all times here are shown."""
    if moment is None:
        return None
    return round((moment - datetime(1970, 1, 1)).total_seconds() * 1000)
