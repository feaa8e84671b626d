"""first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "instance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_instance_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
    )
    op.create_table(
        "peer",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("base_url", sa.String(length=300), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("document_read_at", sa.BigInteger(), nullable=False),
        sa.Column("key_lookup_at", sa.BigInteger(), nullable=True),
        sa.Column("refused_keys", sa.Text(), nullable=False),
        sa.Column("max_event_bytes", sa.Integer(), nullable=False),
        sa.Column("max_batch_events", sa.Integer(), nullable=False),
        sa.Column("max_request_bytes", sa.Integer(), nullable=False),
        sa.Column("clock_skew_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_peer")),
    )
    with op.batch_alter_table("peer", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_peer_instance_id_base_url"), ["instance_id", "base_url"], unique=False
        )

    op.create_table(
        "signing_key",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("algorithm", sa.String(length=32), nullable=False),
        sa.Column("public_key_pem", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("private_key_sealed", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("vouch_by", sa.String(length=64), nullable=True),
        sa.Column("vouch_signature", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_key")),
        sa.UniqueConstraint("key_id", name=op.f("uq_signing_key_key_id")),
    )
    with op.batch_alter_table("signing_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_signing_key_status"), ["status"], unique=False)

    op.create_table(
        "user",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_sign_in_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user")),
        sa.UniqueConstraint("email", name=op.f("uq_user_email")),
        sa.UniqueConstraint("public_id", name=op.f("uq_user_public_id")),
    )
    op.create_table(
        "workspace",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("slug", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workspace")),
        sa.UniqueConstraint("public_id", name=op.f("uq_workspace_public_id")),
        sa.UniqueConstraint("slug", name=op.f("uq_workspace_slug")),
    )
    op.create_table(
        "connection",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("peer_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("wire_connection_id", sa.String(length=36), nullable=False),
        sa.Column("direction", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("suspended_by_me", sa.Boolean(), nullable=False),
        sa.Column("suspended_by_peer", sa.Boolean(), nullable=False),
        sa.Column("claimed_instance_id", sa.String(length=36), nullable=True),
        sa.Column("claimed_base_url", sa.String(length=300), nullable=True),
        sa.Column("request_message_id", sa.String(length=36), nullable=False),
        sa.Column("request_evidence", sa.Text(), nullable=True),
        sa.Column("checked_at", sa.BigInteger(), nullable=True),
        sa.Column("offer", sa.Text(), nullable=False),
        sa.Column("to_workspace", sa.String(length=64), nullable=True),
        sa.Column("remote_workspace_slug", sa.String(length=64), nullable=True),
        sa.Column("remote_workspace_name", sa.String(length=200), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("version", sa.String(length=16), nullable=True),
        sa.Column("features", sa.Text(), nullable=False),
        sa.Column("replaces_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("inbound_open_until", sa.BigInteger(), nullable=True),
        sa.Column("key_review", sa.Boolean(), nullable=False),
        sa.Column("hold_code", sa.String(length=64), nullable=True),
        sa.Column("hold_detail", sa.Text(), nullable=True),
        sa.Column("hold_since", sa.BigInteger(), nullable=True),
        sa.Column("paused_outgoing", sa.Boolean(), nullable=False),
        sa.Column("paused_incoming", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.BigInteger(), nullable=False),
        sa.Column("breaker_opened_at", sa.BigInteger(), nullable=True),
        sa.Column("last_control_out", sa.BigInteger(), nullable=False),
        sa.Column("last_control_in", sa.BigInteger(), nullable=False),
        sa.Column("drain_owner", sa.String(length=128), nullable=True),
        sa.Column("drain_lease_until", sa.BigInteger(), nullable=False),
        sa.Column("control_owner", sa.String(length=128), nullable=True),
        sa.Column("control_lease_until", sa.BigInteger(), nullable=False),
        sa.Column("verified_at", sa.BigInteger(), nullable=True),
        sa.Column("verified_how", sa.Text(), nullable=True),
        sa.Column("clock_skew_ms", sa.BigInteger(), nullable=True),
        sa.Column("last_received_at", sa.BigInteger(), nullable=True),
        sa.Column("last_delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("activated_at", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["peer_id"], ["peer.id"], name=op.f("fk_connection_peer_id")),
        sa.ForeignKeyConstraint(["replaces_id"], ["connection.id"], name=op.f("fk_connection_replaces_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_connection_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_connection")),
        sa.UniqueConstraint(
            "peer_id", "wire_connection_id", name=op.f("uq_connection_peer_id_wire_connection_id")
        ),
        sa.UniqueConstraint("public_id", name=op.f("uq_connection_public_id")),
    )
    with op.batch_alter_table("connection", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_connection_status_retry_at"), ["status", "retry_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_connection_wire_connection_id"), ["wire_connection_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_connection_workspace_id_id"), ["workspace_id", "id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_connection_workspace_id_status_id"), ["workspace_id", "status", "id"], unique=False
        )

    op.create_table(
        "idempotency_key",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspace.id"], name=op.f("fk_idempotency_key_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_idempotency_key")),
        sa.UniqueConstraint("workspace_id", "key", name=op.f("uq_idempotency_key_workspace_id_key")),
    )
    with op.batch_alter_table("idempotency_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_key_created_at"), ["created_at"], unique=False)

    op.create_table(
        "member",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("user_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_member_user_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_member_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_member")),
        sa.UniqueConstraint("user_id", "workspace_id", name=op.f("uq_member_user_id_workspace_id")),
    )
    with op.batch_alter_table("member", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_member_workspace_id"), ["workspace_id"], unique=False)

    op.create_table(
        "peer_key",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("peer_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("algorithm", sa.String(length=32), nullable=False),
        sa.Column("public_key_pem", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("vouch_by", sa.String(length=64), nullable=True),
        sa.Column("vouch_signature", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["peer_id"], ["peer.id"], name=op.f("fk_peer_key_peer_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_peer_key")),
        sa.UniqueConstraint("peer_id", "key_id", name=op.f("uq_peer_key_peer_id_key_id")),
    )
    with op.batch_alter_table("peer_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_peer_key_key_id"), ["key_id"], unique=False)

    op.create_table(
        "token",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_token_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("public_id", name=op.f("uq_token_public_id")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_token_secret_hash")),
    )
    with op.batch_alter_table("token", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_token_workspace_id"), ["workspace_id"], unique=False)

    op.create_table(
        "attempt",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("response_body", sa.Text(), nullable=True),
        sa.Column("ack", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["connection_id"], ["connection.id"], name=op.f("fk_attempt_connection_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
    )
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_attempt_connection_id_id"), ["connection_id", "id"], unique=False
        )

    op.create_table(
        "control_out",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("message_id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("control_sequence", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("answer_status", sa.String(length=32), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connection.id"], name=op.f("fk_control_out_connection_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_control_out")),
        sa.UniqueConstraint(
            "connection_id", "control_sequence", name=op.f("uq_control_out_connection_id_control_sequence")
        ),
        sa.UniqueConstraint("message_id", name=op.f("uq_control_out_message_id")),
    )
    with op.batch_alter_table("control_out", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_control_out_connection_id_state_control_sequence"),
            ["connection_id", "state", "control_sequence"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_control_out_state_next_attempt_at"), ["state", "next_attempt_at"], unique=False
        )

    op.create_table(
        "control_received",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("message_id", sa.String(length=36), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=44), nullable=False),
        sa.Column("control_sequence", sa.BigInteger(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"],
            ["connection.id"],
            name=op.f("fk_control_received_connection_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_control_received")),
        sa.UniqueConstraint(
            "connection_id", "message_id", name=op.f("uq_control_received_connection_id_message_id")
        ),
    )
    with op.batch_alter_table("control_received", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_control_received_received_at"), ["received_at"], unique=False)

    op.create_table(
        "stream",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("direction", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.String(length=36), nullable=False),
        sa.Column("head_sequence", sa.BigInteger(), nullable=False),
        sa.Column("contiguous", sa.BigInteger(), nullable=False),
        sa.Column("ranges", sa.Text(), nullable=False),
        sa.Column("hole_since", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connection.id"], name=op.f("fk_stream_connection_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stream")),
        sa.UniqueConstraint(
            "connection_id", "direction", "epoch", name=op.f("uq_stream_connection_id_direction_epoch")
        ),
    )
    with op.batch_alter_table("stream", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_stream_connection_id_direction_id"),
            ["connection_id", "direction", "id"],
            unique=False,
        )

    op.create_table(
        "subscription",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("public_id", sa.String(length=36), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("direction", sa.String(length=32), nullable=False),
        sa.Column("wire_subscription_id", sa.String(length=36), nullable=False),
        sa.Column("event_type", sa.String(length=255), nullable=False),
        sa.Column("granted_event_type", sa.String(length=255), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("lease_seconds", sa.BigInteger(), nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("renew_at", sa.BigInteger(), nullable=True),
        sa.Column("accepts_until", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("stale_at", sa.BigInteger(), nullable=True),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["connection_id"], ["connection.id"], name=op.f("fk_subscription_connection_id")
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspace.id"], name=op.f("fk_subscription_workspace_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
        sa.UniqueConstraint(
            "connection_id",
            "direction",
            "wire_subscription_id",
            name=op.f("uq_subscription_connection_id_direction_wire_subscription_id"),
        ),
        sa.UniqueConstraint("public_id", name=op.f("uq_subscription_public_id")),
    )
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_subscription_status_lease_expires_at"),
            ["status", "lease_expires_at"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_subscription_workspace_id_direction_status_id"),
            ["workspace_id", "direction", "status", "id"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_subscription_workspace_id_id"), ["workspace_id", "id"], unique=False
        )

    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("direction", sa.String(length=32), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("message_id", sa.String(length=36), nullable=False),
        sa.Column("event_type", sa.String(length=255), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("key_id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=44), nullable=False),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["connection_id"], ["connection.id"], name=op.f("fk_event_connection_id")),
        sa.ForeignKeyConstraint(["stream_id"], ["stream.id"], name=op.f("fk_event_stream_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_event_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("message_id", "connection_id", name=op.f("uq_event_message_id_connection_id")),
        sa.UniqueConstraint("stream_id", "sequence", name=op.f("uq_event_stream_id_sequence")),
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_event_connection_id_id"), ["connection_id", "id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_event_workspace_id_created_at"), ["workspace_id", "created_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_event_workspace_id_direction_id"),
            ["workspace_id", "direction", "id"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_event_workspace_id_event_type_id"),
            ["workspace_id", "event_type", "id"],
            unique=False,
        )
        batch_op.create_index(batch_op.f("ix_event_workspace_id_id"), ["workspace_id", "id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_event_workspace_id_status_id"), ["workspace_id", "status", "id"], unique=False
        )

    op.create_table(
        "stream_gap",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("from_sequence", sa.BigInteger(), nullable=False),
        sa.Column("to_sequence", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["stream_id"], ["stream.id"], name=op.f("fk_stream_gap_stream_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stream_gap")),
    )
    with op.batch_alter_table("stream_gap", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_stream_gap_stream_id_from_sequence"), ["stream_id", "from_sequence"], unique=False
        )

    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workspace_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("connection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_type", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("refusals", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger(), nullable=False),
        sa.Column("trigger", sa.String(length=8), nullable=False),
        sa.Column("attempt_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_delivery_attempt_id")),
        sa.ForeignKeyConstraint(["connection_id"], ["connection.id"], name=op.f("fk_delivery_connection_id")),
        sa.ForeignKeyConstraint(["event_id"], ["event.id"], name=op.f("fk_delivery_event_id")),
        sa.ForeignKeyConstraint(["stream_id"], ["stream.id"], name=op.f("fk_delivery_stream_id")),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace.id"], name=op.f("fk_delivery_workspace_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("event_id", "connection_id", name=op.f("uq_delivery_event_id_connection_id")),
    )
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_delivery_connection_id_id"), ["connection_id", "id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_delivery_connection_id_state_sequence_id"),
            ["connection_id", "state", "sequence", "id"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_delivery_workspace_id_event_type_id"),
            ["workspace_id", "event_type", "id"],
            unique=False,
        )
        batch_op.create_index(batch_op.f("ix_delivery_workspace_id_id"), ["workspace_id", "id"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_delivery_workspace_id_state_id"), ["workspace_id", "state", "id"], unique=False
        )

    op.create_table(
        "event_alias",
        sa.Column("stream_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"], ["event.id"], name=op.f("fk_event_alias_event_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["stream_id"], ["stream.id"], name=op.f("fk_event_alias_stream_id")),
        sa.PrimaryKeyConstraint("stream_id", "sequence", name=op.f("pk_event_alias")),
    )
    op.create_table(
        "attempt_entry",
        sa.Column("delivery_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("attempt_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("trigger", sa.String(length=8), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempt.id"], name=op.f("fk_attempt_entry_attempt_id")),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_attempt_entry_delivery_id")),
        sa.PrimaryKeyConstraint("delivery_id", "attempt_id", name=op.f("pk_attempt_entry")),
    )

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
    op.create_table(
        "key_told",
        sa.Column("connection_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("signing_key_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("acknowledged", sa.String(length=32), nullable=True),
        sa.Column("told", sa.String(length=32), nullable=True),
        sa.Column("control_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.ForeignKeyConstraint(
            ["control_id"],
            ["control_out.id"],
            name=op.f("fk_key_told_control_id"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["signing_key_id"], ["signing_key.id"], name=op.f("fk_key_told_signing_key_id")
        ),
        sa.PrimaryKeyConstraint("connection_id", "signing_key_id", name=op.f("pk_key_told")),
    )


def downgrade() -> None:
    op.drop_table("key_told")
    op.drop_table("event_signature")
    op.drop_table("attempt_entry")
    op.drop_table("event_alias")
    with op.batch_alter_table("delivery", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_delivery_workspace_id_state_id"))
        batch_op.drop_index(batch_op.f("ix_delivery_workspace_id_id"))
        batch_op.drop_index(batch_op.f("ix_delivery_workspace_id_event_type_id"))
        batch_op.drop_index(batch_op.f("ix_delivery_connection_id_state_sequence_id"))
        batch_op.drop_index(batch_op.f("ix_delivery_connection_id_id"))

    op.drop_table("delivery")
    with op.batch_alter_table("stream_gap", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_stream_gap_stream_id_from_sequence"))

    op.drop_table("stream_gap")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_event_workspace_id_status_id"))
        batch_op.drop_index(batch_op.f("ix_event_workspace_id_id"))
        batch_op.drop_index(batch_op.f("ix_event_workspace_id_event_type_id"))
        batch_op.drop_index(batch_op.f("ix_event_workspace_id_direction_id"))
        batch_op.drop_index(batch_op.f("ix_event_workspace_id_created_at"))
        batch_op.drop_index(batch_op.f("ix_event_connection_id_id"))

    op.drop_table("event")
    with op.batch_alter_table("subscription", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_subscription_workspace_id_id"))
        batch_op.drop_index(batch_op.f("ix_subscription_workspace_id_direction_status_id"))
        batch_op.drop_index(batch_op.f("ix_subscription_status_lease_expires_at"))

    op.drop_table("subscription")
    with op.batch_alter_table("stream", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_stream_connection_id_direction_id"))

    op.drop_table("stream")
    with op.batch_alter_table("control_received", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_control_received_received_at"))

    op.drop_table("control_received")
    with op.batch_alter_table("control_out", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_control_out_state_next_attempt_at"))
        batch_op.drop_index(batch_op.f("ix_control_out_connection_id_state_control_sequence"))

    op.drop_table("control_out")
    with op.batch_alter_table("attempt", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attempt_connection_id_id"))

    op.drop_table("attempt")
    with op.batch_alter_table("token", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_token_workspace_id"))

    op.drop_table("token")
    with op.batch_alter_table("peer_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_peer_key_key_id"))

    op.drop_table("peer_key")
    with op.batch_alter_table("member", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_member_workspace_id"))

    op.drop_table("member")
    with op.batch_alter_table("idempotency_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_key_created_at"))

    op.drop_table("idempotency_key")
    with op.batch_alter_table("connection", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_connection_workspace_id_status_id"))
        batch_op.drop_index(batch_op.f("ix_connection_workspace_id_id"))
        batch_op.drop_index(batch_op.f("ix_connection_wire_connection_id"))
        batch_op.drop_index(batch_op.f("ix_connection_status_retry_at"))

    op.drop_table("connection")
    op.drop_table("workspace")
    op.drop_table("user")
    with op.batch_alter_table("signing_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_signing_key_status"))

    op.drop_table("signing_key")
    with op.batch_alter_table("peer", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_peer_instance_id_base_url"))

    op.drop_table("peer")
    op.drop_table("instance")
