"""Trust: what a person's word makes of a peer's keys.

A connection whose peer shows a key that nobody vouches for waits (`key_review`) until somebody decides here.
"""

import json
from collections.abc import Sequence

import sqlalchemy as sa

from app import clock
from app.database import db, transaction
from app.federation import acts, answers, controls, lifecycle, peers
from app.models import Connection, Peer
from app.protocol.errors import InvalidState
from app.protocol.states import OPEN


def mark_verified(connection_id: int, by: str, reason: str | None = None) -> Connection:
    """Note that a person compared the pairing code. by: who, for the record. Commits."""
    acts.check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        connection.verified_at = clock.now_ms()
        connection.verified_how = json.dumps({"by": by, "reason": reason})
        lifecycle.touch(connection)
        acts.note("mark_verified", connection, {"by": by, "reason": reason})
    return acts.read(connection_id)


def accept_keys(connection_id: int) -> Connection:
    """Trust the keys in the peer's document as last read, by a person's word, and go on. Commits.

    Raises InvalidState if no key waits for a decision.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        peer = _expect_review(connection)
        acts.note(
            "keys_accept", connection, {"fingerprints": [k.fingerprint for k in peers.undecided_keys(peer)]}
        )
        peers.trust_document(peer)
        for other in _reviewed(peer.id):
            other.key_review = False
            other.verified_at = None
            answers.release(other)
            if other.status in OPEN:
                # What the peer holds because we did not trust its key goes on when it hears from us.
                lifecycle.send_verification(other)
            controls.hurry(other.id)
            controls.wake_after_commit(other.id)
    return acts.read(connection_id)


def refuse_keys(connection_id: int) -> Connection:
    """Keep to the pinned keys: what signs with the others stays `key_untrusted`, and nobody is asked again.

    Commits. Raises InvalidState if no key waits for a decision.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        peer = _expect_review(connection)
        acts.note(
            "keys_refuse", connection, {"fingerprints": [k.fingerprint for k in peers.undecided_keys(peer)]}
        )
        peers.refuse_document_keys(peer)
        for other in _reviewed(peer.id):
            other.key_review = False
            answers.release(other)
            controls.hurry(other.id)
            controls.wake_after_commit(other.id)
    return acts.read(connection_id)


def _expect_review(connection: Connection) -> Peer:
    if not connection.key_review or connection.peer is None:
        raise InvalidState("No key of this connection waits for a decision.")
    return connection.peer


def _reviewed(peer_id: int) -> Sequence[Connection]:
    return db.session.scalars(
        sa.select(Connection)
        .where(Connection.peer_id == peer_id, Connection.key_review.is_(True))
        .with_for_update()
    ).all()
