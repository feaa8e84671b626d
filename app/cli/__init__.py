"""The command line: Flask's own `flask`, from the project's root."""

import click
from flask import Flask

from app.cli import connection, doctor, event, init, instance, key, subscription, token, up, user, workspace
from app.cli.demo import command as demo


def commands() -> tuple[click.Command, ...]:
    """Our commands and groups, in no order; `flask --help` sorts them."""
    return (
        up.up,
        up.web,
        up.worker,
        up.schedule,
        init.init,
        instance.instance,
        connection.connection,
        subscription.subscription,
        key.key,
        workspace.workspace,
        user.user,
        token.token,
        event.event,
        doctor.doctor,
        demo.demo,
    )


def register(app: Flask) -> None:
    """Add our commands to the app's `flask`."""
    for command in commands():
        app.cli.add_command(command)
