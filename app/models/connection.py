"""Connections: agreements between one of our workspaces and a workspace of a peer."""

from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.database import Model, RowId, state_column
from app.models.peer import Peer
from app.models.workspace import Workspace
from app.protocol.states import ConnectionStatus


class Direction(StrEnum):
    """Of a connection: who asked. Of events and subscriptions: where the events go."""

    INCOMING = "incoming"
    OUTGOING = "outgoing"


class Connection(Model):
    """One connection, its state, and the two leases that keep one sender at a time."""

    __tablename__ = "connection"
    __table_args__ = (
        #: Looked up as (sender, connectionId); the requester mints the second.
        sa.UniqueConstraint("peer_id", "wire_connection_id"),
        sa.Index(None, "wire_connection_id"),
        sa.Index(None, "workspace_id", "status", "id"),
        sa.Index(None, "workspace_id", "id"),
        sa.Index(None, "status", "retry_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    public_id: Mapped[str] = mapped_column(sa.String(36), unique=True)
    workspace_id: Mapped[int] = mapped_column(sa.ForeignKey("workspace.id"))
    #: None only while the document of a stranger's request was not read yet.
    peer_id: Mapped[int | None] = mapped_column(sa.ForeignKey("peer.id"))
    #: protocol.md's connectionId, the same on both sides.
    wire_connection_id: Mapped[str] = mapped_column(sa.String(36))
    #: OUTGOING: we asked.
    direction: Mapped[Direction] = mapped_column(state_column(Direction))
    status: Mapped[ConnectionStatus] = mapped_column(state_column(ConnectionStatus))
    suspended_by_me: Mapped[bool] = mapped_column(default=False)
    suspended_by_peer: Mapped[bool] = mapped_column(default=False)

    # The request
    #: Who a stranger's request claims to be, until (and after) it was checked.
    claimed_instance_id: Mapped[str | None] = mapped_column(sa.String(36))
    claimed_base_url: Mapped[str | None] = mapped_column(sa.String(300))
    #: messageId of the `connection.request`, which accept and reject name.
    request_message_id: Mapped[str] = mapped_column(sa.String(36))
    #: A stranger's request as it came, until it is checked: JSON {"headers", "target", "body", "at"}.
    request_evidence: Mapped[str | None] = mapped_column(sa.Text)
    #: When the claimed document bore the request out; a request that was not checked is shown to nobody.
    checked_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: JSON {"versions": [...], "features": [...]} as offered by the requester.
    offer: Mapped[str] = mapped_column(sa.Text, default="{}")
    to_workspace: Mapped[str | None] = mapped_column(sa.String(64))
    remote_workspace_slug: Mapped[str | None] = mapped_column(sa.String(64))
    remote_workspace_name: Mapped[str | None] = mapped_column(sa.String(200))
    note: Mapped[str | None] = mapped_column(sa.Text)
    #: Why it was rejected, suspended or closed, in the words of whoever did it.
    reason: Mapped[str | None] = mapped_column(sa.Text)
    #: BASE_URL of this instance as the peer knows it; None if that was not kept.
    our_base_url: Mapped[str | None] = mapped_column(sa.String(300))
    #: Agreed at accept.
    version: Mapped[str | None] = mapped_column(sa.String(16))
    #: JSON list of the features agreed at accept.
    features: Mapped[str] = mapped_column(sa.Text, default="[]")
    #: The open connection that this one replaces when it is accepted.
    replaces_id: Mapped[int | None] = mapped_column(sa.ForeignKey("connection.id"))

    # What holds it
    #: Made up by `flask seed`: there is nobody at the other end, and nothing is ever sent.
    is_seeded: Mapped[bool] = mapped_column(default=False, server_default=sa.false())
    #: What comes in is taken until then although the status alone would refuse it: we sent an accept or a
    #: resume, or announced a suspension and wait for its ack.
    inbound_open_until: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: The peer signs with a key that no chain of vouches reaches; a person decides.
    key_review: Mapped[bool] = mapped_column(default=False)
    #: Error code of the peer's answer that holds the queue until a person acts, and since when.
    hold_code: Mapped[str | None] = mapped_column(sa.String(64))
    hold_detail: Mapped[str | None] = mapped_column(sa.Text)
    hold_since: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: Since when the peer answers that it does not know the connection (`access_denied`); None: it knows it.
    denied_since: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: A local pause, told to nobody.
    paused_outgoing: Mapped[bool] = mapped_column(default=False)
    paused_incoming: Mapped[bool] = mapped_column(default=False)
    #: Failed requests in a row, and when the next may go.
    failures: Mapped[int] = mapped_column(default=0)
    retry_at: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Those of the failures in a row that were no answer, or a 5xx; five of them open the breaker.
    network_failures: Mapped[int] = mapped_column(default=0)
    #: Answers in a row that asked for a wait (429, 503) and did not say how long: each next wait is longer.
    untold_waits: Mapped[int] = mapped_column(default=0, server_default="0")
    #: When the breaker opened, None while it is closed.
    breaker_opened_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: What the wait until `retry_at` comes from: code and words of the latest failure, or of what was told.
    wait_code: Mapped[str | None] = mapped_column(sa.String(64))
    wait_detail: Mapped[str | None] = mapped_column(sa.Text)

    # Counters and leases
    #: controlSequence of the last message that we made, and of the last that came in.
    last_control_out: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    last_control_in: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: Who sends events now (`host:pid:start`), and until when it may hold that.
    drain_owner: Mapped[str | None] = mapped_column(sa.String(128))
    drain_lease_until: Mapped[int] = mapped_column(sa.BigInteger, default=0)
    #: The same for control messages.
    control_owner: Mapped[str | None] = mapped_column(sa.String(128))
    control_lease_until: Mapped[int] = mapped_column(sa.BigInteger, default=0)

    # Seen
    #: When a person compared the pairing code, and how (JSON {"by", "reason"}).
    verified_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    verified_how: Mapped[str | None] = mapped_column(sa.Text)
    #: The peer's clock minus ours as its latest answer told it, ms, and when that was.
    clock_skew_ms: Mapped[int | None] = mapped_column(sa.BigInteger)
    clock_skew_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    #: Written at most once a second each.
    last_received_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    last_delivered_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    activated_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    closed_at: Mapped[int | None] = mapped_column(sa.BigInteger)
    created_at: Mapped[int] = mapped_column(sa.BigInteger)
    updated_at: Mapped[int] = mapped_column(sa.BigInteger)

    peer: Mapped[Peer | None] = relationship()
    workspace: Mapped[Workspace] = relationship()
