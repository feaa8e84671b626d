"""What commands print, and how they end.

Data goes to stdout: a table for people, or with `-o json` one JSON document, the same that the API call
answers. All else goes to stderr. An error is one line that says what to do next, and the exit code tells
its kind.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from functools import wraps
from typing import Any, NoReturn, TypeVar

import click
import orjson
import sqlalchemy as sa
from flask.cli import AppGroup

from app.access import audit
from app.config import settings
from app.database import missing_file
from app.errors import InvalidCursor, RemoteError
from app.federation import identity
from app.protocol.canonical import loads
from app.protocol.errors import InvalidRequest, NotFound, Problem
from app.reports.paging import Page

#: What moves a cursor or turns text around, and is not escaped by JSON itself.
_BEYOND_ASCII = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

F = TypeVar("F", bound=Callable[..., Any])


class Exit(IntEnum):
    """Exit codes of all commands."""

    OK = 0  #: done
    FAILED = 1  #: not done
    USAGE = 2  #: the command line, or a value in it, cannot be right
    NOT_FOUND = 3  #: what was named is not there
    REFUSED = 4  #: the other instance said no


class Failure(click.ClickException):
    """The end of a command: one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: Exit = Exit.FAILED) -> None:
        super().__init__(plain(" ".join(message.split())))
        # click declares it for the class, and reads it from the exception.
        self.exit_code = exit_code  # type: ignore[misc]


#: What to do after an error of this code; commands add nothing where the detail says it already.
NEXT_STEPS: Mapping[str, str] = {
    "connection_exists": "`flask connection list` shows it; `flask connection disconnect` withdraws a "
    "request that waits, and --replace asks to replace an open connection.",
    "invalid_state": "`flask connection show ID` and `flask subscription list` tell the present state.",
    "subscription_exists": "`flask subscription list` shows it.",
    "not_found": "The `list` commands show what there is; --workspace chooses another workspace.",
    "remote_unreachable": "Check the address, that the instance runs, and that "
    "FEDERATION_ALLOWED_NETWORKS names its network if it is a private one.",
    "remote_invalid": "Check that the address is the BASE_URL of a Tidings instance.",
    "rate_limited": "Wait and try again.",
    "overloaded": "Wait and try again; `flask doctor` tells what is missing.",
    "internal_error": "The log has the cause; `flask doctor` checks the instance.",
    "taken": "Choose another one.",
    "invalid_cursor": "Without --cursor the list begins anew.",
    "invalid_request": "--help shows what is allowed.",
    "too_large": "Send less at once; GET /api/v1/federation/instance shows the limits.",
    "key_untrusted": "`flask connection show ID` shows the fingerprints; compare them with the other side.",
}

_DEFAULT_STEP = "`flask doctor` checks this instance."


def failure_of(problem: Problem, exit_code: Exit | None = None) -> Failure:
    """The line and the exit code for a refusal of our own services."""
    fields = "; ".join(f"{error.pointer.lstrip('/')}: {error.detail}" for error in problem.errors)
    said = fields.lstrip(": ") or problem.detail or problem.title
    cause = "taken" if any(error.code == "taken" for error in problem.errors) else problem.code
    step = "" if "`flask " in said else NEXT_STEPS.get(cause, _DEFAULT_STEP)
    return Failure(f"{_sentence(said)} {step}", exit_code or _exit_of(problem))


def refused(said: str, step: str = "Ask the people of the other instance.") -> NoReturn:
    """End the command because the other instance said no."""
    raise Failure(f"{_sentence(said)} {step}", Exit.REFUSED)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn what services and the database raise into a Failure."""
    try:
        yield
    except Problem as problem:
        raise failure_of(problem) from problem
    except (sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
        if "no such table" in str(error.orig) or "UndefinedTable" in type(error.orig).__name__:
            raise Failure("The database has no tables yet. Run `flask init` first.") from error
        raise Failure(f"The database cannot be used: {error.orig}. `flask doctor` tells more.") from error


class Command(click.Command):
    """A command whose errors are one line, and whose changes are those of the account that types it."""

    def invoke(self, ctx: click.Context) -> Any:
        audit.act_as(audit.shell_account())
        with errors_in_one_line():
            return super().invoke(ctx)


class Group(AppGroup):
    """A group of commands that run in the app's context and whose errors are one line."""

    def command(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> Callable[[Callable[..., Any]], click.Command]:
        """Add a command that first sees whether this is the instance that is meant."""
        add = super().command(*args, **kwargs)

        def decorate(act: Callable[..., Any]) -> click.Command:
            @wraps(act)
            def checked(*given: Any, **named: Any) -> Any:
                if path := missing_file():
                    raise Failure(
                        f"There is no database here ({path}); run `flask init`, or correct DATA_DIR."
                    )
                identity.check_instance_id(settings())
                return act(*given, **named)

            return add(checked)

        return decorate

    def invoke(self, ctx: click.Context) -> Any:
        audit.act_as(audit.shell_account())
        with errors_in_one_line():
            return super().invoke(ctx)


def output_option(command: F) -> F:
    """Add `-o table|json`, given to the command as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="A table for people, or one JSON document.",
    )(command)


def workspace_option(command: F) -> F:
    """Add `--workspace SLUG`, given to the command as `workspace`."""
    return click.option(
        "--workspace", metavar="SLUG", default="default", show_default=True, help="The workspace to work in."
    )(command)


def print_one(document: Mapping[str, Any], output: str) -> None:
    """Print one thing: its members line by line, or the document."""
    if output == "json":
        print_json(document)
        return
    width = max((len(name) for name in document), default=0)
    for name, value in document.items():
        click.echo(f"{name:<{width}}  {_cell(value)}".rstrip())


def print_list(page: Page[Any], columns: Sequence[str], output: str) -> None:
    """Print a page of a list: the named members as columns, or the document that the API answers."""
    if output == "json":
        print_json({"data": page.data, "nextCursor": page.next_cursor, "hasMore": page.has_more})
        return
    print_rows(columns, [[_cell(row.get(column)) for column in columns] for row in page.data])
    if not page.data:
        note("Nothing is here.")
    if page.has_more:
        note(f"There are more: --cursor {page.next_cursor}")


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headings, each column as wide as its longest cell."""
    if not rows:
        return
    headings = [_heading(column) for column in columns]
    widths = [max(len(row[n]) for row in (headings, *rows)) for n in range(len(columns))]
    for row in (headings, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def note(message: str) -> None:
    """Say something that is not data, on stderr."""
    click.echo("\n".join(plain(line) for line in message.split("\n")), err=True)


def plain(text: str) -> str:
    """The text without control characters: what another instance says moves nobody's cursor."""
    return "".join(c if c.isprintable() else "·" for c in text)


def read_object(raw: bytes, where: str) -> dict[str, Any]:
    """The JSON object in what was typed; `where` names it in the refusal."""
    try:
        value = loads(raw)
    except Problem as problem:
        said = (problem.detail or problem.title).rstrip(".")
        raise Failure(f"{where} is not JSON: {said}. Give one object.", Exit.USAGE) from problem
    if not isinstance(value, dict):
        raise Failure(f'{where}: give a JSON object, such as {{"id": 7}}.', Exit.USAGE)
    return value


def one_page(rows: Sequence[Mapping[str, Any]]) -> Page[Mapping[str, Any]]:
    """A list that is always whole, in the form of all lists."""
    return Page(list(rows), None, False)


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    click.echo(_BEYOND_ASCII.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode() if value else "-"
    return plain(str(value))


def _heading(column: str) -> str:
    """remoteName -> REMOTE NAME."""
    return "".join(f" {c}" if c.isupper() else c for c in column).upper()


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _exit_of(problem: Problem) -> Exit:
    if isinstance(problem, NotFound):
        return Exit.NOT_FOUND
    if isinstance(problem, RemoteError):
        return Exit.FAILED
    return Exit.USAGE if isinstance(problem, (InvalidRequest, InvalidCursor)) else Exit.FAILED
