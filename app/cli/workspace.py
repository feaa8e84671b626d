"""`flask workspace`: parts of the organisation with their own connections, events and tokens."""

import click

from app.access import workspaces
from app.cli.output import Group, one_page, output_option, print_list, print_one
from app.models import Workspace
from app.reports.times import rfc3339


@click.group(cls=Group)
def workspace() -> None:
    """Make and list workspaces."""


@workspace.command()
@click.argument("slug")
@click.option("--name", help="What people call it; the slug if it is not given.")
@output_option
def create(slug: str, name: str | None, output: str) -> None:
    """Make the workspace SLUG (a-z, 0-9 and -)."""
    print_one(_details(workspaces.create(slug, name)), output)


@workspace.command("list")
@output_option
def list_(output: str) -> None:
    """List all workspaces."""
    rows = [_details(row) for row in workspaces.list_workspaces()]
    print_list(one_page(rows), ("slug", "name", "isDefault", "id", "createdAt"), output)


def _details(row: Workspace) -> dict[str, object]:
    return {
        "id": row.public_id,
        "slug": row.slug,
        "name": row.name,
        "isDefault": row.is_default,
        "createdAt": rfc3339(row.created_at),
    }
