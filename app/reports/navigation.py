"""What the rail of every page counts: a handful of small, capped look-ups."""

from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from app.database import db
from app.models import Connection, Delivery, Direction, Subscription
from app.protocol.states import ConnectionStatus, DeliveryState, SubscriptionStatus
from app.reports.connections import is_visible

#: Counted no further: a rail says "999+".
CAP = 999


class Count(NamedTuple):
    """A count beside an entry: its text, its tone, and what is counted."""

    text: str
    tone: str
    noun: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What waits in a workspace, each up to CAP."""

    requests: int
    approvals: int
    key_reviews: int
    pending: int
    sending: int
    dead: int

    def by_entry(self) -> dict[str, Count]:
        """Counts by the entry of the rail; what is zero is left out."""
        entries = {
            "connections": Count(
                _text(self.requests + self.key_reviews), "wait", _noun(self.requests, "request to review")
            ),
            "subscriptions": Count(_text(self.approvals), "wait", "to approve"),
            "deliveries": Count(_text(self.pending + self.sending), "off", "waiting"),
            "dead_letters": Count(_text(self.dead), "bad", _noun(self.dead, "dead letter")),
        }
        return {name: count for name, count in entries.items() if count.text != "0"}


NOTHING = Counts(0, 0, 0, 0, 0, 0)


def counts(workspace_id: int) -> Counts:
    """The counts of a workspace, in one statement of six capped parts."""
    connections = sa.select(Connection.id).where(Connection.workspace_id == workspace_id)
    deliveries = sa.select(Delivery.id).where(Delivery.workspace_id == workspace_id)
    approvals = sa.select(Subscription.id).where(
        Subscription.workspace_id == workspace_id,
        Subscription.direction == Direction.OUTGOING,
        Subscription.status == SubscriptionStatus.PENDING,
    )
    parts = (
        connections.where(Connection.status == ConnectionStatus.PENDING, is_visible()),
        approvals,
        connections.where(Connection.status == ConnectionStatus.ACTIVE, Connection.key_review.is_(True)),
        deliveries.where(Delivery.state == DeliveryState.PENDING),
        deliveries.where(Delivery.state == DeliveryState.SENDING),
        deliveries.where(Delivery.state == DeliveryState.DEAD),
    )
    capped = [
        sa.select(sa.func.count()).select_from(part.limit(CAP).subquery()).scalar_subquery() for part in parts
    ]
    return Counts(*db.session.execute(sa.select(*capped)).one())


def _text(value: int) -> str:
    return f"{CAP}+" if value >= CAP else str(value)


def _noun(value: int, noun: str) -> str:
    return noun if value == 1 else f"{noun}s"
