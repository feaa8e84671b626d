"""Workspaces, the people who work in them, and what each may do there."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column


class Role(StrEnum):
    """What a member may do."""

    OWNER = "owner"
    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"


class Workspace(Model):
    """A part of the organisation with its own connections, events and tokens."""

    __tablename__ = "workspace"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    #: `[a-z0-9-]{1,64}`; what a peer writes as `toWorkspace`.
    slug: Mapped[str] = mapped_column(sa.String(64), unique=True)
    name: Mapped[str] = mapped_column(sa.String(200))
    #: The one that requests without `toWorkspace` reach.
    is_default: Mapped[bool] = mapped_column(default=False)
    #: Made up by `flask seed`, and removed by it.
    is_seeded: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    created_at: Mapped[int] = mapped_column(sa.BigInteger)


class User(Model):
    """A person who signs in to the console."""

    __tablename__ = "user"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    #: Lower case.
    email: Mapped[str] = mapped_column(sa.String(320), unique=True)
    #: argon2id in its PHC form.
    password_hash: Mapped[str] = mapped_column(sa.String(255))
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    last_sign_in_at: Mapped[int | None] = mapped_column(sa.BigInteger)


class Member(Model):
    """A person's role in a workspace."""

    __tablename__ = "member"
    __table_args__ = (sa.UniqueConstraint("user_id", "workspace_id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("user.id"))
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"), index=True)
    role: Mapped[Role] = mapped_column(state_column(Role))
    #: Invited, and the link of this workspace's invitation was not used yet: the role counts for nothing.
    is_pending: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
