"""Who we are: one identity, and the keys that sign for it."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId, state_column
from app.protocol.keys import Algorithm, KeyStatus


class Instance(Model):
    """This instance. Exactly one row, number 1."""

    __tablename__ = "instance"
    __table_args__ = (sa.CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True, default=1)
    instance_id: Mapped[str] = mapped_column(sa.String(36))
    created_at: Mapped[int] = mapped_column(sa.BigInteger)


class SigningKey(Model):
    """One of our keys; the private half is sealed under a key derived from SECRET_KEY."""

    __tablename__ = "signing_key"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    key_id: Mapped[str] = mapped_column(sa.String(64), unique=True)
    algorithm: Mapped[Algorithm] = mapped_column(state_column(Algorithm))
    public_key_pem: Mapped[str] = mapped_column(sa.Text)
    #: Lower-case hex SHA-256 of the SPKI DER.
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    private_key_sealed: Mapped[str] = mapped_column(sa.Text)
    status: Mapped[KeyStatus] = mapped_column(state_column(KeyStatus), index=True)
    not_before: Mapped[int] = mapped_column(sa.BigInteger)
    not_after: Mapped[int | None] = mapped_column(sa.BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    vouch_by: Mapped[str | None] = mapped_column(sa.String(64))
    vouch_signature: Mapped[str | None] = mapped_column(sa.Text)
