"""Connections as a table of peers: those that need somebody first, each with its health by direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import joinedload, selectinload

from app.database import db, table_of
from app.models import Connection, Direction, Peer, PeerKey, Stream
from app.protocol.keys import KeyStatus
from app.protocol.states import ENDED, ConnectionStatus
from app.reports.ailments import is_lost
from app.reports.connections import count_waiting, is_visible
from app.reports.paging import ListKey, Page, cut, read_cursor, write_cursor
from app.reports.strips import Strips, strips
from app.reports.words import visible

#: Deliveries counted for a connection at most.
WAITING_CAP = 1_000

_CONNECTION = table_of(Connection)


class Shown(NamedTuple):
    """How a connection stands, in one word: a state with a look of its own, and the word if it is another."""

    state: str
    word: str | None = None


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One connection as a row of the table. Names and hosts are remote text."""

    connection: Connection
    shown: Shown
    name: str
    host: str
    #: That the peer signs with.
    key: PeerKey | None
    #: Deliveries that wait, up to WAITING_CAP + 1.
    waiting: int
    #: Events of the peer that have not come, as far as the numbers tell.
    missing: int
    strips: Strips

    @property
    def has_traffic(self) -> bool:
        """Whether events could ever flow."""
        return self.connection.activated_at is not None


#: The tabs: name in the URL, and the connections that it shows.
_FAILING = sa.and_(
    _CONNECTION.c.status == ConnectionStatus.ACTIVE,
    sa.or_(
        _CONNECTION.c.failures > 0,
        _CONNECTION.c.breaker_opened_at.is_not(None),
        _CONNECTION.c.hold_code.is_not(None),
        _CONNECTION.c.key_review.is_(True),
    ),
)
TABS: dict[str, sa.ColumnElement[bool]] = {
    "all": sa.true(),
    "in": _CONNECTION.c.status == ConnectionStatus.PENDING,
    "out": _CONNECTION.c.status == ConnectionStatus.REQUESTED,
    "active": sa.and_(_CONNECTION.c.status == ConnectionStatus.ACTIVE, sa.not_(_FAILING)),
    "failing": _FAILING,
    "suspended": _CONNECTION.c.status == ConnectionStatus.SUSPENDED,
    "closed": _CONNECTION.c.status.in_(ENDED),
}

#: Requests to us, what fails, what runs, what is stopped, what waits for the peer, and what has ended.
_ORDER = ("in", "failing", "active", "suspended", "out")
_RANK = sa.case(*((TABS[name], place) for place, name in enumerate(_ORDER)), else_=len(_ORDER))


def list_peers(
    workspace_id: int, show: str = "all", *, limit: int = 25, cursor: str | None = None
) -> Page[PeerRow]:
    """The workspace's connections of one tab, or those that are `live`, those that need somebody first.

    Raises InvalidCursor.
    """
    key = ListKey("peers", workspace_id, {"show": show})
    after = read_cursor(key, cursor, 2)
    query = (
        sa.select(Connection, _RANK)
        .options(joinedload(Connection.peer).options(selectinload(Peer.keys)))
        .where(Connection.workspace_id == workspace_id, is_visible(), _chosen(show))
    )
    if after is not None:
        rank, number = map(sa.literal, after)
        later = sa.and_(rank == _RANK, Connection.id < number)
        query = query.where(sa.or_(rank < _RANK, later))
    rows, more = cut(
        db.session.execute(query.order_by(_RANK, Connection.id.desc()).limit(limit + 1)).all(), limit
    )
    following = write_cursor(key, [rows[-1][1], rows[-1][0].id]) if more else None
    return Page(peer_rows([row[0] for row in rows]), following, more)


def _chosen(show: str) -> sa.ColumnElement[bool]:
    return sa.not_(TABS["closed"]) if show == "live" else TABS[show]


def peer_rows(connections: Sequence[Connection]) -> list[PeerRow]:
    """Rows of these connections, in their order."""
    ids = [connection.id for connection in connections]
    waiting, missing, health = count_waiting(ids, WAITING_CAP + 1), _missing(ids), strips(ids)
    return [
        PeerRow(
            connection,
            shown(connection),
            name_of(connection),
            host_of(connection),
            key_of(connection.peer),
            waiting.get(connection.id, 0),
            missing.get(connection.id, 0),
            health[connection.id],
        )
        for connection in connections
    ]


def tab_counts(workspace_id: int) -> dict[str, int]:
    """How many connections each tab shows."""
    numbers = [sa.func.coalesce(sa.func.sum(sa.case((tab, 1), else_=0)), 0) for tab in TABS.values()]
    row = db.session.execute(
        sa.select(*numbers).where(_CONNECTION.c.workspace_id == workspace_id, is_visible())
    ).one()
    return dict(zip(TABS, row, strict=True))


def shown(connection: Connection) -> Shown:
    """How the connection stands, worst first."""
    match connection.status:
        case ConnectionStatus.PENDING:
            return Shown("pending", "wants to connect")
        case ConnectionStatus.ACTIVE:
            return _shown_active(connection)
    return Shown(connection.status.value)


def _shown_active(connection: Connection) -> Shown:
    if connection.key_review:
        return Shown("failed", "key review")
    if is_lost(connection):
        return Shown("failed", "lost by them")
    if connection.hold_code is not None:
        return Shown("failed", "stopped")
    if connection.breaker_opened_at is not None or connection.failures:
        return Shown("failing")
    if connection.paused_outgoing or connection.paused_incoming:
        return Shown("paused", "paused here")
    return Shown("active")


def key_of(peer: Peer | None) -> PeerKey | None:
    """The key that the peer signs with; the last one that it had if none is active."""
    keys: list[PeerKey] = peer.keys if peer else []
    active = [key for key in keys if key.status is KeyStatus.ACTIVE] or keys
    return active[-1] if active else None


def name_of(connection: Connection) -> str:
    """What the peer calls itself, made harmless to read; its address while nothing of it was read."""
    return visible(connection.peer.name) if connection.peer else host_of(connection)


def host_of(connection: Connection) -> str:
    """Host and port of the peer's address."""
    url = connection.peer.base_url if connection.peer else connection.claimed_base_url
    return (url or "unknown").partition("://")[2] or "unknown"


def _missing(connection_ids: Sequence[int]) -> dict[int, int]:
    """Numbers up to the head of the current incoming stream that are not yet whole."""
    newest = (
        sa.select(sa.func.max(Stream.id))
        .where(Stream.connection_id.in_(connection_ids), Stream.direction == Direction.INCOMING)
        .group_by(Stream.connection_id)
    )
    rows = db.session.execute(
        sa.select(Stream.connection_id, Stream.head_sequence - Stream.contiguous).where(
            Stream.id.in_(newest), Stream.hole_since.is_not(None)
        )
    )
    return {connection_id: number for connection_id, number in rows}
