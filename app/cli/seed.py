"""`flask seed`: made-up history for screenshots, tests and a look around."""

import click
from flask.cli import with_appcontext

from app.access import audit
from app.cli.output import Command, Failure, note, output_option, print_one
from app.database import missing_file
from app.seed import history
from app.seed.purge import purge
from app.seed.stage import SLUG


@click.command(cls=Command)
@click.option("--large", is_flag=True, help=f"{history.LARGE:,} events instead of {history.SMALL}.")
@click.option("--small", is_flag=True, help=f"{history.SMALL} events, which is the default.")
@click.option("--reset", is_flag=True, help=f"Remove the workspace {SLUG} instead, with all that is in it.")
@click.option("--yes", is_flag=True, help="Do not ask before removing.")
@output_option
@with_appcontext
def seed(large: bool, small: bool, reset: bool, yes: bool, output: str) -> None:
    """Make up seven days of history with three peers in a workspace of its own, `seeded`.

    The peers do not exist, and nothing is ever sent to them. Repeated, it changes nothing; --reset removes
    the workspace and leaves all others alone.
    """
    if large and small:
        raise click.UsageError("--large and --small are two sizes; choose one.")
    if path := missing_file():
        raise Failure(f"There is no database here ({path}); run `flask init`, or correct DATA_DIR.")
    if reset:
        _reset(yes, output)
    else:
        _make(history.LARGE if large else history.SMALL, output)


def _make(events: int, output: str) -> None:
    workspace = history.existing()
    if workspace is not None and not history.is_whole(workspace):
        raise Failure("The history was not written to its end. Run `flask seed --reset`, then this again.")
    if workspace is not None:
        _print(history.count(workspace), output)
        note("All of this was there already. `flask seed --reset` removes it.")
        return
    for done in history.make(events):
        if done % 20_000 == 0:
            note(f"{done:,} of {events:,} events")
    made = history.existing()
    if made is None:
        raise Failure("The history was removed while it was written. Run this again.")
    _print(history.count(made), output)
    note(f"`flask user create EMAIL --workspace {SLUG}` lets somebody look at it in the console.")


def _reset(yes: bool, output: str) -> None:
    workspace = history.existing()
    if workspace is None:
        note(f"There is no workspace {SLUG}; nothing was removed.")
        return
    there = history.count(workspace)
    if not yes:
        click.confirm(
            f"Remove the workspace {SLUG} with {there.events:,} events and {there.deliveries:,} deliveries, "
            "and whatever else was put into it?",
            abort=True,
            err=True,
        )
    purge(workspace.id)
    audit.note("workspace.remove_seeded", "workspace", SLUG, before={"events": there.events})
    print_one({"workspace": SLUG, "eventsRemoved": there.events}, output)


def _print(made: history.Made, output: str) -> None:
    print_one(
        {
            "workspace": made.workspace.slug,
            "events": made.events,
            "deliveries": made.deliveries,
            "deadLetters": made.dead,
        },
        output,
    )
