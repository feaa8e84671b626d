"""Receivers: connections as lists of deliveries and jobs name them, and whether they send now and why not."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.database import db
from app.models import Connection, Peer, Workspace
from app.protocol.states import ENDED, ConnectionStatus
from app.reports.connections import is_visible

#: Names are remote text; of a longer one this much is shown in a row, characters.
_NAME_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Receiver:
    """One connection. Times are Unix ms."""

    number: int
    #: Public id.
    id: str
    #: What the peer calls itself, or its address.
    name: str
    workspace: str
    #: active, failing, paused, held, key_review, or the status of one that is not active.
    condition: str
    #: Why nothing is sent now, and what helps; empty while it is sent.
    obstacle: str
    #: Failed requests in a row, and when the next may go.
    failures: int
    retry_at: int
    #: The next request is a probe: the breaker is open.
    is_probed: bool
    #: What the wait until `retry_at` comes from: an error's code and words. Remote text.
    wait_code: str
    wait_detail: str

    @property
    def sends(self) -> bool:
        """Whether deliveries go out now, but for a wait after failures."""
        return not self.obstacle

    @property
    def is_ended(self) -> bool:
        """Whether nothing goes over it any more."""
        return self.condition in tuple(ENDED)


_COLUMNS = (
    Connection.id,
    Connection.public_id,
    Connection.status,
    Connection.key_review,
    Connection.hold_code,
    Connection.hold_detail,
    Connection.paused_outgoing,
    Connection.failures,
    Connection.retry_at,
    Connection.breaker_opened_at,
    Connection.wait_code,
    Connection.wait_detail,
    Connection.claimed_base_url,
    Peer.name,
    Peer.base_url,
    Workspace.slug,
)


def receivers(workspace_ids: Collection[int], numbers: Collection[int]) -> dict[int, Receiver]:
    """Connections by row number; those of other workspaces are left out."""
    if not numbers:
        return {}
    return {row.id: _receiver(row) for row in _read(workspace_ids, Connection.id.in_(numbers))}


def receivers_by_id(workspace_id: int, ids: Collection[str]) -> dict[str, Receiver]:
    """Connections of a workspace by public id."""
    if not ids:
        return {}
    return {row.public_id: _receiver(row) for row in _read([workspace_id], Connection.public_id.in_(ids))}


def list_receivers(workspace_id: int, most: int = 200) -> list[Receiver]:
    """The workspace's connections over which something was ever sent or may be, for a choice; by name."""
    accepted = Connection.status.not_in(
        (ConnectionStatus.REQUESTED, ConnectionStatus.PENDING, ConnectionStatus.REJECTED)
    )
    rows = _read([workspace_id], accepted, most)
    return sorted(map(_receiver, rows), key=lambda each: (each.is_ended, each.name.lower(), each.number))


def receivers_of_peers(workspace_ids: Collection[int], peer_ids: Collection[int]) -> dict[int, Receiver]:
    """The newest connection to each peer, by the peer's row number."""
    if not peer_ids:
        return {}
    newest = (
        sa.select(Connection.peer_id, sa.func.max(Connection.id))
        .where(Connection.peer_id.in_(peer_ids), Connection.workspace_id.in_(workspace_ids))
        .group_by(Connection.peer_id)
    )
    pairs = {peer: number for peer, number in db.session.execute(newest)}
    found = receivers(workspace_ids, list(pairs.values()))
    return {peer: found[number] for peer, number in pairs.items() if peer and number in found}


def _read(
    workspace_ids: Collection[int], chosen: sa.ColumnElement[bool], most: int | None = None
) -> list[Any]:
    query = (
        sa.select(*_COLUMNS)
        .join(Workspace, Workspace.id == Connection.workspace_id)
        .outerjoin(Peer, Peer.id == Connection.peer_id)
        .where(Connection.workspace_id.in_(workspace_ids), is_visible(), chosen)
        .order_by(Connection.id.desc())
        .limit(most)
    )
    return [*db.session.execute(query).all()]


def _receiver(row: sa.Row[Any]) -> Receiver:
    condition, obstacle = _condition(row)
    return Receiver(
        number=row.id,
        id=row.public_id,
        name=(row.name or row.base_url or row.claimed_base_url or "unknown")[:_NAME_SHOWN],
        workspace=row.slug,
        condition=condition,
        obstacle=obstacle,
        failures=row.failures,
        retry_at=row.retry_at,
        is_probed=row.breaker_opened_at is not None,
        wait_code=row.wait_code or "",
        wait_detail=row.wait_detail or "",
    )


def _condition(row: sa.Row[Any]) -> tuple[str, str]:
    """A word for it, and why nothing is sent. The first that is so counts."""
    if row.status is ConnectionStatus.SUSPENDED:
        return "suspended", "the connection is suspended: resume it first"
    if row.status is not ConnectionStatus.ACTIVE:
        return row.status.value, f"the connection is {row.status.value}"
    if row.key_review:
        return "key_review", "the peer signs with a key that nobody vouched for: review it first"
    if row.hold_code is not None:
        return "held", f"the peer answered {row.hold_code}, and a person has to look"
    if row.paused_outgoing:
        return "paused", "sending is paused here: unpause the connection first"
    return ("failing" if row.failures else "active"), ""
