"""Told: which peers know how our keys stand, and telling those that do not.

A change of keys and the rows that say who has to hear of it are one transaction (`owe`). From then on the
rows drive everything: `tell` queues a `keys.changed` wherever the newest word is older than the key's state,
and again where the last one got lost; `acknowledge` settles a row when the peer's signed answer came. So a
process that dies in between leaves nothing to clean up: whoever calls `tell` next, if only the sweep, goes
on.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from app import clock
from app.database import db, table_of, transaction
from app.federation import controls, identity, lifecycle
from app.models import Connection, ControlOut, ControlState, KeyTold, Peer, SigningKey
from app.protocol.control import ControlType, KeysChanged
from app.protocol.keys import KeyStatus
from app.protocol.states import LIVE, OPEN

log = logging.getLogger(__name__)

#: A `keys.changed` that was refused is said again after this, ms.
AGAIN_AFTER_MS = 60_000

_CONNECTION = table_of(Connection)
_TOLD = table_of(KeyTold)


class Adoption(NamedTuple):
    """How many of our live connections know a key."""

    known: int
    of: int


def owe(key: SigningKey, acknowledged: KeyStatus | None) -> None:
    """Note that all live connections have to hear of the key's new status, inside the caller's transaction.

    acknowledged: how those know it that were settled until now; None: not at all. Whoever calls has changed
    the key's row before, which holds back answers that would settle the old status meanwhile.
    """
    known = sa.literal(acknowledged, _TOLD.c.acknowledged.type)
    has_row = sa.exists().where(_TOLD.c.connection_id == _CONNECTION.c.id, _TOLD.c.signing_key_id == key.id)
    db.session.execute(
        sa.insert(_TOLD).from_select(
            ["connection_id", "signing_key_id", "acknowledged", "told"],
            sa.select(_CONNECTION.c.id, sa.literal(key.id), known, known).where(
                _CONNECTION.c.status.in_(LIVE),
                _CONNECTION.c.checked_at.is_not(None),
                _CONNECTION.c.is_seeded.is_(False),
                ~has_row,
            ),
        )
    )


def tell(limit: int = 10_000) -> int:
    """Queue what peers have not been told yet, or not successfully. How many messages. Commits.

    Safe to run twice, and at the same time.
    """
    due = db.session.scalars(
        sa.select(KeyTold.connection_id)
        .join(SigningKey, SigningKey.id == KeyTold.signing_key_id)
        .join(Connection, Connection.id == KeyTold.connection_id)
        .outerjoin(ControlOut, ControlOut.id == KeyTold.control_id)
        .where(Connection.status.in_(LIVE), _is_due())
        .distinct()
        .limit(limit)
    ).all()
    db.session.rollback()
    return sum(tell_one(connection_id) for connection_id in due)


def tell_one(connection_id: int) -> bool:
    """Queue what the connection's peer has not been told yet; whether there was anything. Commits, or joins
    the caller's transaction.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status not in LIVE:
            return False
        due = db.session.execute(
            sa.select(KeyTold, SigningKey)
            .join(SigningKey, SigningKey.id == KeyTold.signing_key_id)
            .outerjoin(ControlOut, ControlOut.id == KeyTold.control_id)
            .where(KeyTold.connection_id == connection_id, _is_due())
            .order_by(SigningKey.id)
            .execution_options(populate_existing=True)
        ).all()
        if not due:
            return False
        _queue(connection, [row.SigningKey for row in due], [row.KeyTold for row in due])
        return True


def acknowledge(connection: Connection, control: ControlOut) -> None:
    """Note that the peer took this `keys.changed`, inside the caller's transaction.

    What waited for it goes.
    """
    said = {record["keyId"]: KeyStatus(record["status"]) for record in controls.payload_of(control)["keys"]}
    # Held against a change of the key: it would settle a row that the change has just made due again.
    keys = db.session.scalars(
        sa.select(SigningKey)
        .where(SigningKey.key_id.in_(said))
        .order_by(SigningKey.id)
        .with_for_update(read=True)
        .execution_options(populate_existing=True)
    ).all()
    for key in keys:
        this = sa.and_(KeyTold.connection_id == connection.id, KeyTold.signing_key_id == key.id)
        if said[key.key_id] is key.status:
            db.session.execute(sa.delete(KeyTold).where(this))
        else:
            db.session.execute(sa.update(KeyTold).where(this).values(acknowledged=said[key.key_id]))
    log.info("keys.acknowledged", extra={"connection_id": connection.id, "key_ids": sorted(said)})
    controls.drain_after_commit(connection.id)


def withheld_key_ids(connection_id: int) -> list[str]:
    """What is signed by these keys must not go over the connection yet.

    Those that its peer does not know; and while the key in use is one of them, those that were revoked, since
    what they signed is signed again by the key in use.
    """
    unknown = _unknown(connection_id)
    rows = db.session.execute(
        sa.select(SigningKey.key_id, SigningKey.status, unknown.label("unknown")).where(
            sa.or_(unknown, SigningKey.status == KeyStatus.REVOKED)
        )
    ).all()
    waits = any(row.unknown and row.status is KeyStatus.ACTIVE for row in rows)
    return [row.key_id for row in rows if row.unknown or waits]


def adoption() -> dict[str, Adoption]:
    """For each of our keys, by keyId, how many of the live connections know it."""
    live = sa.and_(Connection.status.in_(LIVE), Connection.checked_at.is_not(None))
    total = db.session.scalar(sa.select(sa.func.count()).select_from(Connection).where(live)) or 0
    missing = dict(
        db.session.execute(
            sa.select(KeyTold.signing_key_id, sa.func.count())
            .join(Connection, Connection.id == KeyTold.connection_id)
            .where(live, KeyTold.acknowledged.is_(None))
            .group_by(KeyTold.signing_key_id)
        ).all()
    )
    keys = db.session.execute(sa.select(SigningKey.id, SigningKey.key_id))
    return {key_id: Adoption(total - missing.get(number, 0), total) for number, key_id in keys}


class Unaware(NamedTuple):
    """An open connection whose peer has not acknowledged a key."""

    connection_id: int
    control_id: int | None
    base_url: str


def unaware(key: SigningKey) -> list[Unaware]:
    """The open connections whose peers do not know the key yet."""
    rows = db.session.execute(
        sa.select(KeyTold.connection_id, KeyTold.control_id, Peer.base_url)
        .join(Connection, Connection.id == KeyTold.connection_id)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            KeyTold.signing_key_id == key.id,
            KeyTold.acknowledged.is_(None),
            Connection.status.in_(OPEN),
        )
        .order_by(KeyTold.connection_id)
    ).all()
    return [Unaware(*row) for row in rows]


def _is_due() -> sa.ColumnElement[bool]:
    """Never told of the present status; or told, but the message has come to nothing."""
    lost = sa.or_(
        ControlOut.id.is_(None),
        ControlOut.state == ControlState.GIVEN_UP,
        sa.and_(
            ControlOut.state == ControlState.REFUSED,
            ControlOut.next_attempt_at <= clock.now_ms() - AGAIN_AFTER_MS,
        ),
    )
    return sa.or_(KeyTold.told.is_(None), KeyTold.told != SigningKey.status, lost)


def _unknown(connection_id: int) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        _TOLD.c.connection_id == connection_id,
        _TOLD.c.signing_key_id == SigningKey.id,
        _TOLD.c.acknowledged.is_(None),
    )


def _queue(connection: Connection, keys: Sequence[SigningKey], rows: Sequence[Any]) -> None:
    """One `keys.changed` with these keys."""
    control = controls.queue_control(
        connection,
        ControlType.KEYS_CHANGED,
        KeysChanged(tuple(identity.record_of(key) for key in keys)),
    )
    for row, key in zip(rows, keys, strict=True):
        row.told = key.status
        row.control_id = control.id
    db.session.flush()
