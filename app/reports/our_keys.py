"""Our own keys as people look at them, and how far a change of them has come."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from app.database import db
from app.federation import identity, told
from app.federation.told import Adoption
from app.models import Connection, ControlOut, KeyTold, Peer, SigningKey
from app.protocol.errors import NotFound
from app.protocol.keys import Algorithm, KeyStatus
from app.protocol.states import OPEN
from app.reports.words import visible

#: Peers named on the page at most.
_NAMED = 200

#: Algorithms as people call them.
WORDS = {Algorithm.RSA: "RSA", Algorithm.ED25519: "Ed25519"}


class OurKey(NamedTuple):
    """One key of ours, and how many of the live connections know it."""

    key: SigningKey
    adoption: Adoption


class Holder(NamedTuple):
    """An open connection, and whether its peer has a key."""

    connection_id: str
    workspace_id: int
    name: str
    has_it: bool
    #: How often it was told in vain, and the last reason; 0 and None if it was not told yet, or has it.
    attempts: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Rotation:
    """The key in use, the one that follows it, and who does not have the newer of the two."""

    active: SigningKey
    following: SigningKey | None
    holders: list[Holder]
    #: Of all open connections, whether they are named or not.
    lacking: int
    #: Open connections of workspaces that the reader is not in.
    hidden: int

    @property
    def newest(self) -> SigningKey:
        """The key that peers have to learn of."""
        return self.following or self.active

    @property
    def stragglers(self) -> list[Holder]:
        """Those that do not have it, as far as they are named."""
        return [holder for holder in self.holders if not holder.has_it]


def our_keys() -> list[OurKey]:
    """All our keys, the newest first."""
    adoption = told.adoption()
    return [OurKey(key, adoption[key.key_id]) for key in identity.list_keys()]


def our_key(key_id: str) -> SigningKey:
    """One of our keys. Raises NotFound."""
    found = db.session.scalar(sa.select(SigningKey).where(SigningKey.key_id == key_id))
    if found is None:
        raise NotFound("This instance has no such key.")
    return found


def rotation(workspace_ids: Collection[int]) -> Rotation | None:
    """How far a change of keys has come; None before there is a key in use.

    Peers are named only to members of their workspace.
    """
    keys = identity.list_keys()
    active = next((key for key in keys if key.status is KeyStatus.ACTIVE), None)
    if active is None:
        return None
    following = next((key for key in keys if key.status is KeyStatus.NEXT), None)
    newest = following or active
    holders = _holders(newest)
    named = [holder for holder in holders if holder.workspace_id in workspace_ids]
    return Rotation(active, following, named[:_NAMED], len(told.unaware(newest)), len(holders) - len(named))


def _holders(key: SigningKey) -> list[Holder]:
    rows = db.session.execute(
        sa.select(
            Connection.public_id,
            Connection.workspace_id,
            Peer.name,
            KeyTold.connection_id,
            ControlOut.attempts,
            ControlOut.error_code,
        )
        .join(Peer, Peer.id == Connection.peer_id)
        .outerjoin(
            KeyTold,
            sa.and_(
                KeyTold.connection_id == Connection.id,
                KeyTold.signing_key_id == key.id,
                KeyTold.acknowledged.is_(None),
            ),
        )
        .outerjoin(ControlOut, ControlOut.id == KeyTold.control_id)
        .where(Connection.status.in_(OPEN))
        .order_by(KeyTold.connection_id.is_(None), Connection.id)
        .limit(2_000)
    )
    return [
        Holder(public_id, workspace_id, visible(name), owed is None, attempts or 0, error)
        for public_id, workspace_id, name, owed, attempts, error in rows
    ]
