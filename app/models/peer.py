"""Peers: remote instances as they are pinned, or as they claim to be.

A row is one identity: instanceId, baseUrl and keys. Several rows may carry one instanceId: claims from
several origins are shown side by side, and a peer that lost its keys comes back as a new row that may replace
the old one. A connection belongs to exactly one row, and only that row's keys speak for it.
"""

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.database import Model, RowId, state_column
from app.protocol.keys import Algorithm, KeyStatus


class Peer(Model):
    """A remote instance, its document as last read and its keys as pinned."""

    __tablename__ = "peer"
    __table_args__ = (sa.Index(None, "instance_id", "base_url"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    instance_id: Mapped[str] = mapped_column(sa.String(36))
    base_url: Mapped[str] = mapped_column(sa.String(300))
    name: Mapped[str] = mapped_column(sa.String(200))
    #: The instance document as last verified, as JSON text.
    document: Mapped[str] = mapped_column(sa.Text)
    document_read_at: Mapped[int] = mapped_column(sa.BigInteger)
    #: When the document was last looked at for an unknown key (at most once in 10 s).
    key_lookup_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: JSON list of fingerprints that a person refused to trust; they are not asked about again.
    refused_keys: Mapped[str] = mapped_column(sa.Text, default="[]")
    #: The peer's limits, from the document.
    max_event_bytes: Mapped[int]
    max_batch_events: Mapped[int]
    max_request_bytes: Mapped[int]
    #: serverTime of the last answer minus our clock, ms.
    clock_skew_ms: Mapped[int | None] = mapped_column(sa.BigInteger)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)

    keys: Mapped[list["PeerKey"]] = relationship(back_populates="peer", order_by="PeerKey.id")


class PeerKey(Model):
    """A pinned public key of a peer."""

    __tablename__ = "peer_key"
    __table_args__ = (sa.UniqueConstraint("peer_id", "key_id"), sa.Index(None, "key_id"))

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    peer_id: Mapped[int] = mapped_column(sa.ForeignKey("peer.id", ondelete="CASCADE"))
    key_id: Mapped[str] = mapped_column(sa.String(64))
    algorithm: Mapped[Algorithm] = mapped_column(state_column(Algorithm))
    public_key_pem: Mapped[str] = mapped_column(sa.Text)
    fingerprint: Mapped[str] = mapped_column(sa.String(64))
    status: Mapped[KeyStatus] = mapped_column(state_column(KeyStatus))
    not_before: Mapped[int] = mapped_column(sa.BigInteger)
    not_after: Mapped[int | None] = mapped_column(sa.BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    vouch_by: Mapped[str | None] = mapped_column(sa.String(64))
    vouch_signature: Mapped[str | None] = mapped_column(sa.Text)

    peer: Mapped[Peer] = relationship(back_populates="keys")
