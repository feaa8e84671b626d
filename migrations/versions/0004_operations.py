"""operation: a frozen set of deliveries that is sent again or discarded; and what retention needs"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "operation",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("filter", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("max_items", sa.BigInteger(), nullable=True),
        sa.Column("snapshot_id", sa.BigInteger(), nullable=False),
        sa.Column("cursor_id", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("started_by", sa.String(length=320), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_operation_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation")),
        sa.UniqueConstraint("public_id", name=op.f("uq_operation_public_id")),
    )
    with op.batch_alter_table("operation", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_operation_workspace_id_id"), ["workspace_id", "id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_operation_state_id"), ["state", "id"], unique=False)

    op.create_table(
        "event_trace",
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("message_id", sa.String(length=36), nullable=False),
        sa.Column("digest", sa.String(length=44), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("gone_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connection.id"], name=op.f("fk_event_trace_connection_id")
        ),
        sa.ForeignKeyConstraint(["stream_id"], ["stream.id"], name=op.f("fk_event_trace_stream_id")),
        sa.PrimaryKeyConstraint("connection_id", "message_id", name=op.f("pk_event_trace")),
        sa.UniqueConstraint("stream_id", "sequence", name=op.f("uq_event_trace_stream_id_sequence")),
    )
    with op.batch_alter_table("event_trace", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_trace_gone_at"), ["gone_at"], unique=False)

    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ended_at", sa.BigInteger(), nullable=True))
        batch_op.create_index(batch_op.f("ix_delivery_attempt_id"), ["attempt_id"], unique=False)
    with op.batch_alter_table("attempt_entry", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_attempt_entry_attempt_id"), ["attempt_id"], unique=False)
    with op.batch_alter_table("event_alias", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_alias_event_id"), ["event_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("event_alias", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_event_alias_event_id"))
    with op.batch_alter_table("attempt_entry", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attempt_entry_attempt_id"))
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_delivery_attempt_id"))
        batch_op.drop_column("ended_at")
    op.drop_table("event_trace")
    op.drop_table("operation")
