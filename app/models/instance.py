"""Who we are: one identity, the keys that sign for it, and which peers have yet to learn of them."""

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


class KeyTold(Model):
    """A connection whose peer does not know yet how one of our keys stands.

    Without a row the peer knows: it read our document when the connection was made, or acknowledged what it
    was told since. So the table is empty but for the time around a change of keys.
    """

    __tablename__ = "key_told"

    #: No foreign key: its check would lock the connection's row, and whoever notes an answer holds that row
    #: and waits for the key's.
    connection_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    signing_key_id: Mapped[int] = mapped_column(sa.ForeignKey("signing_key.id"), primary_key=True)
    #: The status that the peer acknowledged last; None: it does not know the key.
    acknowledged: Mapped[KeyStatus | None] = mapped_column(state_column(KeyStatus))
    #: The status in the newest `keys.changed` for it, and that message; None: nothing was queued yet.
    told: Mapped[KeyStatus | None] = mapped_column(state_column(KeyStatus))
    control_id: Mapped[int | None] = mapped_column(sa.ForeignKey("control_out.id", ondelete="SET NULL"))
