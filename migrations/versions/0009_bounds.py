"""connection, replay, control_out: waits that were not told; member, sign_in_link: invitations that wait"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WAITING = ("connection", "replay", "control_out")


def upgrade() -> None:
    for name in _WAITING:
        with op.batch_alter_table(name) as table:
            # The default is for rows that are there, and for processes of the version before while both run.
            table.add_column(sa.Column("untold_waits", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("member") as table:
        table.add_column(sa.Column("is_pending", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("sign_in_link") as table:
        table.add_column(sa.Column("workspace_id", _ROW_ID, nullable=True))
        table.create_foreign_key(op.f("fk_sign_in_link_workspace_id"), "workspace", ["workspace_id"], ["id"])


def downgrade() -> None:
    with op.batch_alter_table("sign_in_link") as table:
        table.drop_constraint(op.f("fk_sign_in_link_workspace_id"), type_="foreignkey")
        table.drop_column("workspace_id")
    # Without the column an invitation that waits would be a membership.
    op.execute("DELETE FROM member WHERE is_pending")
    with op.batch_alter_table("member") as table:
        table.drop_column("is_pending")
    for name in reversed(_WAITING):
        with op.batch_alter_table(name) as table:
            table.drop_column("untold_waits")
