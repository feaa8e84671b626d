"""replay: what was asked for and what is being served; stream: when holes and heartbeats are due"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replay",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("direction", sa.String(length=32), nullable=False),
        sa.Column("replay_id", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("requested_by", sa.String(length=255), nullable=False),
        sa.Column("stream_epoch", sa.String(length=36), nullable=True),
        sa.Column("from_sequence", sa.BigInteger(), nullable=True),
        sa.Column("to_sequence", sa.BigInteger(), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("event_types", sa.Text(), nullable=True),
        sa.Column("stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("first_sequence", sa.BigInteger(), nullable=True),
        sa.Column("last_sequence", sa.BigInteger(), nullable=True),
        sa.Column("done_to", sa.BigInteger(), nullable=False),
        sa.Column("gaps_told_to", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.Column("refused", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["connection_id"], ["connection.id"], name=op.f("fk_replay_connection_id")),
        sa.ForeignKeyConstraint(["stream_id"], ["stream.id"], name=op.f("fk_replay_stream_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_replay_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replay")),
        sa.UniqueConstraint(
            "connection_id",
            "direction",
            "replay_id",
            name=op.f("uq_replay_connection_id_direction_replay_id"),
        ),
    )
    with op.batch_alter_table("replay", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_replay_connection_id_direction_state"), ["connection_id", "direction", "state"]
        )
        batch_op.create_index(
            batch_op.f("ix_replay_direction_state_due_at"), ["direction", "state", "due_at"]
        )
        batch_op.create_index(batch_op.f("ix_replay_workspace_id_id"), ["workspace_id", "id"])

    with op.batch_alter_table("stream", schema=None) as batch_op:
        batch_op.add_column(sa.Column("due_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("holes", sa.Text(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("went_back_at", sa.BigInteger(), nullable=True))
        batch_op.create_index(batch_op.f("ix_stream_direction_due_at"), ["direction", "due_at"])

    # What is there already is looked at once, and finds its own time then.
    stream = sa.table(
        "stream",
        sa.column("direction", sa.String),
        sa.column("due_at", sa.BigInteger),
        sa.column("hole_since", sa.BigInteger),
    )
    op.execute(
        stream.update()
        .where(sa.or_(stream.c.direction == "outgoing", stream.c.hole_since.is_not(None)))
        .values(due_at=0)
    )


def downgrade() -> None:
    with op.batch_alter_table("stream", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_stream_direction_due_at"))
        batch_op.drop_column("went_back_at")
        batch_op.drop_column("holes")
        batch_op.drop_column("due_at")
    op.drop_table("replay")
