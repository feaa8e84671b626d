"""The keys of a peer: those that we trust, and those that wait for a person's word."""

from dataclasses import dataclass

import orjson

from app.federation import identity, peers
from app.models import Connection, Peer
from app.protocol.errors import NotFound
from app.protocol.keys import KeyRecord, KeyStatus, pairing_code


@dataclass(frozen=True, slots=True)
class PeerKeys:
    """A peer's keys, and the pairing code of the one in use."""

    pinned: list[KeyRecord]
    #: In its document as last read, neither trusted nor refused; the one it signs with now first.
    undecided: list[KeyRecord]
    #: The trusted key in use; None if the peer has none.
    active: KeyRecord | None
    #: Of our key and its key in use, and of our key and the first undecided one.
    code: str | None
    new_code: str | None


def peer_keys(connection: Connection) -> PeerKeys:
    """The keys of the connection's peer; nothing is known of one whose document was not read."""
    if connection.peer is None:
        return PeerKeys([], [], None, None, None)
    pinned = peers.pinned_records(connection.peer.id)
    undecided = peers.undecided_keys(connection.peer) if connection.key_review else []
    active = next((key for key in pinned if key.status is KeyStatus.ACTIVE), None)
    ours = identity.local_instance().fingerprint
    return PeerKeys(
        pinned[::-1],
        undecided,
        active,
        pairing_code(ours, active.fingerprint) if active else None,
        pairing_code(ours, undecided[0].fingerprint) if undecided else None,
    )


def public_key(connection: Connection, key_id: str) -> KeyRecord:
    """A pinned key by its id. Raises NotFound."""
    found = [] if connection.peer is None else peers.pinned_records(connection.peer.id)
    for record in found:
        if record.key_id == key_id:
            return record
    raise NotFound("This peer has no such key.")


def document_facts(peer: Peer) -> dict[str, str]:
    """What the peer's document says of its software and how long it keeps events; remote text."""
    try:
        document = orjson.loads(peer.document)
    except orjson.JSONDecodeError:
        return {}
    software, limits = document.get("software") or {}, document.get("limits") or {}
    facts = {"software": f"{software.get('name', '')} {software.get('version', '')}".strip()}
    kept = limits.get("retentionMs")
    if isinstance(kept, int):
        facts["keeps"] = f"{kept // 86_400_000} days"
    return facts
