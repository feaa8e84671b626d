"""Attempts: one row per request that we made, and one per entry that it did not finish."""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Model, RowId


class Attempt(Model):
    """One request with a batch of deliveries. `Delivery.attempt_id` names the latest of each."""

    __tablename__ = "attempt"
    __table_args__ = (sa.Index(None, "connection_id", "id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    connection_id: Mapped[int] = mapped_column(sa.ForeignKey("connection.id"))
    batch_id: Mapped[str] = mapped_column(sa.String(36))
    #: Events in the request.
    size: Mapped[int]
    started_at: Mapped[int] = mapped_column(sa.BigInteger)
    duration_ms: Mapped[int]
    #: None if no answer came.
    status_code: Mapped[int | None]
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_detail: Mapped[str | None] = mapped_column(sa.Text)
    #: First 16 KiB of an answer that was no verified ack; remote text.
    response_body: Mapped[str | None] = mapped_column(sa.Text)
    #: The verified ack, whole, as it came: the receipt.
    ack: Mapped[str | None] = mapped_column(sa.Text)


class AttemptEntry(Model):
    """What one attempt did to one delivery. The last attempt of a delivery that arrived needs no row."""

    __tablename__ = "attempt_entry"
    __table_args__ = (sa.Index(None, "attempt_id"),)

    delivery_id: Mapped[int] = mapped_column(sa.ForeignKey("delivery.id"), primary_key=True)
    attempt_id: Mapped[int] = mapped_column(sa.ForeignKey("attempt.id"), primary_key=True)
    #: Which try of the delivery it was, from 1.
    number: Mapped[int]
    trigger: Mapped[str] = mapped_column(sa.String(8))
    error_code: Mapped[str | None] = mapped_column(sa.String(64))
    error_detail: Mapped[str | None] = mapped_column(sa.Text)
