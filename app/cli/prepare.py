"""Prepare: what has to be there before an instance runs."""

from app.access import workspaces
from app.cli import migrations
from app.config import settings
from app.federation import identity


def prepare() -> None:
    """Bring the database to the wanted revision; on an empty one, make identity, keys and workspace too."""
    migrations.to_the_newest()
    identity.ensure_identity(settings())
    workspaces.ensure_default()
