"""Bearer tokens of the JSON API: the hash is kept, the secret is shown once."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId


class Token(Model):
    """One token: belongs to one workspace, has scopes."""

    __tablename__ = "token"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"), index=True)
    name: Mapped[str] = mapped_column(sa.String(200))
    #: `tdg_` and the first characters of the secret, to recognise it by.
    prefix: Mapped[str] = mapped_column(sa.String(16))
    #: Hex SHA-256 of the whole token. The secret is 256 random bits, so a slow hash would protect nothing.
    secret_hash: Mapped[str] = mapped_column(sa.String(64), unique=True)
    #: Scopes separated by spaces.
    scopes: Mapped[str] = mapped_column(sa.String(255))
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: Written at most once a minute.
    last_used_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(sa.BigInteger)
