"""connection, replay, control_out: answers that asked for a wait and did not say how long"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_WAITING = ("connection", "replay", "control_out")


def upgrade() -> None:
    for name in _WAITING:
        with op.batch_alter_table(name) as table:
            # The default is for rows that are there, and for processes of the version before while both run.
            table.add_column(sa.Column("untold_waits", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    for name in reversed(_WAITING):
        with op.batch_alter_table(name) as table:
            table.drop_column("untold_waits")
