"""How people get in, and what was done by whom."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId


class SignIn(Model):
    """One browser in which somebody is signed in."""

    __tablename__ = "sign_in"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id"), index=True)
    #: Hex SHA-256 of the secret that the browser holds; it is 256 random bits.
    secret_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    #: Network address and browser, as they were at the beginning.
    address: Mapped[str] = mapped_column(sa.String(64))
    agent: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: Written at most once a minute.
    last_seen_at: Mapped[int] = mapped_column(sa.BigInteger)
    ended_at: Mapped[int | None] = mapped_column(sa.BigInteger)


class SignInLink(Model):
    """A link that signs its user in, or makes them a member, once, within its time."""

    __tablename__ = "sign_in_link"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id"), index=True)
    #: Hex SHA-256 of the secret in the link.
    secret_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    expires_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: The workspace whose invitation it is; None if it only signs in.
    workspace_id: Mapped[int | None] = mapped_column(sa.ForeignKey("workspace.id"))
    #: When it was used, or made void by a newer one.
    used_at: Mapped[int | None] = mapped_column(sa.BigInteger)


class AuditEntry(Model):
    """One thing that was done. Rows are added, never changed."""

    __tablename__ = "audit_entry"
    __table_args__ = (
        sa.Index("ix_audit_entry_workspace_id_id", "workspace_id", "id"),
        sa.Index("ix_audit_entry_object", "object_kind", "object_id", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    at: Mapped[int] = mapped_column(sa.BigInteger)
    #: "user", "token", "system" (the command line) or "instance".
    actor_kind: Mapped[str] = mapped_column(sa.String(16))
    #: Public id of the user or token. No foreign key: the entry outlives them.
    actor_id: Mapped[str | None] = mapped_column(sa.String(36))
    actor_name: Mapped[str] = mapped_column(sa.String(320))
    address: Mapped[str | None] = mapped_column(sa.String(64))
    #: A dotted verb such as "connection.accept".
    action: Mapped[str] = mapped_column(sa.String(64))
    object_kind: Mapped[str] = mapped_column(sa.String(32))
    object_id: Mapped[str] = mapped_column(sa.String(200))
    #: JSON of what changed; None where there was nothing.
    before: Mapped[str | None] = mapped_column(sa.Text)
    after: Mapped[str | None] = mapped_column(sa.Text)
    #: None: the whole instance.
    workspace_id: Mapped[int | None] = mapped_column(sa.ForeignKey("workspace.id"))
    request_id: Mapped[str | None] = mapped_column(sa.String(128))
