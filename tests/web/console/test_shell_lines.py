"""The lines that pages show for a shell: a person pastes them, so that each must be one that flask takes."""

import shlex

import click
import pytest
from flask import Flask

from app.config import ROOT, settings
from app.models import Role
from tests.exchange import RemotePeer, connect
from tests.web.console.conftest import Console
from tests.web.console.lanes import another_workspace, make_lane

#: Pages whose lines are looked at; CONNECTION and EVENT stand for those that the test makes.
PAGES = (
    "connections",
    "connections/new",
    "CONNECTION",
    "CONNECTION/verify",
    "CONNECTION/subscriptions",
    "CONNECTION/events",
    "CONNECTION/stream",
    "CONNECTION/keys",
    "CONNECTION/settings",
    "CONNECTION/disconnect",
    "subscriptions",
    "subscriptions/new",
    "events",
    "events?q=type:order.placed+direction:out",
    "events/publish",
    "EVENT",
    "EVENT/payload",
    "EVENT/signature",
    "EVENT/raw",
    "deliveries",
    "dead-letters",
    "dead-letters?connection=CONNECTION_ID&error=payload_invalid",
    "replay",
    "replay/new",
    "tokens",
    "tokens/new",
    "members",
    "/admin/jobs",
    "/admin/keys",
    "/admin/settings",
    "/admin/workspaces",
    "/admin/workspaces/new",
)


def _takes(app: Flask, line: str) -> None:
    """Let flask read the line; it is not run."""
    arguments = shlex.split(line)
    group: click.Command = app.cli
    context = click.Context(group)
    while isinstance(group, click.Group):
        command = group.get_command(context, arguments[0])
        assert command is not None, f"no such command: {line}"
        group, arguments = command, arguments[1:]
        if arguments and isinstance(group, click.Group) and group.invoke_without_command:
            break
    group.make_context(group.name or "", list(arguments), parent=context)


def test_every_line_of_every_page_is_one_that_flask_takes_in_this_workspace(
    app: Flask, console: Console
) -> None:
    workspace = another_workspace()
    console.sign_in(Role.OWNER, workspace)
    lane = make_lane(workspace)
    [message] = lane.kill(event_type="order.placed")
    here = f"/w/{workspace.slug}"
    lines: dict[str, list[str]] = {}

    for name in PAGES:
        path = name.replace("CONNECTION_ID", lane.connection.public_id)
        path = path.replace("CONNECTION", f"connections/{lane.connection.public_id}")
        path = path.replace("EVENT", f"events/{message}")
        page = console.page(path if path.startswith("/") else f"{here}/{path}")
        lines[name] = page.texts("details.command summary code")

    for name, shown in lines.items():
        assert shown or name.startswith("subscriptions"), f"no line on {name}"
        for line in shown:
            if not line.startswith("flask "):
                continue
            _takes(app, line.removeprefix("flask "))
            names_place = f"--workspace {workspace.slug}" in line
            is_of_all = name.startswith("/admin") or line.startswith("flask connection preview")
            assert names_place or is_of_all, f"{name}: {line}"


def test_the_line_to_paste_names_the_program_of_this_instance(console: Console) -> None:
    console.sign_in()
    connect(console.workspace, RemotePeer())

    [pasted, curl] = console.page("connections").texts(".command pre")

    assert pasted.startswith(f"cd {ROOT} && ")
    assert pasted.endswith("/flask connection list")
    assert curl.startswith('curl -H "Authorization: Bearer $TIDINGS_TOKEN"')


def test_settings_in_a_file_beside_the_data_are_named(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = settings().data_dir.resolve()
    file = folder.with_name(f"{folder.name}.env")
    file.write_text("", encoding="utf-8")
    console.sign_in()

    pasted = console.page("connections").texts(".command pre")[0]

    file.unlink()
    assert f"flask -e {file} connection request" in pasted
