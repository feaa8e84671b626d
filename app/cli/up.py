"""`flask up`, `flask worker`, `flask schedule`: what keeps an instance running."""

import click
from flask.cli import with_appcontext


@click.command()
@with_appcontext
def up() -> None:
    """Run everything one instance needs under one supervisor."""


@click.command()
@with_appcontext
def worker() -> None:
    """Run one worker of the queues."""


@click.command()
@with_appcontext
def schedule() -> None:
    """Run the scheduler, which sweeps every two seconds."""
