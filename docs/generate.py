"""Make the pages of docs/reference/ from the code, and the index of docs/decisions/ from its pages.

python -m docs.generate            writes them
python -m docs.generate --check    writes nothing; ends with 1 if a page is not what the code says
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from flask import Flask

from app import cli, create_app
from app.config import SETTINGS, Config
from app.errors import AppError
from app.federation.subscriptions import subscribe_to_event_type, unsubscribe_from_event_type
from app.inbox.receive import handle_incoming_event
from app.outbox.acknowledge import process_event_ack
from app.outbox.publish import publish_event
from app.protocol.errors import Problem
from app.reports.event_log import get_event_messages
from app.reports.subscriptions import get_event_subscriptions
from app.web.api.docs import plain_schema

REFERENCE = Path(__file__).resolve().parent / "reference"
DECISIONS = REFERENCE.parent / "decisions"

MADE = "<!-- Made by `python -m docs.generate`. Change the code, not this page. -->\n"

INDEXED = "<!-- Made by `python -m docs.generate` from the headings of the pages here. -->\n"

#: The service verbs, in the order in which an event meets them.
VERBS: tuple[Callable[..., Any], ...] = (
    subscribe_to_event_type,
    unsubscribe_from_event_type,
    publish_event,
    handle_incoming_event,
    process_event_ack,
    get_event_messages,
    get_event_subscriptions,
)


def settings_page() -> str:
    """All settings, from the table that reads them."""
    rows = [
        (f"`{row.name}`", row.default_shown or f"`{row.default}`", row.unit, row.meaning, row.allowed)
        for row in SETTINGS
    ]
    return (
        "# Settings\n\n"
        "Environment variables; a `.env` file beside `wsgi.py` is read too, and the environment "
        "wins. They are read "
        "once, at the start. A value that cannot be right stops the start with one line that names "
        "the variable, "
        "what was given and what is allowed. An empty value is the default.\n\n"
        + _table(("name", "default", "unit", "meaning", "allowed"), rows)
    )


def errors_page() -> str:
    """All error codes, from the classes that carry them."""
    return (
        "# Errors\n\n"
        "Every refusal is a problem document of RFC 9457, `application/problem+json`: `type` "
        "(`urn:tidings:error:` "
        "and the code), `title`, `status`, `detail`, `code`, `retryable`, `requestId`, and "
        "`errors[]` with `pointer`, "
        "`code` and `detail` of each bad field. `code` is what programs go by. `retryable` says that "
        "the same call "
        "may pass later.\n\n"
        "## What peers are told\n\nThe codes of [the "
        "protocol](../protocol.md#9-errors-rfc-9457-applicationproblemjson); "
        "the API uses them too.\n\n"
        + _errors_table(lambda kind: not issubclass(kind, AppError))
        + "\n## What only this instance's own people and scripts are told\n\n"
        + _errors_table(lambda kind: issubclass(kind, AppError))
    )


def cli_page() -> str:
    """All commands of ours, from their own help."""
    parts = [
        "# Commands\n\n"
        "Run from the project's root as `.venv/bin/flask COMMAND`, or as `flask COMMAND` once the "
        "virtual environment "
        "is active. Data goes to stdout, all else to stderr; with `-o json` stdout is one JSON "
        "document, the same that "
        "the API call answers. Ids may be shortened as long as they are unique. Commands work on the "
        "database of the "
        "settings they see, so they need the same environment or `.env` file as `flask up`.\n\n"
        "Exit codes: 0 done, 1 failed, 2 the command line cannot be right, 3 not found, 4 refused by "
        "the other side.\n"
    ]
    parts += [_command(path, command) for path, command in _commands()]
    return "\n".join(parts)


def api_page(app: Flask) -> str:
    """All calls of the API, from its OpenAPI document."""
    document = app.test_client().get("/api/openapi.json").get_json()
    parts = [
        "# API\n\n"
        "The same as `/api/docs` of a running instance; `/api/openapi.json` is the document for "
        "tools (OpenAPI 3.1). "
        "Calls carry `Authorization: Bearer tdg_…`. Errors are [problem documents](errors.md).\n"
    ]
    for path, methods in document["paths"].items():
        parts += [_call(method.upper(), path, call) for method, call in methods.items()]
    parts.append("## Shapes\n")
    parts += [_shape(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return "\n".join(parts)


def services_page() -> str:
    """The service verbs, from their docstrings."""
    parts = [
        "# Services\n\n"
        "What API, commands and jobs call. They take plain arguments, know no request, and are "
        "called inside the app's "
        "context.\n"
    ]
    for verb in VERBS:
        signature = inspect.signature(verb)
        arguments = "".join(f"    {argument},\n" for argument in _arguments(signature))
        returns = inspect.formatannotation(signature.return_annotation)
        parts.append(
            f"## {verb.__name__}\n\n"
            f"```python\nfrom {verb.__module__} import {verb.__name__}\n\n"
            f"{verb.__name__}(\n{arguments}) -> {_short(returns)}\n```\n\n"
            f"```text\n{inspect.getdoc(verb)}\n```\n"
        )
    return "\n".join(parts)


def _arguments(signature: inspect.Signature) -> Iterator[str]:
    starred = False
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            starred = True
            yield "*"
        yield _short(str(parameter))


def _short(annotation: str) -> str:
    """An annotation without the modules of its types."""
    return re.sub(r"\b(?:app|typing|collections)(?:\.[a-z_]+)*\.(?=[A-Z])", "", annotation)


def _errors_table(wanted: Callable[[type[Problem]], bool]) -> str:
    rows = sorted(
        (
            kind.status,
            f"`{kind.code}`",
            "yes" if kind.retryable else "no",
            inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " "),
        )
        for kind in _kinds(Problem)
        if wanted(kind)
    )
    return _table(("status", "code", "retryable", "meaning"), [(str(row[0]), *row[1:]) for row in rows])


def _kinds(root: type[Problem]) -> Iterator[type[Problem]]:
    """All classes below the root that have a code of their own."""
    for kind in root.__subclasses__():
        if "code" in vars(kind):
            yield kind
        yield from _kinds(kind)


def _commands() -> Iterator[tuple[str, click.Command]]:
    """All our commands with their full names, in the order of the alphabet."""
    for command in cli.COMMANDS:
        if command.name != "db":
            yield from _with_subcommands(f"flask {command.name}", command.load())


def _with_subcommands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, subcommand in sorted(command.commands.items()):
        yield from _with_subcommands(f"{path} {name}", subcommand)


def _command(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            rows.append((f"`{record[0]}`", record[1]))
    options = "\n" + _table(("option", "meaning"), rows) if rows else ""
    return f"## {path}\n\n```text\n{usage}\n```\n\n{inspect.cleandoc(command.help or '')}\n{options}"


def _call(method: str, path: str, call: dict[str, Any]) -> str:
    lines = [f"## {method} {path}\n", call.get("summary", "") + "\n"]
    if call.get("description"):
        lines.append(call["description"] + "\n")
    rows = [
        (
            f"`{parameter['name']}`",
            parameter["in"],
            plain_schema(parameter.get("schema", {})),
            parameter.get("description", ""),
        )
        for parameter in call.get("parameters", [])
    ]
    if rows:
        lines.append(_table(("parameter", "in", "type", "meaning"), rows))
    for media, content in call.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body: `{media}`, {_linked(content.get('schema', {}))}\n")
    answers = []
    for status, answer in call.get("responses", {}).items():
        bodies = ", ".join(
            _linked(content.get("schema", {})) for content in answer.get("content", {}).values()
        )
        answers.append((status, answer.get("description", ""), bodies))
    lines.append(_table(("status", "meaning", "body"), answers))
    return "\n".join(lines)


def _linked(schema: dict[str, Any]) -> str:
    """A schema in words, linked if it has a name."""
    words = plain_schema(schema)
    return f"[{words}](#{words.lower()})" if "$ref" in schema and not words.startswith("list of") else words


def _shape(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (f"`{member}`", plain_schema(of), "yes" if member in required else "", of.get("description", ""))
        for member, of in schema.get("properties", {}).items()
    ]
    described = schema.get("description", "")
    table = _table(("member", "type", "always there", "meaning"), rows) if rows else ""
    return f"### {name}\n\n{described}\n\n{table}"


def decisions_page() -> str:
    """The index of the decisions, from their headings."""
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    lines = [
        "# Decisions\n",
        "One page for each choice that was not obvious: what stood to choose, what was chosen, what it "
        "costs. A decision that is changed keeps its page and names the one that follows it.\n",
    ]
    for page in pages:
        heading = page.read_text(encoding="utf-8").partition("\n")[0]
        title = heading.removeprefix("# ").partition(". ")[2]
        lines.append(f"- [{page.name[:4]}]({page.name}) {title}")
    return "\n".join(lines) + "\n"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def pages() -> dict[str, str]:
    """Path of every page, from docs/reference/, to its text."""
    app = create_app(Config.unchecked())
    return {
        "settings.md": MADE + settings_page(),
        "errors.md": MADE + errors_page(),
        "cli.md": MADE + cli_page(),
        "api.md": MADE + api_page(app),
        "services.md": MADE + services_page(),
        "../decisions/README.md": INDEXED + decisions_page(),
    }


def main() -> int:
    """Write or check the pages; the exit code."""
    parser = argparse.ArgumentParser(
        description="Make the pages that follow from the code, and from other pages."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, name the pages that differ")
    check: bool = parser.parse_args().check
    differing = []
    for name, text in pages().items():
        path = REFERENCE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing.append(path.resolve().relative_to(REFERENCE.parents[1]).as_posix())
        if not check:
            path.write_text(text, encoding="utf-8")
    for name in differing:
        print(f"{name} is not up to date: run python -m docs.generate" if check else f"wrote {name}")
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
