"""The command line: Flask's own `flask`, from the project's root.

A command is loaded when it is used. What `flask --help` says about it is written here once more, so that a
list of commands loads none of them.
"""

from collections.abc import Sequence
from enum import Enum, auto
from importlib import import_module
from typing import Any

import click
from flask import Flask


class Kind(Enum):
    """What a command needs, and who reads what it says."""

    RUNS = auto()  #: the whole app; it runs for long, and its log is for machines
    MAKES = auto()  #: the core, and a data folder, which it makes; people wait for its end
    WORKS = auto()  #: the core and an instance that is there; it makes none, and people wait for its end


class Named(click.Command):
    """A command that is known by its name and its line in a list, and is loaded when it is used."""

    def __init__(self, name: str, kind: Kind, place: str, says: str) -> None:
        super().__init__(name, help=says)
        self.kind = kind
        self._module, self._member = place.split(":")

    def load(self) -> click.Command:
        """The command itself."""
        command: click.Command = getattr(import_module(self._module), self._member)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command itself, with its own options."""
        return self.load().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command itself."""
        return self.load().invoke(ctx)


#: Our commands and groups, in the order of the alphabet, each with the first sentence of its help.
COMMANDS = (
    Named(
        "connection",
        Kind.WORKS,
        "app.cli.connection:connection",
        "Ask other instances for connections, answer those who ask, stop and end them.",
    ),
    Named("db", Kind.RUNS, "app.cli.migrations:db", "Perform database migrations."),
    Named(
        "dead",
        Kind.WORKS,
        "app.cli.dead:dead",
        "See which deliveries were given up, send them again, or discard them.",
    ),
    Named(
        "demo",
        Kind.MAKES,
        "app.cli.demo.command:demo",
        "Run two real instances on this machine and tell what happens between them.",
    ),
    Named(
        "doctor",
        Kind.WORKS,
        "app.cli.doctor:doctor",
        "Look at everything that can be looked at from here.",
    ),
    Named(
        "event",
        Kind.WORKS,
        "app.cli.event:event",
        "Publish events, list them, and see what became of them.",
    ),
    Named(
        "init",
        Kind.MAKES,
        "app.cli.init:init",
        "Make the database, the keys, the first workspace, its admin and a token.",
    ),
    Named("instance", Kind.WORKS, "app.cli.instance:instance", "Show this instance as peers see it."),
    Named(
        "key",
        Kind.WORKS,
        "app.cli.key:key",
        "Show this instance's keys, replace the one in use, and take back trust.",
    ),
    Named(
        "schedule",
        Kind.RUNS,
        "app.cli.up:schedule",
        "Run the scheduler, which finds what is due.",
    ),
    Named(
        "seed",
        Kind.WORKS,
        "app.cli.seed:seed",
        "Make up seven days of history with three peers in a workspace of its own, `seeded`.",
    ),
    Named(
        "stream",
        Kind.WORKS,
        "app.cli.stream:stream",
        "See how complete the events of a connection are, and have them sent again.",
    ),
    Named(
        "subscription",
        Kind.WORKS,
        "app.cli.subscription:subscription",
        "Subscribe to events of others, and decide about those who want ours.",
    ),
    Named("token", Kind.WORKS, "app.cli.token:token", "Make, list and revoke tokens of the API."),
    Named(
        "up",
        Kind.RUNS,
        "app.cli.up:up",
        "Run everything one instance needs; prints `ready BASE_URL` when it answers.",
    ),
    Named("user", Kind.WORKS, "app.cli.user:user", "Make users."),
    Named(
        "web",
        Kind.RUNS,
        "app.cli.up:web",
        "Run the web processes alone, for those who run the parts themselves.",
    ),
    Named(
        "worker",
        Kind.RUNS,
        "app.cli.up:worker",
        "Run one worker of the queues; one --failing is needed too.",
    ),
    Named("workspace", Kind.WORKS, "app.cli.workspace:workspace", "Make and list workspaces."),
)

#: Options of `flask` itself that are followed by a value.
_WITH_VALUE = ("-e", "--env-file", "-A", "--app")


def word_of(arguments: Sequence[str]) -> str | None:
    """The command's name in the arguments of `flask`; None if there is none."""
    words = iter(arguments)
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def kind_of(word: str | None) -> Kind:
    """What our command needs. Flask's own commands, and servers that import the app, need all."""
    return next((command.kind for command in COMMANDS if command.name == word), Kind.RUNS)


def register(app: Flask) -> None:
    """Add our commands to the app's `flask`."""
    for command in COMMANDS:
        app.cli.add_command(command)
