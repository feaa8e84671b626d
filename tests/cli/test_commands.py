"""The list of commands: what it says, and what it does not load."""

import os
import subprocess
import sys

import click
import pytest

from app import cli
from app.config import ROOT

#: Packages that take long to load.
HEAVY = ("sqlalchemy", "alembic", "redis", "requests", "cryptography", "wtforms", "gunicorn")

_LOADED = "import sys, wsgi; print([name for name in {heavy} if name in sys.modules])"


def loaded_for(*words: str) -> list[str]:
    """Which of the heavy packages are loaded once the app is made for `flask WORDS`."""
    ended = subprocess.run(
        [sys.executable, "-c", _LOADED.format(heavy=HEAVY), *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"FLASK_SKIP_DOTENV": "1", "FLASK_RUN_FROM_CLI": "true"},
    )
    return [name for name in HEAVY if repr(name) in ended.stdout]


@pytest.mark.parametrize("named", cli.COMMANDS, ids=lambda named: named.name)
def test_the_list_says_of_a_command_what_its_own_help_says_first(named: cli.Named) -> None:
    command = named.load()

    assert (named.name, named.get_short_help_str(999)) == (command.name, command.get_short_help_str(999))


def test_the_list_is_in_the_order_of_the_alphabet() -> None:
    names = [str(command.name) for command in cli.COMMANDS]

    assert names == sorted(names)


def test_a_command_takes_its_own_options() -> None:
    [named] = [command for command in cli.COMMANDS if command.name == "event"]

    context = named.make_context("event", ["show", "--help"])

    assert isinstance(context.command, click.Group)
    assert "show" in context.command.commands


@pytest.mark.parametrize("words", [(), ("--help",), ("-e", "event", "--help")])
def test_a_list_of_the_commands_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    assert loaded_for(*words) == []


def test_a_command_that_looks_loads_neither_pages_nor_migrations() -> None:
    loaded = loaded_for("event", "list")

    assert set(loaded) & {"alembic", "wtforms", "gunicorn"} == set()
    assert "sqlalchemy" in loaded


@pytest.mark.parametrize(
    "arguments, word",
    [
        ((), None),
        (("--help",), None),
        (("up", "event"), "up"),
        (("-e", "event", "up"), "up"),
        (("--env-file=event", "--debug", "up"), "up"),
        (("--app",), None),
    ],
)
def test_the_command_is_the_first_word_that_is_no_option_and_no_options_value(
    arguments: tuple[str, ...], word: str | None
) -> None:
    assert cli.word_of(arguments) == word
