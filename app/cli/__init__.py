"""The command line: Flask's own `flask`, from the project's root."""

from flask import Flask

from app.cli import init, instance, key, token, up, user, workspace
from app.cli.demo import command as demo

#: Commands and groups, in no order; `flask --help` sorts them.
COMMANDS = (
    up.up,
    up.web,
    up.worker,
    up.schedule,
    init.init,
    instance.instance,
    key.key,
    workspace.workspace,
    user.user,
    token.token,
    demo.demo,
)


def register(app: Flask) -> None:
    """Add our commands to the app's `flask`."""
    for command in COMMANDS:
        app.cli.add_command(command)
