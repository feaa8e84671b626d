"""`flask init`: from nothing to an instance that can be used; repeated, it changes nothing."""

import click
import sqlalchemy as sa
from flask.cli import with_appcontext

from app.access import tokens, users, workspaces
from app.cli.output import Command, note, output_option, print_one
from app.cli.prepare import prepare
from app.database import db, transaction
from app.federation import identity
from app.models import Instance

#: Address of the first user, unless another is given.
DEFAULT_EMAIL = "admin@localhost"


@click.command(cls=Command)
@click.option("--email", default=DEFAULT_EMAIL, show_default=True, help="Address of the first user.")
@output_option
@with_appcontext
def init(email: str, output: str) -> None:
    """Make the database, the keys, the first workspace, its admin and a token.

    Safe to repeat: what exists is left as it is. Password and token are shown once, when they are made.
    """
    prepare()
    # One after the other, should two of these commands run at once; all or nothing of it.
    with transaction():
        db.session.execute(sa.select(Instance.id).with_for_update())
        workspace = workspaces.ensure_default()
        admin, password = users.first_owner(workspace.id), None
        if admin is None:
            admin, password = users.create(email, workspace_id=workspace.id)
        secret = None
        if not any(token.revoked_at is None for token in tokens.list_tokens(workspace.id)):
            _, secret = tokens.create(workspace.id, "made by flask init")
    print_one(
        {
            "instanceId": identity.local_instance().instance_id,
            "workspace": workspace.slug,
            "adminEmail": admin.email,
            "adminPassword": password,
            "token": secret,
        },
        output,
    )
    if password or secret:
        note("Keep the password and the token now; they are not shown again. `flask up` starts the instance.")
    else:
        note("All of this was there already. `flask token create` makes another token.")
