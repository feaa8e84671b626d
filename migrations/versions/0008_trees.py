"""event.proof: events that share a signature; event_signature keeps both kinds"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.add_column(sa.Column("proof", sa.Text(), nullable=True))
    op.rename_table("event_signature", "event_signature_before")
    op.create_table(
        "event_signature",
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("is_shared", sa.Boolean(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("proof", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(length=44), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"], ["event.id"], name=op.f("fk_event_signature_event_id_shared"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("event_id", "key_id", "is_shared", name=op.f("pk_event_signature_shared")),
    )
    op.execute(
        "INSERT INTO event_signature (event_id, key_id, body, signature, digest, is_shared)"
        " SELECT event_id, key_id, body, signature, digest, false FROM event_signature_before"
    )
    op.drop_table("event_signature_before")


def downgrade() -> None:
    op.rename_table("event_signature", "event_signature_after")
    op.create_table(
        "event_signature",
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=44), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"], ["event.id"], name=op.f("fk_event_signature_event_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("event_id", "key_id", name=op.f("pk_event_signature")),
    )
    # What was shared means nothing without its proof.
    op.execute(
        "INSERT INTO event_signature (event_id, key_id, body, signature, digest)"
        " SELECT event_id, key_id, body, signature, digest FROM event_signature_after WHERE NOT is_shared"
    )
    op.drop_table("event_signature_after")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_column("proof")
