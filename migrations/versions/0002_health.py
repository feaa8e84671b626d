"""connection: what a sick peer's health needs, and the address of ours that the peer knows"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("connection") as table:
        table.add_column(sa.Column("our_base_url", sa.String(length=300), nullable=True))
        table.add_column(sa.Column("denied_since", sa.BigInteger(), nullable=True))
        # The default is for rows that are there, and for processes of the version before while both run.
        table.add_column(sa.Column("network_failures", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(sa.Column("wait_code", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("wait_detail", sa.Text(), nullable=True))
        table.add_column(sa.Column("clock_skew_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("connection") as table:
        for name in (
            "clock_skew_at",
            "wait_detail",
            "wait_code",
            "network_failures",
            "denied_since",
            "our_base_url",
        ):
            table.drop_column(name)
