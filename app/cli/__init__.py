"""The command line: Flask's own `flask`, from the project's root."""

from collections.abc import Sequence

import click
from flask import Flask

from app.cli import (
    connection,
    dead,
    doctor,
    event,
    init,
    instance,
    key,
    seed,
    stream,
    subscription,
    token,
    up,
    user,
    workspace,
)
from app.cli.demo import command as demo
from app.cli.output import Group


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
        stream.stream,
        key.key,
        workspace.workspace,
        user.user,
        token.token,
        event.event,
        dead.dead,
        doctor.doctor,
        seed.seed,
        demo.demo,
    )


def command_of(arguments: Sequence[str]) -> str | None:
    """Name of our command in a command line; None for a server that imports the app, and for Flask's own."""
    names = {command.name for command in commands()}
    return next((word for word in arguments[1:] if word in names), None)


def makes_nothing(name: str | None) -> bool:
    """Whether the command works with an instance that is there, and makes none."""
    return any(
        command.name == name and (isinstance(command, Group) or command in (doctor.doctor, seed.seed))
        for command in commands()
    )


def is_brief(name: str | None) -> bool:
    """Whether people wait for the command's end, and read what it says."""
    return name in (init.init.name, demo.demo.name) or makes_nothing(name)


def register(app: Flask) -> None:
    """Add our commands to the app's `flask`."""
    for command in commands():
        app.cli.add_command(command)
