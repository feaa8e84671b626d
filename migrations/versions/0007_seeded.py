"""workspace.is_seeded, connection.is_seeded: made-up history is told apart, never sent, and removed

With the workspace its part of the audit log goes, which nothing else can be taken out of.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_IS_SEEDED = "EXISTS (SELECT 1 FROM workspace WHERE workspace.id = OLD.workspace_id AND workspace.is_seeded)"


def upgrade() -> None:
    for name in ("workspace", "connection"):
        with op.batch_alter_table(name) as table:
            # The default is for rows that are there, and for processes of the version before.
            table.add_column(sa.Column("is_seeded", sa.Boolean(), nullable=False, server_default=sa.false()))
    if op.get_bind().dialect.name == "sqlite":
        # A migration that makes the table `workspace` anew drops this trigger before, and makes it again.
        _delete_trigger(f"WHEN NOT {_IS_SEEDED} ")
        return
    _function(
        f"BEGIN IF TG_OP = 'DELETE' THEN IF {_IS_SEEDED} THEN RETURN OLD; END IF; END IF; "
        "RAISE EXCEPTION 'the audit log is only added to'; END"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _delete_trigger("")
    else:
        _function("BEGIN RAISE EXCEPTION 'the audit log is only added to'; END")
    for name in ("workspace", "connection"):
        with op.batch_alter_table(name) as table:
            table.drop_column("is_seeded")


def _delete_trigger(when: str) -> None:
    op.execute("DROP TRIGGER audit_entry_no_delete")
    op.execute(
        f"CREATE TRIGGER audit_entry_no_delete BEFORE DELETE ON audit_entry {when}"
        "BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END"
    )


def _function(body: str) -> None:
    op.execute(
        f"CREATE OR REPLACE FUNCTION audit_entry_only_add() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$"
    )
