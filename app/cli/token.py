"""`flask token`: what software and scripts identify themselves with."""

import click

from app.access import tokens
from app.access.tokens import Scope
from app.cli.lookup import token_id, workspace_named
from app.cli.output import Group, note, one_page, output_option, print_list, print_one, workspace_option
from app.models import Token
from app.reports.times import rfc3339


@click.group(cls=Group)
def token() -> None:
    """Make, list and revoke tokens of the API."""


@token.command()
@workspace_option
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([value.value for value in Scope]),
    default=[Scope.ADMIN.value],
    show_default="admin",
    help="What it may do; can be given several times.",
)
@click.option("--name", default="token", show_default=True, help="To recognise it by in lists.")
@output_option
def create(workspace: str, scopes: tuple[str, ...], name: str, output: str) -> None:
    """Make a token of a workspace. It is shown once."""
    row, secret = tokens.create(workspace_named(workspace).id, name, scopes)
    print_one({"token": secret} | _details(row, workspace), output)
    note("Keep the token now; it is not shown again.")


@token.command("list")
@workspace_option
@output_option
def list_(workspace: str, output: str) -> None:
    """List the tokens of a workspace, revoked ones too."""
    rows = [_details(row, workspace) for row in tokens.list_tokens(workspace_named(workspace).id)]
    print_list(one_page(rows), ("id", "name", "prefix", "scopes", "lastUsedAt", "revokedAt"), output)


@token.command()
@click.argument("token_id_", metavar="ID")
@workspace_option
@output_option
def revoke(token_id_: str, workspace: str, output: str) -> None:
    """End the token ID. Calls with it are refused from now on."""
    place = workspace_named(workspace)
    row = tokens.revoke(place.id, token_id(place, token_id_))
    print_one(_details(row, workspace), output)


def _details(row: Token, workspace: str) -> dict[str, object]:
    return {
        "id": row.public_id,
        "workspace": workspace,
        "name": row.name,
        "prefix": row.prefix,
        "scopes": row.scopes.split(),
        "createdAt": rfc3339(row.created_at),
        "lastUsedAt": rfc3339(row.last_used_at),
        "revokedAt": rfc3339(row.revoked_at),
    }
