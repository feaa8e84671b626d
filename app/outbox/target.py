"""Target: what a drain knows of the connection that it sends over, and whether it may send now."""

from typing import NamedTuple

import sqlalchemy as sa

from app.database import db, table_of
from app.federation.lifecycle import sending_clause
from app.models import Connection, Direction, KeyTold, Peer, PeerKey, Replay, ReplayState, SigningKey
from app.protocol.keys import KeyRecord, KeyStatus

_CONNECTION = table_of(Connection)
_PEER = table_of(Peer)
_TOLD = table_of(KeyTold)
_KEY = table_of(SigningKey)
_REPLAY = table_of(Replay)


class Target(NamedTuple):
    """A connection, read as plain values: no session, no lazy loading on the hot path."""

    connection_id: int
    workspace_id: int
    wire_connection_id: str
    peer_id: int
    instance_id: str
    base_url: str
    max_event_bytes: int
    max_batch_events: int
    max_request_bytes: int
    may_send: bool
    #: Whether failures, an open breaker or a wait are noted, which an answer ends.
    is_ailing: bool
    #: The breaker is open: one request with one event tries whether the peer is back.
    is_probe: bool
    retry_at: int
    #: Answers in a row that asked for a wait and did not say how long.
    untold_waits: int
    last_delivered_at: int
    #: When the peer's clock was last noted.
    clock_skew_at: int
    #: What the peer's clock showed at its latest answer, ms: it is that late at least, whatever ours shows.
    told_time: int
    #: The peer has not acknowledged one of our keys yet: what is signed by that waits.
    has_unknown_key: bool
    #: The peer asked for a replay, which is not complete.
    has_replay: bool
    #: keyId of our key in use, as the database has it now; a process notices a change only after a moment.
    key_in_use: str | None


_READ = (
    sa.select(
        _CONNECTION.c.id,
        _CONNECTION.c.workspace_id,
        _CONNECTION.c.wire_connection_id,
        _PEER.c.id,
        _PEER.c.instance_id,
        _PEER.c.base_url,
        _PEER.c.max_event_bytes,
        _PEER.c.max_batch_events,
        _PEER.c.max_request_bytes,
        sending_clause().label("may_send"),
        sa.or_(
            _CONNECTION.c.failures > 0,
            _CONNECTION.c.retry_at > 0,
            _CONNECTION.c.denied_since.is_not(None),
        ).label("is_ailing"),
        _CONNECTION.c.breaker_opened_at.is_not(None).label("is_probe"),
        _CONNECTION.c.retry_at,
        _CONNECTION.c.untold_waits,
        sa.func.coalesce(_CONNECTION.c.last_delivered_at, 0),
        sa.func.coalesce(_CONNECTION.c.clock_skew_at, 0),
        sa.func.coalesce(_CONNECTION.c.clock_skew_at + _CONNECTION.c.clock_skew_ms, 0),
        sa.exists().where(_TOLD.c.connection_id == _CONNECTION.c.id, _TOLD.c.acknowledged.is_(None)),
        sa.exists().where(
            _REPLAY.c.connection_id == _CONNECTION.c.id,
            _REPLAY.c.direction == Direction.OUTGOING,
            _REPLAY.c.state == ReplayState.RUNNING,
        ),
        sa.select(_KEY.c.key_id).where(_KEY.c.status == KeyStatus.ACTIVE).limit(1).scalar_subquery(),
    )
    .join_from(_CONNECTION, _PEER, _CONNECTION.c.peer_id == _PEER.c.id)
    .where(_CONNECTION.c.id == sa.bindparam("connection_id"))
)


def read_target(connection_id: int) -> Target | None:
    """The connection as it is now; None if it is unknown or its peer is not known yet."""
    row = db.session.connection().execute(_READ, {"connection_id": connection_id}).one_or_none()
    return None if row is None else Target(*row)


_KEY_COLUMNS = [table_of(PeerKey).c[name] for name in KeyRecord.__dataclass_fields__]
_KEYS = sa.select(*_KEY_COLUMNS).where(table_of(PeerKey).c.peer_id == sa.bindparam("peer_id"))


def pinned_keys(peer_id: int) -> dict[str, KeyRecord]:
    """The pinned keys of a peer by keyId, whatever their status."""
    rows = db.session.connection().execute(_KEYS, {"peer_id": peer_id})
    return {row.key_id: KeyRecord(*row) for row in rows}
