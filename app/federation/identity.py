"""Identity: who we are, what we sign with, and the document that tells it to everybody.

Signing is on every hot path, so each process keeps the identity and the loaded private key. What may change
under it (the key in use, by rotation in another process) is read again after `_FRESH_S`.
"""

import contextlib
import uuid
import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from app import clock
from app.config import VERSION, Config, settings
from app.database import db, table_of, transaction
from app.errors import InvalidState
from app.models import Instance, KeyTold, PeerKey, SigningKey
from app.protocol.canonical import loads
from app.protocol.keys import (
    MAX_KEYS,
    Algorithm,
    KeyRecord,
    KeyStatus,
    UnsealFailed,
    generate,
    load_private_key,
    seal,
    unseal,
)
from app.protocol.messages import SPEC_VERSION, Limits, sign_document
from app.protocol.signing import Signer

#: What we speak.
VERSIONS = (SPEC_VERSION,)
#: Features of §2 that we have: signatures of Ed25519 keys are verified, those of trees of events, and that
#: both sides compare what was sent with what was stored.
FEATURES = ("ed25519", "tree", "reconcile")
#: Name and version.
SOFTWARE = ("Tidings", VERSION)

#: Our limits as the document tells them, in bytes and events.
MAX_EVENT_BYTES = 65_536
MAX_BATCH_EVENTS = 100
MAX_REQUEST_BYTES = 1_048_576

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
    #: By keyId; more than one only while a peer has not heard of the newest.
    signers: dict[str, Signer] = field(default_factory=dict)
    document: dict[str, Any] | None = None
    document_at_ms: int = 0


_known: weakref.WeakKeyDictionary[Engine, _Known] = weakref.WeakKeyDictionary()


def ensure_identity(config: Config) -> None:
    """Make the instance's row and its first RSA key if they are missing. Commits; safe to repeat.

    Raises InvalidState if INSTANCE_ID is set to another identity than the one that is kept, and if the
    private key cannot be read with SECRET_KEY.
    """
    _ensure_instance(config)
    active = _active_key()
    if active is not None:
        _unsealed(active, config)
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
        lock_instance()
        if _active_key() is None:
            db.session.add(key)


def check_instance_id(config: Config) -> None:
    """Pass unless INSTANCE_ID is set to another identity than the one that is kept: InvalidState."""
    if config.instance_id is not None:
        _check_kept(db.session.scalar(sa.select(Instance.instance_id)), config)


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


def signer(*, fresh: bool = False, in_use: str | None = None) -> Signer:
    """What signs for us now; the private key is unsealed once per process.

    fresh: look whether the key in use has changed, which is otherwise noticed after two seconds. in_use: its
    keyId, for who has just read it; looks only if that is another one.
    """
    known = _current()
    if fresh or in_use not in (None, known.key.key_id):
        known = _known[db.engine] = _read(known)
    return _signer_of(known, known.key)


#: Asked for every answer, so put together once.
_UNKNOWN_KEYS = sa.select(table_of(KeyTold).c.signing_key_id).where(
    table_of(KeyTold).c.connection_id == sa.bindparam("connection"),
    table_of(KeyTold).c.acknowledged.is_(None),
)


def signer_for(connection_id: int, *, fresh: bool = False, announcing: bool = False) -> Signer:
    """What signs for us toward one peer: the key in use, or the newest before it while it is unknown there.

    announcing: for `keys.changed`, which may be brought by a revoked key if that is all that the peer knows;
    it is told nothing that a thief of the key could not tell it.
    """
    ours = signer(fresh=fresh)
    unknown = set(db.session.execute(_UNKNOWN_KEYS, {"connection": connection_id}).scalars())
    known = _current()
    if known.key.id not in unknown:
        return ours
    usable = (KeyStatus.RETIRED, KeyStatus.REVOKED) if announcing else (KeyStatus.RETIRED,)
    before = db.session.scalar(
        sa.select(SigningKey)
        .where(SigningKey.status.in_(usable), SigningKey.id.not_in(unknown))
        .order_by(SigningKey.id.desc())
        .limit(1)
    )
    return ours if before is None else _signer_of(known, before)


def signer_named(key_id: str) -> Signer:
    """What signs by one of our keys, for what was said while it was in use. Raises InvalidState."""
    known = _current()
    if known.key.key_id == key_id:
        return _signer_of(known, known.key)
    key = db.session.scalar(sa.select(SigningKey).where(SigningKey.key_id == key_id))
    if key is None or key.status is KeyStatus.REVOKED:
        raise InvalidState(f"there is no key {key_id} of ours that may sign")
    return _signer_of(known, key)


def instance_document() -> dict[str, Any]:
    """The signed document of §2. Signed anew at most once a second."""
    known = _current()
    now_ms = clock.now_ms()
    if known.document is None or not 0 <= now_ms - known.document_at_ms < DOCUMENT_REUSE_MS:
        known.document = loads(_document(now_ms))
        known.document_at_ms = now_ms
    return known.document


def key_record(key_id: str) -> dict[str, Any] | None:
    """The record of one of our keys, old ones included, as on the wire; None if there is none."""
    key = db.session.scalar(sa.select(SigningKey).where(SigningKey.key_id == key_id))
    return None if key is None else record_of(key).to_wire()


def list_keys() -> list[SigningKey]:
    """All our keys, the newest first."""
    return list(db.session.scalars(sa.select(SigningKey).order_by(SigningKey.id.desc())))


def record_of(key: SigningKey | PeerKey) -> KeyRecord:
    """The public half of a key of ours, or a pinned key, as the pure value."""
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


def _document(now_ms: int) -> bytes:
    config = settings()
    return sign_document(
        signer(),
        name=config.instance_name,
        base_url=config.base_url,
        software=SOFTWARE,
        now_ms=now_ms,
        keys=[record_of(key) for key in _told_keys()],
        features=FEATURES,
        limits=Limits(
            MAX_EVENT_BYTES, MAX_BATCH_EVENTS, MAX_REQUEST_BYTES, config.retention_days * 86_400_000
        ),
    )


def _current() -> _Known:
    known = _known.get(db.engine)
    if known is None or clock.monotonic() - known.read_at_s > _FRESH_S:
        known = _known[db.engine] = _read(known)
    return known


def _read(known: _Known | None) -> _Known:
    instance_id = db.session.scalar(sa.select(Instance.instance_id))
    key = _active_key()
    if instance_id is None or key is None:
        raise InvalidState("This instance has no identity yet; `flask init` makes it.")
    _check_kept(instance_id, settings())
    if known is not None and known.key.key_id == key.key_id and known.instance_id == instance_id:
        known.read_at_s = clock.monotonic()
        return known
    # What is kept must not belong to one request's session.
    db.session.expunge(key)
    return _Known(instance_id, key, clock.monotonic())


def unsealed(key: SigningKey) -> str:
    """The private key in PEM, sealed under SECRET_KEY or the one before it. Raises InvalidState."""
    return _unsealed(key, settings())


def is_sealed_under(key: SigningKey, secret: str) -> bool:
    """Whether this secret opens the private key."""
    try:
        unseal(key.private_key_sealed, secret)
    except UnsealFailed:
        return False
    return True


def _signer_of(known: _Known, key: SigningKey) -> Signer:
    if key.key_id not in known.signers:
        private_key = load_private_key(unsealed(key), True)
        known.signers[key.key_id] = Signer(known.instance_id, key.key_id, private_key)
    return known.signers[key.key_id]


def _told_keys() -> list[SigningKey]:
    """The keys of the document, at most 16: those that count now, then the revoked, then the newest old."""
    order = {KeyStatus.ACTIVE: 0, KeyStatus.NEXT: 0, KeyStatus.REVOKED: 1, KeyStatus.RETIRED: 2}
    return sorted(list_keys(), key=lambda key: order[key.status])[:MAX_KEYS]


def _unsealed(key: SigningKey, config: Config) -> str:
    for secret in (config.secret_key, config.secret_key_previous):
        if secret is not None and is_sealed_under(key, secret):
            return unseal(key.private_key_sealed, secret)
    raise InvalidState(
        f"SECRET_KEY is not the one that the private key {key.key_id} is encrypted with. Set the one "
        "that was used before, or give it as SECRET_KEY_PREVIOUS and run `flask key reencrypt`."
    )


def _ensure_instance(config: Config) -> None:
    kept = db.session.scalar(sa.select(Instance.instance_id))
    if kept is None:
        # Another process may be quicker; its row is then the one that counts.
        with contextlib.suppress(IntegrityError), transaction():
            if db.session.get(Instance, 1) is None:
                _insert_instance(config.instance_id or str(uuid.uuid4()))
        kept = db.session.scalar(sa.select(Instance.instance_id))
    _check_kept(kept, config)


def _check_kept(kept: str | None, config: Config) -> None:
    if None not in (kept, config.instance_id) and kept != config.instance_id:
        raise InvalidState(
            f"INSTANCE_ID is {config.instance_id}, but this database belongs to {kept}. Leave INSTANCE_ID "
            "out or correct it; `flask doctor` looks again."
        )


def _insert_instance(instance_id: str) -> None:
    db.session.add(Instance(id=1, instance_id=instance_id, created_at=clock.now_ms()))
    db.session.flush()


def lock_instance() -> None:
    """Let one transaction at a time change the keys."""
    db.session.execute(sa.select(Instance.id).with_for_update())


def _active_key() -> SigningKey | None:
    return db.session.scalar(
        sa.select(SigningKey)
        .where(SigningKey.status == KeyStatus.ACTIVE)
        .execution_options(populate_existing=True)
    )
