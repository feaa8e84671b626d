"""`flask user`: people who sign in."""

import sys

import click

from app.access import links, users
from app.cli.lookup import workspace_named
from app.cli.output import Group, note, output_option, print_one, workspace_option
from app.models import Role
from app.protocol.errors import NotFound


@click.group(cls=Group)
def user() -> None:
    """Make users."""


@user.command()
@click.argument("email")
@workspace_option
@click.option(
    "--role",
    type=click.Choice([value.value for value in Role]),
    default=Role.OPERATOR.value,
    show_default=True,
    help="What they may do.",
)
@click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the password from stdin (12 characters or more); else one is made up.",
)
@output_option
def create(email: str, workspace: str, role: str, password_stdin: bool, output: str) -> None:
    """Make the user EMAIL with a role in a workspace. A password that is made up is shown once."""
    password = sys.stdin.readline().rstrip("\n") if password_stdin else None
    place = workspace_named(workspace)
    row, secret = users.create(email, password, workspace_id=place.id, role=Role(role))
    print_one(
        {
            "id": row.public_id,
            "email": row.email,
            "workspace": place.slug,
            "role": role,
            "password": None if password_stdin else secret,
        },
        output,
    )
    if not password_stdin:
        note("Keep the password now; it is not shown again.")


@user.command()
@click.argument("email")
@click.option(
    "--minutes",
    type=click.IntRange(1, 7 * 24 * 60),
    default=links.LIFE_MS // 60_000,
    show_default=True,
    help="How long the link lasts.",
)
@output_option
def link(email: str, minutes: int, output: str) -> None:
    """Make a link that signs the user EMAIL in to the console, once; older ones are void."""
    row = users.by_email(email)
    if row is None:
        raise NotFound(f"there is no user {email}")
    secret = links.create(row.id, minutes * 60_000)
    print_one({"email": row.email, "url": links.url(secret), "minutes": minutes}, output)
    note("Whoever opens the link is signed in as this user; hand it over where nobody else reads.")
