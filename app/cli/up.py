"""`flask up` and its parts: what keeps an instance running."""

import logging
import sys

import click
from flask import current_app
from flask.cli import with_appcontext

from app import metrics, server, supervisor
from app.access import audit, setup
from app.cli.output import Command, Failure
from app.cli.prepare import prepare
from app.config import settings
from app.federation import identity
from app.jobs import schedule as scheduler
from app.jobs import worker as workers

log = logging.getLogger(__name__)


def prepare_to_run() -> None:
    """As `prepare`; and while nobody can sign in, say where and with what the first one does."""
    prepare()
    if setup.is_open():
        # The one secret that the log shows: it is worth nothing once there is a user.
        log.warning("setup.waits", extra={"page": f"{settings().base_url}/setup", "code": setup.token()})


@click.command(cls=Command)
@with_appcontext
def up() -> None:
    """Run everything one instance needs; prints `ready BASE_URL` when it answers. Ends with Ctrl-C."""
    audit.act_as_instance()
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    try:
        sys.exit(supervisor.Supervisor(app, settings(), prepare_to_run).run())
    except supervisor.CannotStart as error:
        raise Failure(str(error)) from None


@click.command(cls=Command)
@with_appcontext
def web() -> None:
    """Run the web processes alone, for those who run the parts themselves."""
    audit.act_as_instance()
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    identity.check_instance_id(settings())
    try:
        listener = server.listen(settings().bind)
    except server.PortTaken as error:
        raise Failure(str(error)) from None
    _count()
    server.serve(app, settings(), listener)


@click.command(cls=Command)
@click.option(
    "--failing", is_flag=True, help="Serve connections whose last delivery failed, and those alone."
)
@with_appcontext
def worker(failing: bool) -> None:
    """Run one worker of the queues; one --failing is needed too. Ends after the job in hand."""
    audit.act_as_instance()
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    identity.check_instance_id(settings())
    _count()
    workers.run(app, settings(), workers.FAILING if failing else workers.ORDINARY)


@click.command(cls=Command)
@with_appcontext
def schedule() -> None:
    """Run the scheduler, which finds what is due. A second one does no harm."""
    audit.act_as_instance()
    identity.check_instance_id(settings())
    _count()
    scheduler.run(current_app._get_current_object())  # type: ignore[attr-defined]


def _count() -> None:
    """Count beside the other processes of this instance."""
    metrics.start(settings().data_dir / "metrics")
