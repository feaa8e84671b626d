"""Idempotency keys: the first answer to a publish call, for 24 hours."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId


class IdempotencyKey(Model):
    """One key of one workspace. The row is written in the same transaction as what it stands for."""

    __tablename__ = "idempotency_key"
    __table_args__ = (sa.UniqueConstraint("workspace_id", "key"), sa.Index(None, "created_at"))

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    key: Mapped[str] = mapped_column(sa.String(255))
    #: Hex SHA-256 of path and body: the same key with another body is refused.
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    status_code: Mapped[int]
    answer: Mapped[str] = mapped_column(sa.Text)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
