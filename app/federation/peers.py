"""Peers: who they say they are, which keys of theirs are pinned, and how a new key becomes trusted.

A document is read from a peer in one place (`fetch_peer_document`), and is worth nothing before its own
signature, address and time were checked. What it says is then pinned (`pin`), or, for a peer that is pinned
already, only what a chain of vouches leads to is taken over (`adopt_key`).
"""

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import orjson
import sqlalchemy as sa

from app import clock
from app.config import settings
from app.database import db, read, table_of, transaction
from app.errors import RemoteInvalid, RemoteUnreachable
from app.federation import identity, outside
from app.models import Connection, Peer, PeerKey
from app.protocol.canonical import check_message, loads
from app.protocol.errors import InvalidRequest, KeyUntrusted, Overloaded, Problem, invalid
from app.protocol.keys import (
    KeyRecord,
    KeyStatus,
    may_sign_message,
    may_sign_transport,
    trusted_records,
)
from app.protocol.messages import (
    MAX_VALIDITY_MS,
    InstanceDocument,
    parse_instance_document,
    verify_document,
)
from app.protocol.states import LIVE, OPEN
from app.transport import peer_api
from app.transport.errors import TransportError

log = logging.getLogger(__name__)

#: A document is read for an unknown key at most once in this time (§9).
KEY_LOOKUP_EVERY_MS = 10_000
#: Documents that are read at a time, in one process, while a caller waits: whoever names unknown keys of
#: peers that hang must not occupy all threads.
LOOKUPS = threading.BoundedSemaphore(4)
#: A document is read again after this; one that could not be read, after that (§2: at least daily).
REFRESH_AFTER_MS = 20 * 3_600_000
REFRESH_AGAIN_MS = 600_000
#: Keys that are kept of one peer: the rotations of 20 years, one a month.
MAX_PINNED = 256
#: A retired key may be forgotten, if room is needed, when what it signed was refused as too old for so long.
FORGET_AFTER_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class FetchedDocument:
    """An instance document whose signature, address and validity were checked, and how it came."""

    document: InstanceDocument
    text: str  #: as it was sent
    clock_skew_ms: int  #: serverTime minus our clock half-way through the call
    latency_ms: int
    read_at: int


class PinnedKey(NamedTuple):
    """A key of a pinned or claimed peer."""

    record: KeyRecord
    peer_id: int


def fetch_peer_document(base_url: str) -> FetchedDocument:
    """Read and check the document at an origin. No transaction may be open: it waits for somebody else's
    server.

    Raises RemoteUnreachable if no answer came, RemoteInvalid if it is no document of this protocol, is not
    signed by the key that it calls active, speaks of another origin, or is out of date.
    """
    started_ms = clock.now_ms()
    try:
        raw, answer = peer_api.fetch_document(outside.client(), base_url)
    except TransportError as error:
        raise RemoteUnreachable(f"{base_url}: {error.detail}", reason=error.code) from error
    if answer.status != 200:
        raise RemoteInvalid(f"{base_url} answers {answer.status} instead of an instance document.")
    read_at = clock.now_ms()
    try:
        document = _read_document(raw, base_url, read_at)
    except Problem as problem:
        raise RemoteInvalid(f"The document at {base_url} is not valid: {problem.detail}") from problem
    if not set(identity.VERSIONS) & set(document.versions):
        raise RemoteInvalid(f"{base_url} speaks {', '.join(document.versions)} of this protocol, not 1.0.")
    middle_ms = started_ms + (read_at - started_ms) // 2
    return FetchedDocument(
        document, raw.decode(), document.server_time - middle_ms, answer.duration_ms, read_at
    )


# Every request asks these two, so they are put together once, and plain rows come back.
_KEY = table_of(PeerKey)
_NAMED_KEY = (
    sa.select(_KEY.c.peer_id, *[_KEY.c[name] for name in KeyRecord.__dataclass_fields__])
    .where(_KEY.c.key_id == sa.bindparam("key"))
    .order_by(_KEY.c.peer_id.desc())
)
_KEYS_OF = _NAMED_KEY.join(Peer, Peer.id == _KEY.c.peer_id).where(
    Peer.instance_id == sa.bindparam("instance")
)
_MESSAGE_KEY = _NAMED_KEY.where(_KEY.c.peer_id.in_(sa.bindparam("peers", expanding=True))).limit(1)


def keys_of(instance_id: str, key_id: str) -> list[PinnedKey]:
    """The keys of this name over all peers that have this instanceId, the newest peer first."""
    rows = read(_KEYS_OF, {"key": key_id, "instance": instance_id})
    return [PinnedKey(KeyRecord(*row[1:]), row[0]) for row in rows]


def message_key(peer_ids: Iterable[int], key_id: str) -> KeyRecord | None:
    """The pinned key of this name of one of these peers, whatever its status; None if there is none."""
    asked = {"key": key_id, "peers": list(peer_ids)}
    row = read(_MESSAGE_KEY, asked).first()
    return None if row is None else KeyRecord(*row[1:])


def pinned_records(peer_id: int) -> list[KeyRecord]:
    """All pinned keys of a peer, the oldest first."""
    rows = db.session.scalars(sa.select(PeerKey).where(PeerKey.peer_id == peer_id).order_by(PeerKey.id))
    return [identity.record_of(row) for row in rows]


def active_key(peer: Peer) -> KeyRecord | None:
    """The pinned key in use of a peer; None only for a peer that broke its own rules."""
    return next((r for r in pinned_records(peer.id) if r.status is KeyStatus.ACTIVE), None)


def features_of(peer: Peer) -> frozenset[str]:
    """What the peer's document lists, as last read."""
    return _features_of(peer.document)


@lru_cache(maxsize=32)
def _features_of(document: str) -> frozenset[str]:
    return frozenset(orjson.loads(document).get("features", ()))


#: Asked for every batch, so put together once.
_DOCUMENT = sa.select(table_of(Peer).c.document).where(
    table_of(Peer).c.id == sa.bindparam("peer"), table_of(Peer).c.document_read_at > sa.bindparam("since")
)


def takes_shared_signatures(peer_id: int) -> bool:
    """Whether the peer lists the feature `tree` in a document that was read within a day (§1.3)."""
    since = clock.now_ms() - MAX_VALIDITY_MS
    document = read(_DOCUMENT, {"peer": peer_id, "since": since}).scalar()
    return document is not None and "tree" in _features_of(document)


def pin(fetched: FetchedDocument) -> Peer:
    """The peer row of this document, inside the caller's transaction.

    A row of the same instanceId and origin is used again if the document's active key is one of its pinned
    keys or reached from them by vouches; else this is somebody else, or a peer that lost its keys, and gets
    a row of its own.
    """
    document = fetched.document
    for peer in _rows_of(document.instance_id, document.base_url):
        if _takes_over(peer, fetched):
            return peer
    _log_conflict(document)
    peer = Peer(
        instance_id=document.instance_id,
        base_url=document.base_url,
        name=document.name,
        refused_keys="[]",
        created_at=clock.now_ms(),
        document=fetched.text,
        document_read_at=fetched.read_at,
        max_event_bytes=0,
        max_batch_events=0,
        max_request_bytes=0,
    )
    _note_document(peer, fetched)
    db.session.add(peer)
    db.session.flush()
    write_keys(peer.id, document.keys)
    return peer


def write_keys(peer_id: int, records: Sequence[KeyRecord]) -> None:
    """Add or update pinned keys, inside the caller's transaction.

    Whether they are trusted was decided before. A peer has MAX_PINNED at most: for a new one beyond, that
    which was retired first goes. Raises InvalidRequest if none of them is so old that nothing signed by it
    is taken any more.
    """
    rows = {
        row.key_id: row for row in db.session.scalars(sa.select(PeerKey).where(PeerKey.peer_id == peer_id))
    }
    _make_room(rows, {record.key_id for record in records})
    for record in records:
        row = rows.get(record.key_id)
        if row is None:
            row = PeerKey(peer_id=peer_id, key_id=record.key_id)
            db.session.add(row)
        row.algorithm = record.algorithm
        row.public_key_pem = record.public_key_pem
        row.fingerprint = record.fingerprint
        row.status = record.status
        row.not_before = record.not_before
        row.not_after = record.not_after
        row.revoked_at = record.revoked_at
        row.vouch_by = record.vouch_by
        row.vouch_signature = record.vouch_signature
    db.session.flush()


def _make_room(rows: dict[str, PeerKey], wanted: set[str]) -> None:
    """Forget retired keys that are too old to matter, as far as the wanted ones need their place.

    Revoked ones stay: they must never come back.
    """
    excess = len(rows.keys() | wanted) - MAX_PINNED
    if excess <= 0:
        return
    over_ms = clock.now_ms() - FORGET_AFTER_MS
    old = [
        row
        for row in rows.values()
        if row.status is KeyStatus.RETIRED and (row.not_after or 0) < over_ms and row.key_id not in wanted
    ]
    if len(old) < excess:
        raise invalid("/payload/keys", f"at most {MAX_PINNED} keys are kept here")
    for row in sorted(old, key=lambda row: (row.not_after or 0, row.id))[:excess]:
        db.session.delete(rows.pop(row.key_id))
        log.info("peer.key_forgotten", extra={"peer_id": row.peer_id, "key_id": row.key_id})


def adopt_key(instance_id: str, key_id: str) -> list[PinnedKey]:
    """Look for an unknown key in the documents of the peers that have this instanceId (§2).

    What a chain of vouches leads to becomes pinned. Returned are the keys of that name that are pinned now.
    Commits; no transaction may be open. Each document is read at most once in 10 s.
    """
    for peer in _live_peers(instance_id):
        fetched = _look_again(peer)
        if fetched is None:
            continue
        with transaction():
            trusted = trusted_records(instance_id, pinned_records(peer.id), fetched.document.keys)
            if trusted and _can_write(peer.id, trusted):
                log.info(
                    "peer.keys_adopted",
                    extra={"peer_id": peer.id, "key_ids": [record.key_id for record in trusted]},
                )
    return keys_of(instance_id, key_id)


def untrusted_keys(instance_id: str, key_id: str) -> list[PinnedKey]:
    """Keys of that name that only the documents as last read have, and no vouch leads to (§9
    `key_untrusted`).
    """
    found = []
    for peer in _live_peers(instance_id):
        pinned = {record.key_id for record in pinned_records(peer.id)}
        records = {r.key_id: r for r in _document_keys(peer)}
        if key_id in records and key_id not in pinned:
            found.append(PinnedKey(records[key_id], peer.id))
    return found


def require_review(peer_id: int, fingerprint: str) -> None:
    """Flag the peer's live connections: it signs with a key that nobody vouched for. Commits.

    Not for a key that a person has refused already.
    """
    if fingerprint in refused_keys(db.session.get_one(Peer, peer_id, populate_existing=True)):
        return
    with transaction():
        flagged = db.session.scalars(
            sa.update(Connection)
            .where(
                Connection.peer_id == peer_id,
                Connection.status.in_(LIVE),
                Connection.key_review.is_(False),
            )
            .values(key_review=True, updated_at=clock.now_ms())
            .returning(Connection.id)
        ).all()
    if flagged:
        log.warning("connection.key_review", extra={"peer_id": peer_id, "connection_ids": list(flagged)})


def refresh(peer_id: int) -> None:
    """Read the peer's document again: name, features, limits and trusted keys.

    Commits; raises RemoteError.
    """
    peer = db.session.get_one(Peer, peer_id)
    fetched = fetch_peer_document(peer.base_url)
    if fetched.document.instance_id != peer.instance_id:
        raise RemoteInvalid(f"{peer.base_url} is now the instance {fetched.document.instance_id}.")
    with transaction():
        peer = db.session.get_one(Peer, peer_id, populate_existing=True)
        if not _takes_over(peer, fetched):
            log.warning("peer.keys_differ", extra={"peer_id": peer_id, "base_url": peer.base_url})


def due_for_refresh(limit: int = 10) -> list[int]:
    """Peers with a live connection whose document was read almost a day ago, or could not be lately.
    Commits.

    Each is named once in ten minutes, so that one that is away is not asked on every sweep.
    """
    now_ms = clock.now_ms()
    due = sa.and_(
        Peer.document_read_at <= now_ms - REFRESH_AFTER_MS,
        sa.or_(Peer.key_lookup_at.is_(None), Peer.key_lookup_at <= now_ms - REFRESH_AGAIN_MS),
        Peer.id.in_(
            sa.select(Connection.peer_id).where(Connection.status.in_(LIVE), Connection.is_seeded.is_(False))
        ),
    )
    ids = list(db.session.scalars(sa.select(Peer.id).where(due).limit(limit)))
    if ids:
        with transaction():
            db.session.execute(sa.update(Peer).where(Peer.id.in_(ids)).values(key_lookup_at=now_ms))
    return ids


def note_unread(peer_id: int, detail: str) -> None:
    """Log that a peer's document could not be read."""
    log.info("peer.document_unread", extra={"peer_id": peer_id, "detail": detail})


def trust_document(peer: Peer) -> None:
    """Pin all keys of the peer's document as last read, by a person's word, inside the caller's
    transaction.

    Pinned keys that the document does not have stay as they are, but only one key is active.
    """
    keys = _document_keys(peer)
    named = {record.key_id for record in keys}
    retired = [
        replace(record, status=KeyStatus.RETIRED, not_after=clock.now_ms())
        for record in pinned_records(peer.id)
        if record.key_id not in named and record.status in (KeyStatus.ACTIVE, KeyStatus.NEXT)
    ]
    revoked = {r.key_id for r in pinned_records(peer.id) if r.status is KeyStatus.REVOKED}
    write_keys(peer.id, [*retired, *(record for record in keys if record.key_id not in revoked)])


def undecided_keys(peer: Peer) -> list[KeyRecord]:
    """Keys of the peer's document as last read that are neither pinned nor refused, the active one first."""
    decided = {record.fingerprint for record in pinned_records(peer.id)} | refused_keys(peer)
    unknown = [record for record in _document_keys(peer) if record.fingerprint not in decided]
    return sorted(unknown, key=lambda record: record.status is not KeyStatus.ACTIVE)


def refuse_document_keys(peer: Peer) -> None:
    """Remember the unknown keys of the peer's document as refused, inside the caller's transaction."""
    pinned = {record.fingerprint for record in pinned_records(peer.id)}
    unknown = {record.fingerprint for record in _document_keys(peer)} - pinned
    peer.refused_keys = orjson.dumps(sorted(unknown | refused_keys(peer))).decode()


def refused_keys(peer: Peer) -> set[str]:
    """Fingerprints that a person refused to trust."""
    return set(orjson.loads(peer.refused_keys))


def is_blocked(instance_id: str, base_url: str | None = None) -> bool:
    """Whether the setting FEDERATION_BLOCKED names the instance or its origin."""
    blocked = settings().federation_blocked
    return bool(blocked) and (instance_id in blocked or base_url in blocked)


def key_that_signed(records: Iterable[PinnedKey]) -> list[PinnedKey]:
    """Those of the keys that may sign requests."""
    return [key for key in records if may_sign_transport(key.record)]


def barred(record: KeyRecord | None, timestamp_ms: int) -> KeyUntrusted | None:
    """Why a batch entry signed by this key is refused for now (§2); None if the key may have signed it."""
    if record is None or not may_sign_message(record, timestamp_ms):
        return KeyUntrusted()
    return None


def _read_document(raw: bytes, base_url: str, now_ms: int) -> InstanceDocument:
    value = loads(raw)
    check_message(value)
    return verify_document(parse_instance_document(value), base_url=base_url, now_ms=now_ms)


def _rows_of(instance_id: str, base_url: str) -> Sequence[Peer]:
    return db.session.scalars(
        sa.select(Peer)
        .where(Peer.instance_id == instance_id, Peer.base_url == base_url)
        .order_by(Peer.id.desc())
    ).all()


def _live_peers(instance_id: str) -> Sequence[Peer]:
    live = sa.select(Connection.peer_id).where(Connection.status.in_(LIVE), Connection.is_seeded.is_(False))
    return db.session.scalars(
        sa.select(Peer).where(Peer.instance_id == instance_id, Peer.id.in_(live)).order_by(Peer.id.desc())
    ).all()


def _takes_over(peer: Peer, fetched: FetchedDocument) -> bool:
    """Take over name, limits and trusted keys, if the document is this pinned peer's; else change nothing."""
    pinned = pinned_records(peer.id)
    trusted = trusted_records(peer.instance_id, pinned, fetched.document.keys)
    known = {record.key_id: record.fingerprint for record in (*pinned, *trusted)}
    key = fetched.document.active_key()
    if known.get(key.key_id) != key.fingerprint:
        return False
    if not _can_write(peer.id, trusted):
        return False
    _note_document(peer, fetched)
    return True


def _can_write(peer_id: int, records: Sequence[KeyRecord]) -> bool:
    """Add keys of a document; False if there are too many already, and nothing is changed."""
    try:
        write_keys(peer_id, records)
    except InvalidRequest as problem:
        log.warning("peer.too_many_keys", extra={"peer_id": peer_id, "detail": problem.detail})
        return False
    return True


def _note_document(peer: Peer, fetched: FetchedDocument) -> None:
    limits = fetched.document.limits
    peer.name = fetched.document.name
    peer.document = fetched.text
    peer.document_read_at = fetched.read_at
    peer.max_event_bytes = limits.max_event_bytes
    peer.max_batch_events = limits.max_batch_events
    peer.max_request_bytes = limits.max_request_bytes
    peer.clock_skew_ms = fetched.clock_skew_ms


def _look_again(peer: Peer) -> FetchedDocument | None:
    """The peer's document, read now; None if it was read less than 10 s ago or cannot be read.

    Raises Overloaded if too many callers wait for documents already.
    """
    now_ms = clock.now_ms()
    # Read before it is written: whoever has no key must not be able to keep the database's writer busy.
    if peer.key_lookup_at is not None and peer.key_lookup_at > now_ms - KEY_LOOKUP_EVERY_MS:
        return None
    if not LOOKUPS.acquire(blocking=False):
        raise Overloaded("Too many documents are being read; try again.", retry_after_s=5)
    try:
        return _read_again(peer, now_ms)
    finally:
        LOOKUPS.release()


def _read_again(peer: Peer, now_ms: int) -> FetchedDocument | None:
    """The peer's document, unless somebody else was quicker to read it."""
    with transaction():
        mine = db.session.scalar(
            sa.update(Peer)
            .where(
                Peer.id == peer.id,
                sa.or_(Peer.key_lookup_at.is_(None), Peer.key_lookup_at <= now_ms - KEY_LOOKUP_EVERY_MS),
            )
            .values(key_lookup_at=now_ms)
            .returning(Peer.id)
        )
    if mine is None:
        return None
    try:
        fetched = fetch_peer_document(peer.base_url)
    except (RemoteInvalid, RemoteUnreachable) as error:
        note_unread(peer.id, error.detail)
        return None
    if fetched.document.instance_id != peer.instance_id:
        return None
    with transaction():
        db.session.execute(
            sa.update(Peer)
            .where(Peer.id == peer.id)
            .values(document=fetched.text, document_read_at=fetched.read_at)
        )
    return fetched


def _document_keys(peer: Peer) -> Sequence[KeyRecord]:
    """The keys of the document as last read, which was verified then; none if it cannot be read today."""
    db.session.refresh(peer)
    try:
        return parse_instance_document(loads(peer.document.encode())).keys
    except Problem:
        return ()


def _log_conflict(document: InstanceDocument) -> None:
    others = db.session.scalars(
        sa.select(Peer.base_url).where(
            Peer.instance_id == document.instance_id,
            Peer.id.in_(sa.select(Connection.peer_id).where(Connection.status.in_(OPEN))),
        )
    ).all()
    if others:
        log.warning(
            "peer.identity_conflict",
            extra={
                "instance_id": document.instance_id,
                "base_url": document.base_url,
                "pinned": sorted(set(others)),
            },
        )
