"""Identity: who we are, what we sign with, and the document that tells it to everybody.

Signing is on every hot path, so each process keeps the identity and the loaded private key. What may change
under it (the key in use, by rotation in another process) is read again after `_FRESH_S`.
"""

import contextlib
import uuid
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from app import clock
from app.config import Config, settings
from app.database import db, transaction
from app.errors import InvalidState
from app.models import Instance, SigningKey
from app.protocol.keys import (
    Algorithm,
    KeyRecord,
    KeyStatus,
    UnsealFailed,
    generate,
    load_private_key,
    seal,
    unseal,
)
from app.protocol.signing import Kind, Signer

#: What we speak.
PROTOCOL = "tidings"
VERSIONS = ("1.0",)
#: Features of §2 that we have: signatures of Ed25519 keys are verified.
FEATURES = ("ed25519",)
SOFTWARE = {"name": "Tidings", "version": "0.1.0"}

#: Our limits as the document tells them, in bytes and events.
MAX_EVENT_BYTES = 65_536
MAX_BATCH_EVENTS = 100
MAX_REQUEST_BYTES = 1_048_576

DAY_MS = 86_400_000
#: How long a document may be used, from its signature on.
DOCUMENT_LIFE_MS = DAY_MS
#: A document is signed at most once in this time, however often it is asked for.
DOCUMENT_REUSE_MS = 1_000
#: How long a process believes that the key in use is still the same.
_FRESH_S = 2.0


class LocalInstance(NamedTuple):
    """This instance as it presents itself now."""

    instance_id: str
    base_url: str
    name: str
    key_id: str  #: of the active key
    fingerprint: str  #: of the active key
    algorithm: Algorithm


@dataclass
class _Known:
    """What one process keeps of one database's identity. Another key in use makes another one."""

    instance_id: str
    key: SigningKey
    read_at_s: float
    signer: Signer | None = None
    document: dict[str, Any] | None = None
    document_at_ms: int = 0


_known: weakref.WeakKeyDictionary[Engine, _Known] = weakref.WeakKeyDictionary()


def ensure_identity(config: Config) -> None:
    """Make the instance's row and its first RSA key if they are missing. Commits; safe to repeat.

    Raises InvalidState if INSTANCE_ID is set to another identity than the one that is kept.
    """
    _ensure_instance(config)
    if _has_active_key():
        return
    # Made before the transaction: finding the primes takes longer than a writer should hold the database.
    made = generate(Algorithm.RSA)
    key = SigningKey(
        key_id=made.key_id,
        algorithm=Algorithm.RSA,
        public_key_pem=made.public_key_pem,
        fingerprint=made.fingerprint,
        private_key_sealed=seal(made.private_key_pem, config.secret_key),
        status=KeyStatus.ACTIVE,
        not_before=clock.now_ms(),
    )
    with transaction():
        _lock_instance()
        if not _has_active_key():
            db.session.add(key)


def local_instance() -> LocalInstance:
    """Who we are. Raises InvalidState before `ensure_identity` was called on this database."""
    known = _current()
    config, key = settings(), known.key
    return LocalInstance(
        known.instance_id,
        config.base_url,
        config.instance_name,
        key.key_id,
        key.fingerprint,
        key.algorithm,
    )


def signer() -> Signer:
    """What signs for us now; the private key is unsealed once per process."""
    known = _current()
    if known.signer is None:
        private_key = load_private_key(_unsealed(known.key), True)
        known.signer = Signer(known.instance_id, known.key.key_id, private_key)
    return known.signer


def instance_document() -> dict[str, Any]:
    """The signed document of §2. Signed anew at most once a second."""
    known = _current()
    now_ms = clock.now_ms()
    if known.document is None or not 0 <= now_ms - known.document_at_ms < DOCUMENT_REUSE_MS:
        known.document = signer().sign(Kind.INSTANCE, _document(now_ms))
        known.document_at_ms = now_ms
    return known.document


def key_record(key_id: str) -> dict[str, Any] | None:
    """The record of one of our keys, old ones included, as on the wire; None if there is none."""
    key = db.session.scalar(sa.select(SigningKey).where(SigningKey.key_id == key_id))
    return None if key is None else record_of(key).to_wire()


def list_keys() -> list[SigningKey]:
    """All our keys, the newest first."""
    return list(db.session.scalars(sa.select(SigningKey).order_by(SigningKey.id.desc())))


def record_of(key: SigningKey) -> KeyRecord:
    """The public half of one of our keys."""
    return KeyRecord(
        key_id=key.key_id,
        algorithm=key.algorithm,
        public_key_pem=key.public_key_pem,
        fingerprint=key.fingerprint,
        status=key.status,
        not_before=key.not_before,
        not_after=key.not_after,
        revoked_at=key.revoked_at,
        vouch_by=key.vouch_by,
        vouch_signature=key.vouch_signature,
    )


def forget() -> None:
    """Let this process read the identity anew, after a change of keys that it made itself."""
    _known.pop(db.engine, None)


def _document(now_ms: int) -> dict[str, Any]:
    local = local_instance()
    return {
        "protocol": PROTOCOL,
        "versions": list(VERSIONS),
        "instanceId": local.instance_id,
        "name": local.name,
        "baseUrl": local.base_url,
        "software": dict(SOFTWARE),
        "serverTime": now_ms,
        "validUntil": now_ms + DOCUMENT_LIFE_MS,
        "keys": [record_of(key).to_wire() for key in list_keys()[:16]],
        "features": list(FEATURES),
        "limits": {
            "maxEventBytes": MAX_EVENT_BYTES,
            "maxBatchEvents": MAX_BATCH_EVENTS,
            "maxRequestBytes": MAX_REQUEST_BYTES,
            "retentionMs": settings().retention_days * DAY_MS,
        },
    }


def _current() -> _Known:
    known = _known.get(db.engine)
    if known is None or clock.monotonic() - known.read_at_s > _FRESH_S:
        known = _known[db.engine] = _read(known)
    return known


def _read(known: _Known | None) -> _Known:
    instance_id = db.session.scalar(sa.select(Instance.instance_id))
    key = db.session.scalar(sa.select(SigningKey).where(SigningKey.status == KeyStatus.ACTIVE))
    if instance_id is None or key is None:
        raise InvalidState("This instance has no identity yet; `flask init` makes it.")
    if known is not None and known.key.key_id == key.key_id and known.instance_id == instance_id:
        known.read_at_s = clock.monotonic()
        return known
    # What is kept must not belong to one request's session.
    db.session.expunge(key)
    return _Known(instance_id, key, clock.monotonic())


def _unsealed(key: SigningKey) -> str:
    """The private key in PEM, sealed under SECRET_KEY or the one before it."""
    config = settings()
    try:
        return unseal(key.private_key_sealed, config.secret_key)
    except UnsealFailed:
        if config.secret_key_previous is None:
            raise
        return unseal(key.private_key_sealed, config.secret_key_previous)


def _ensure_instance(config: Config) -> None:
    kept = db.session.scalar(sa.select(Instance.instance_id))
    if kept is None:
        # Another process may be quicker; its row is then the one that counts.
        with contextlib.suppress(IntegrityError), transaction():
            if db.session.get(Instance, 1) is None:
                _insert_instance(config.instance_id or str(uuid.uuid4()))
        kept = db.session.scalar(sa.select(Instance.instance_id))
    if config.instance_id is not None and kept != config.instance_id:
        raise InvalidState(f"INSTANCE_ID is {config.instance_id}, but this database belongs to {kept}.")


def _insert_instance(instance_id: str) -> None:
    db.session.add(Instance(id=1, instance_id=instance_id, created_at=clock.now_ms()))
    db.session.flush()


def _lock_instance() -> None:
    db.session.execute(sa.select(Instance.id).with_for_update())


def _has_active_key() -> bool:
    return (
        db.session.scalar(sa.select(SigningKey.id).where(SigningKey.status == KeyStatus.ACTIVE)) is not None
    )
