"""The command line: Flask's own `flask`, from the project's root."""

from flask import Flask

from app.cli import up

#: Commands and groups, in no order; `flask --help` sorts them.
COMMANDS = (up.up, up.web, up.worker, up.schedule)


def register(app: Flask) -> None:
    """Add our commands to the app's `flask`."""
    for command in COMMANDS:
        app.cli.add_command(command)
