"""Rotation: the life of our own keys. next → active → retired, and revoked from anywhere.

    announce   a `next` key, vouched for by the one in use; peers are told
    activate   next becomes active, active becomes retired; peers are told
    revoke     a key that must not be trusted any more; peers are told, and what it signed and is not
               delivered is signed again when it is taken up (`app.outbox.resign`)

Each step is one transaction with the rows that say who has to hear of it (`told`), and can be repeated after
a crash at any point. Toward a peer that has not acknowledged a key yet, nothing is signed by it: events wait
per connection, answers and requests are signed by the key before.
"""

import logging
from typing import NamedTuple

import sqlalchemy as sa

from app import clock
from app.access import audit
from app.config import settings
from app.database import db, transaction
from app.federation import controls, identity, peers, told
from app.models import Connection, Peer, SigningKey
from app.protocol.errors import InvalidState, NotFound
from app.protocol.keys import (
    Algorithm,
    GeneratedKey,
    KeyRecord,
    KeyStatus,
    generate,
    seal,
    vouch,
)
from app.protocol.states import OPEN

log = logging.getLogger(__name__)

#: What a retired key signed may be this much younger than its retirement, ms: our other processes notice a
#: change of keys only after a moment, and clocks of several hosts differ.
OVERLAP_MS = 60_000


class Rotated(NamedTuple):
    """The key in use, and the origins of open peers that do not know it yet: what is for them waits."""

    key: SigningKey
    waiting: list[str]


class Reencrypted(NamedTuple):
    """How many private keys were sealed anew under SECRET_KEY, and how many were already."""

    changed: int
    unchanged: int


def announce(algorithm: Algorithm | None = None) -> SigningKey:
    """Make a `next` key, unless there is one, and tell all peers. Commits; safe to repeat.

    algorithm: None for that of the key in use. Raises InvalidState for an Ed25519 key if an open peer does
    not verify such signatures, and if there is a next key of another algorithm.
    """
    found = _next_key()
    if found is None:
        wanted = algorithm or identity.local_instance().algorithm
        _check_algorithm(wanted)
        # Made before the transaction: finding the primes takes longer than a writer should hold the database.
        found = _add_next(wanted, generate(wanted))
    if algorithm is not None and found.algorithm is not algorithm:
        raise InvalidState(
            f"The key {found.key_id} ({found.algorithm.value}) is announced already; activate or "
            "revoke it first."
        )
    return _told(found.key_id)


def activate(key_id: str | None = None) -> SigningKey:
    """Sign with the announced key from now on; the one in use is retired. Commits; safe to repeat.

    key_id: None for the one that is announced. What is signed by it waits, per connection, until the peer
    acknowledged it. Raises NotFound, InvalidState.
    """
    with transaction():
        identity.lock_instance()
        key = _named(key_id) if key_id else _next_key()
        if key is None:
            raise InvalidState("No key is announced. `flask key rotate` announces and activates one.")
        if key.status is KeyStatus.NEXT:
            _replace_active(key, KeyStatus.RETIRED)
        elif key.status is not KeyStatus.ACTIVE:
            raise InvalidState(
                f"The key {key.key_id} is {key.status.value}; only a next key can be activated."
            )
    identity.forget()
    return _told(key.key_id)


def revoke(key_id: str) -> SigningKey:
    """Let nobody trust the key any more. Commits; safe to repeat.

    The key in use is followed by the announced one; if there is none, one is made and announced first, whose
    vouch peers take as long as they have not heard of the revocation. Raises NotFound.
    """
    if _named(key_id).status is KeyStatus.ACTIVE:
        announce()
    with transaction():
        identity.lock_instance()
        key = _named(key_id)
        if key.status is KeyStatus.ACTIVE:
            following = _next_key()
            if following is None:
                raise InvalidState("The next key was revoked meanwhile; do it again.")
            _replace_active(following, KeyStatus.REVOKED)
        elif key.status is not KeyStatus.REVOKED:
            before = key.status
            _end(key, KeyStatus.REVOKED)
            told.owe(key, before)
            audit.record("key.revoke", "key", key.key_id, before={"status": before})
    identity.forget()
    return _told(key.key_id)


def rotate(algorithm: Algorithm | None = None, wait_s: float = 30.0) -> Rotated:
    """Announce a key, wait until the open peers acknowledged it, and activate it. Commits each step.

    After `wait_s` it is activated all the same: what is for a peer that is away waits anyway. Safe to repeat
    after a crash: what was announced is used. Raises as `announce`.
    """
    key = announce(algorithm)
    wait_for_peers(key, wait_s)
    key = activate(key.key_id)
    return Rotated(key, [peer.base_url for peer in told.unaware(key)])


def wait_for_peers(key: SigningKey, wait_s: float) -> None:
    """Wait until all open peers acknowledged the key, at most that long. No transaction may be open."""
    until_s = clock.monotonic() + wait_s
    for peer in told.unaware(key):
        left_s = until_s - clock.monotonic()
        if peer.control_id is not None and left_s > 0:
            controls.wait_for_answer(peer.control_id, left_s)
    db.session.rollback()


def tell_again() -> int:
    """Have the open peers that do not know our newest key told once more, now. How many. Commits each."""
    following = _next_key()
    key = (
        following
        or db.session.scalars(sa.select(SigningKey).where(SigningKey.status == KeyStatus.ACTIVE)).one()
    )
    told.tell()
    lacking = told.unaware(key)
    for peer in lacking:
        with transaction():
            controls.hurry(peer.connection_id)
            controls.wake_after_commit(peer.connection_id)
    return len(lacking)


def reencrypt() -> Reencrypted:
    """Seal all private keys under SECRET_KEY that are sealed under SECRET_KEY_PREVIOUS. Commits; all or none.

    Raises InvalidState if one is sealed under neither.
    """
    secret = settings().secret_key
    changed = unchanged = 0
    with transaction():
        identity.lock_instance()
        for key in db.session.scalars(sa.select(SigningKey).order_by(SigningKey.id).with_for_update()):
            if identity.is_sealed_under(key, secret):
                unchanged += 1
                continue
            key.private_key_sealed = seal(identity.unsealed(key), secret)
            changed += 1
    identity.forget()
    return Reencrypted(changed, unchanged)


def _told(key_id: str) -> SigningKey:
    """Tell the peers that have to hear of a change; the key as it is then."""
    told.tell()
    return _named(key_id)


def _add_next(algorithm: Algorithm, made: GeneratedKey) -> SigningKey:
    with transaction():
        identity.lock_instance()
        # Another process may have been quicker; its key is then the one that counts.
        found = _next_key()
        if found is not None:
            return found
        by = identity.signer(fresh=True)
        record = vouch(
            by.instance_id,
            KeyRecord(
                made.key_id,
                algorithm,
                made.public_key_pem,
                made.fingerprint,
                KeyStatus.NEXT,
                clock.now_ms(),
            ),
            by.key_id,
            by.private_key,
        )
        key = SigningKey(
            key_id=record.key_id,
            algorithm=algorithm,
            public_key_pem=record.public_key_pem,
            fingerprint=record.fingerprint,
            private_key_sealed=seal(made.private_key_pem, settings().secret_key),
            status=KeyStatus.NEXT,
            not_before=record.not_before,
            vouch_by=record.vouch_by,
            vouch_signature=record.vouch_signature,
        )
        db.session.add(key)
        db.session.flush()
        told.owe(key, None)
        audit.record("key.announce", "key", key.key_id, after={"algorithm": algorithm.value})
    log.info("key.announced", extra={"key_id": key.key_id, "algorithm": algorithm.value})
    return key


def _replace_active(key: SigningKey, ending: KeyStatus) -> None:
    """Make the next key the one in use, and end the one that was, inside the caller's transaction."""
    _check_algorithm(key.algorithm)
    old = db.session.scalars(
        sa.select(SigningKey).where(SigningKey.status == KeyStatus.ACTIVE).with_for_update()
    ).one()
    key.status = KeyStatus.ACTIVE
    _end(old, ending)
    told.owe(key, KeyStatus.NEXT)
    told.owe(old, KeyStatus.ACTIVE)
    verb = "revoke" if ending is KeyStatus.REVOKED else "retire"
    audit.record(f"key.{verb}", "key", old.key_id, before={"status": KeyStatus.ACTIVE})
    audit.record("key.activate", "key", key.key_id, after={"instead_of": old.key_id})
    log.info("key.activated", extra={"key_id": key.key_id, "before": old.key_id, "before_is": ending.value})


def _end(key: SigningKey, ending: KeyStatus) -> None:
    """Note the end in the key's row, and write it, so that it is held until the commit."""
    key.status = ending
    if ending is KeyStatus.REVOKED:
        key.revoked_at = clock.now_ms()
        log.warning("key.revoked", extra={"key_id": key.key_id})
    else:
        key.not_after = clock.now_ms() + OVERLAP_MS
    db.session.flush()


def _check_algorithm(algorithm: Algorithm) -> None:
    """With an Ed25519 key we talk only to who verifies such signatures (§1.2)."""
    if algorithm is not Algorithm.ED25519:
        return
    open_peers = db.session.scalars(
        sa.select(Peer)
        .where(Peer.id.in_(sa.select(Connection.peer_id).where(Connection.status.in_(OPEN))))
        .order_by(Peer.id)
    ).all()
    lacking = sorted({peer.base_url for peer in open_peers if "ed25519" not in peers.features_of(peer)})
    if lacking:
        raise InvalidState(f"These open peers do not verify Ed25519 signatures: {', '.join(lacking)}.")


def _next_key() -> SigningKey | None:
    return db.session.scalar(
        sa.select(SigningKey)
        .where(SigningKey.status == KeyStatus.NEXT)
        .order_by(SigningKey.id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )


def _named(key_id: str) -> SigningKey:
    key = db.session.scalar(
        sa.select(SigningKey).where(SigningKey.key_id == key_id).execution_options(populate_existing=True)
    )
    if key is None:
        raise NotFound(f"This instance has no key {key_id}. `flask key list` shows them.")
    return key
