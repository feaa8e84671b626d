"""Dead letters by peer and reason: how many, of which types, what the peer said, and what helps."""

from dataclasses import dataclass, field

import sqlalchemy as sa

from app.database import db
from app.models import Delivery
from app.protocol.states import DeliveryState
from app.reports.receivers import Receiver, receivers

#: Dead letters that are grouped at most, the newest.
BOUND = 20_000
#: Of an error's text this much is shown, characters; it may be remote text.
_DETAIL_SHOWN = 300

#: What helps, by error code. Anything else may pass when it is tried again.
_HELP = {
    "connection_closed": "A retry goes over an open connection to the same instance, if there is one",
    "discarded": "It was given up here",
    "event_expired": "Publish it again: its time is up by their clock",
    "expired": "A retry may pass once they answer",
    "invalid_request": "The same bytes would be refused again: compare the versions of both sides",
    "message_id_conflict": "They have another event under this id: publish it again",
    "not_subscribed": "Discard, or ask them to subscribe again",
    "payload_invalid": "Correct and publish again; the same bytes would be refused again",
    "replay_gone": "Discard: they do not wait for it any more",
    "too_large": "Publish less in one event: the same bytes would be refused again",
    "unsupported_media_type": "A retry may pass when they run another version",
    "unsupported_version": "A retry may pass when they run another version",
}
_OTHERWISE = "Look at an attempt; a retry may pass when its cause is gone"

#: Codes of refusals that the same bytes would meet again.
HOPELESS = frozenset(
    {"invalid_request", "message_id_conflict", "not_subscribed", "payload_invalid", "too_large"}
)


@dataclass(slots=True)
class DeadGroup:
    """Dead letters of one receiver and one error code. Times are Unix ms."""

    receiver: Receiver
    error: str
    #: What the newest of them was refused with, in one line. Remote text.
    detail: str = ""
    count: int = 0
    first_at: int = 0
    last_at: int = 0
    types: list[str] = field(default_factory=list)

    @property
    def help(self) -> str:
        """What helps."""
        return advice(self.error)


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """All groups, the largest first."""

    groups: list[DeadGroup]
    #: Whether there are older ones than the BOUND that were grouped.
    is_cut_short: bool

    @property
    def total(self) -> int:
        """Dead letters in all groups."""
        return sum(group.count for group in self.groups)


def advice(error: str) -> str:
    """What helps against an error code, in words."""
    return _HELP.get(error, _OTHERWISE)


def group_dead(workspace_id: int) -> DeadGroups:
    """The workspace's dead letters by receiver and error."""
    newest = (
        sa.select(
            Delivery.id,
            Delivery.connection_id,
            Delivery.error_code,
            Delivery.event_type,
            sa.func.coalesce(Delivery.ended_at, Delivery.created_at).label("died"),
        )
        .where(Delivery.workspace_id == workspace_id, Delivery.state == DeliveryState.DEAD)
        .order_by(Delivery.id.desc())
        .limit(BOUND)
        .subquery()
    )
    rows = db.session.execute(
        sa.select(
            newest.c.connection_id,
            newest.c.error_code,
            newest.c.event_type,
            sa.func.count().label("number"),
            sa.func.min(newest.c.died).label("first"),
            sa.func.max(newest.c.died).label("last"),
            sa.func.max(newest.c.id).label("newest"),
        )
        .group_by(newest.c.connection_id, newest.c.error_code, newest.c.event_type)
        .order_by(sa.func.count().desc())
    ).all()
    by_number = receivers([workspace_id], {row.connection_id for row in rows})
    details = _details([row.newest for row in rows])
    groups: dict[tuple[int, str], DeadGroup] = {}
    latest: dict[tuple[int, str], int] = {}
    for row in rows:
        receiver = by_number.get(row.connection_id)
        if receiver is None:
            continue
        key = (row.connection_id, row.error_code or "")
        group = groups.setdefault(key, DeadGroup(receiver, key[1], first_at=row.first))
        group.count += row.number
        group.first_at, group.last_at = min(group.first_at, row.first), max(group.last_at, row.last)
        group.types.append(row.event_type)
        if row.newest > latest.get(key, 0):
            latest[key], group.detail = row.newest, details.get(row.newest, "")
    found = sorted(groups.values(), key=lambda group: (-group.count, group.receiver.name, group.error))
    return DeadGroups(found, sum(row.number for row in rows) >= BOUND)


def _details(numbers: list[int]) -> dict[int, str]:
    rows = db.session.execute(
        sa.select(Delivery.id, Delivery.error_detail).where(Delivery.id.in_(numbers[:5_000]))
    )
    return {number: " ".join((detail or "").split())[:_DETAIL_SHOWN] for number, detail in rows}
