"""Resign: a further signature for events that cannot be sent with the one they have.

Those whose key was revoked before they arrived, or lost, are signed again by the key in use. The messageId
stays, so a peer that has the event already answers `duplicate`. The former signature is kept, for receipts
may speak of it.

Those that share a signature (§1.3) are signed by themselves for a peer that does not take that; the event
keeps the shared one, and its own stands beside it.

Both happen when they are taken up, wherever they were waiting and whenever that is: in the queue, or as a
dead letter that somebody sends again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.database import db, table_of
from app.federation.identity import signer, signer_named
from app.models import Event, EventSignature, SigningKey
from app.protocol.canonical import canonical, loads
from app.protocol.keys import KeyStatus
from app.protocol.signing import Kind, Signer, body_input, digest

_EVENT = table_of(Event)
_FORMER = table_of(EventSignature)
_KEY = table_of(SigningKey)

_READ = (
    sa.select(
        _EVENT.c.id, _EVENT.c.body, _EVENT.c.signature, _EVENT.c.proof, _EVENT.c.key_id, _EVENT.c.digest
    )
    .where(_EVENT.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(_EVENT.c.id)
    .with_for_update()
)
_WRITE = (
    sa.update(_EVENT)
    .where(_EVENT.c.id == sa.bindparam("event"))
    .values(
        body=sa.bindparam("to_body"),
        signature=sa.bindparam("to_signature"),
        proof=sa.null(),
        key_id=sa.bindparam("to_key"),
        digest=sa.bindparam("to_digest"),
    )
)


class Signed(NamedTuple):
    """What changes when an event is signed again."""

    body: str
    signature: str
    proof: str | None
    key_id: str
    digest: str


def revoked_among(key_ids: set[str]) -> set[str]:
    """Those whose word counts no more: keys of ours that are revoked, or that we know no more."""
    if not key_ids:
        return set()
    good = db.session.connection().execute(
        sa.select(_KEY.c.key_id).where(_KEY.c.key_id.in_(key_ids), _KEY.c.status != KeyStatus.REVOKED)
    )
    return key_ids - set(good.scalars())


def sign_again(event_ids: Sequence[int]) -> dict[int, Signed]:
    """Sign these events of ours by the key in use, each {event id: what it has now}.

    Called inside `transaction()`. An event that another drain has signed meanwhile is left as that left it.
    """
    ours = signer(fresh=True)
    connection = db.session.connection()
    rows = connection.execute(_READ, {"ids": sorted(set(event_ids))}).all()
    revoked = revoked_among({row.key_id for row in rows})
    made = {row.id: _signed(ours, row.body) for row in rows if row.key_id in revoked}
    if made:
        connection.execute(
            sa.insert(_FORMER),
            [
                {
                    "event_id": row.id,
                    "key_id": row.key_id,
                    "is_shared": row.proof is not None,
                    "body": row.body,
                    "signature": row.signature,
                    "proof": row.proof,
                    "digest": row.digest,
                }
                for row in rows
                if row.id in made
            ],
        )
        connection.execute(
            _WRITE,
            [
                {
                    "event": event_id,
                    "to_body": signed.body,
                    "to_signature": signed.signature,
                    "to_key": signed.key_id,
                    "to_digest": signed.digest,
                }
                for event_id, signed in made.items()
            ],
        )
    untouched = {
        row.id: Signed(row.body, row.signature, row.proof, row.key_id, row.digest)
        for row in rows
        if row.id not in made
    }
    return made | untouched


_READ_ALONE = sa.select(
    _FORMER.c.event_id, _FORMER.c.body, _FORMER.c.signature, _FORMER.c.key_id, _FORMER.c.digest
).where(
    _FORMER.c.event_id.in_(sa.bindparam("ids", expanding=True)),
    _FORMER.c.is_shared.is_(False),
    sa.exists().where(_EVENT.c.id == _FORMER.c.event_id, _EVENT.c.key_id == _FORMER.c.key_id),
)


def sign_alone(event_ids: Sequence[int]) -> dict[int, Signed]:
    """A signature of its own for each of these events that share one, {event id: what is sent}.

    Called inside `transaction()`. It is made once, whatever the number of peers, and by the same key.
    """
    ids = sorted(set(event_ids))
    connection = db.session.connection()
    rows = {row.id: row for row in connection.execute(_READ, {"ids": ids})}
    kept = {
        row.event_id: Signed(row.body, row.signature, None, row.key_id, row.digest)
        for row in connection.execute(_READ_ALONE, {"ids": ids})
    }
    made = {
        row.id: Signed(
            row.body,
            signer_named(row.key_id).sign_body(Kind.EVENT, row.body.encode()),
            None,
            row.key_id,
            row.digest,
        )
        for row in rows.values()
        if row.id not in kept
    }
    if made:
        connection.execute(
            sa.insert(_FORMER),
            [{"event_id": event_id, "is_shared": False, **own._asdict()} for event_id, own in made.items()],
        )
    return kept | made


def _signed(ours: Signer, body: str) -> Signed:
    message: dict[str, Any] = loads(body.encode())
    again = canonical(message | {"keyId": ours.key_id})
    return Signed(
        again.decode(),
        ours.sign_body(Kind.EVENT, again),
        None,
        ours.key_id,
        digest(body_input(Kind.EVENT, again)),
    )
