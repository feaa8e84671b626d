"""Stage: the workspace of the made-up history, its peers, connections and subscriptions."""

import uuid
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from app.database import db
from app.federation import identity
from app.federation.peers import write_keys
from app.models import (
    AuditEntry,
    Connection,
    Direction,
    Peer,
    Stream,
    Subscription,
    Workspace,
)
from app.protocol.keys import Algorithm, KeyRecord, KeyStatus, generate, load_private_key
from app.protocol.messages import SPEC_VERSION, Limits, sign_document
from app.protocol.signing import Signer
from app.protocol.states import ConnectionStatus, SubscriptionStatus
from app.seed.cast import PARTS, STRANGER, Health, Part

SLUG = "seeded"
NAME = "Seeded history"

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: How far back the history goes: a little less than 7 days, after which nothing waits any longer.
SPAN_MS = 7 * DAY_MS - HOUR_MS
#: Since when the peer that is down does not answer.
DOWN_MS = 30 * HOUR_MS
#: Long enough that nothing is renewed while anybody looks.
LEASE_S = 90 * 86_400

#: Who is said to have done things here.
PERSON = "maria@seeded.example"


@dataclass(slots=True)
class Player:
    """A peer that takes part: what its rows are, and how far its streams have come."""

    part: Part
    connection: Connection
    signer: Signer
    outgoing: Stream
    incoming: Stream
    #: Of the deliveries that wait, those that were tried: (event, delivery).
    tried: list[tuple[int, int]] = field(default_factory=list)


def minted(rng: Random) -> str:
    """A UUID that is the same each time."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def set_up(rng: Random, end: int) -> tuple[Workspace, list[Player]]:
    """Make the workspace and all that stands in it before the first event. Called inside `transaction()`."""
    start = end - SPAN_MS
    workspace = Workspace(
        public_id=minted(rng), slug=SLUG, name=NAME, is_default=False, is_seeded=True, created_at=start
    )
    db.session.add(workspace)
    db.session.flush()
    players = [_player(rng, workspace, part, start, end) for part in PARTS]
    _ask(rng, workspace, end)
    _wait_for_answers(rng, players, end)
    return workspace, players


def _player(rng: Random, workspace: Workspace, part: Part, start: int, end: int) -> Player:
    peer, signer = _peer(rng, part, start, end)
    connection = _connection(rng, workspace, peer, part, start)
    connection.status = ConnectionStatus.ACTIVE
    connection.activated_at = start + 9 * 60_000
    connection.version = SPEC_VERSION
    connection.features = '["ed25519"]'
    if part.health is Health.HEALTHY:
        connection.verified_at = start + 12 * 60_000
        connection.verified_how = orjson.dumps({"by": PERSON, "reason": "compared by phone"}).decode()
        connection.clock_skew_ms = 14
        connection.clock_skew_at = end
    db.session.flush()
    _audit(workspace, "connection.accept", "connection", connection.public_id, start + 8 * 60_000)
    for pattern in part.gets:
        granted = _subscription(
            rng, connection, Direction.OUTGOING, pattern, SubscriptionStatus.ACTIVE, start
        )
        after = {"eventType": pattern}
        _audit(workspace, "subscription.approve", "subscription", granted, start + HOUR_MS // 3, after=after)
    for pattern in part.sends:
        _subscription(rng, connection, Direction.INCOMING, pattern, SubscriptionStatus.ACTIVE, start)
    outgoing, incoming = (
        Stream(connection_id=connection.id, direction=direction, epoch=minted(rng), created_at=start)
        for direction in (Direction.OUTGOING, Direction.INCOMING)
    )
    db.session.add_all((outgoing, incoming))
    db.session.flush()
    return Player(part, connection, signer, outgoing, incoming)


def _peer(rng: Random, part: Part, start: int, end: int) -> tuple[Peer, Signer]:
    """A peer with a key that nobody keeps, and its document."""
    made = generate(Algorithm.ED25519)
    signer = Signer(minted(rng), made.key_id, load_private_key(made.private_key_pem))
    record = KeyRecord(
        made.key_id,
        Algorithm.ED25519,
        made.public_key_pem,
        made.fingerprint,
        KeyStatus.ACTIVE,
        start - 90 * DAY_MS,
    )
    base_url, limits = f"https://{part.host}", Limits()
    document = sign_document(
        signer,
        name=part.name,
        base_url=base_url,
        software=identity.SOFTWARE,
        now_ms=end,
        keys=[record],
        features=("ed25519",),
        limits=limits,
    )
    peer = Peer(
        instance_id=signer.instance_id,
        base_url=base_url,
        name=part.name,
        document=document.decode(),
        document_read_at=end,
        max_event_bytes=limits.max_event_bytes,
        max_batch_events=limits.max_batch_events,
        max_request_bytes=limits.max_request_bytes,
        created_at=start,
    )
    db.session.add(peer)
    db.session.flush()
    write_keys(peer.id, [record])
    return peer, signer


def _connection(rng: Random, workspace: Workspace, peer: Peer, part: Part, at: int) -> Connection:
    """A request that the peer made and that was checked."""
    connection = Connection(
        public_id=minted(rng),
        workspace_id=workspace.id,
        peer_id=peer.id,
        wire_connection_id=minted(rng),
        direction=Direction.INCOMING,
        status=ConnectionStatus.PENDING,
        is_seeded=True,
        claimed_instance_id=peer.instance_id,
        claimed_base_url=peer.base_url,
        request_message_id=minted(rng),
        checked_at=at + 400,
        offer=orjson.dumps({"versions": [SPEC_VERSION], "features": ["ed25519"]}).decode(),
        to_workspace=SLUG,
        remote_workspace_slug=part.workspace.lower().replace(" ", "-"),
        remote_workspace_name=part.workspace,
        note=part.note,
        created_at=at,
        updated_at=at,
    )
    db.session.add(connection)
    return connection


def _ask(rng: Random, workspace: Workspace, end: int) -> None:
    """Somebody who wants to connect."""
    at = end - 2 * HOUR_MS
    peer, _ = _peer(rng, STRANGER, at, end)
    _connection(rng, workspace, peer, STRANGER, at)


def _wait_for_answers(rng: Random, players: list[Player], end: int) -> None:
    """Two subscriptions that somebody has still to decide: one here, one there."""
    first, second, _ = (player.connection for player in players)
    pending = SubscriptionStatus.PENDING
    _subscription(rng, first, Direction.OUTGOING, "customer.*", pending, end - 3 * HOUR_MS)
    _subscription(rng, second, Direction.INCOMING, "return.*", pending, end - 5 * HOUR_MS)


def _subscription(
    rng: Random,
    connection: Connection,
    direction: Direction,
    pattern: str,
    status: SubscriptionStatus,
    at: int,
) -> str:
    """Add one; its public id."""
    is_active = status is SubscriptionStatus.ACTIVE
    public_id = minted(rng)
    db.session.add(
        Subscription(
            public_id=public_id,
            workspace_id=connection.workspace_id,
            connection_id=connection.id,
            direction=direction,
            wire_subscription_id=minted(rng),
            event_type=pattern,
            granted_event_type=pattern if is_active else None,
            status=status,
            lease_seconds=LEASE_S,
            lease_expires_at=at + LEASE_S * 1000 if is_active else None,
            created_at=at,
            updated_at=at,
        )
    )
    return public_id


def set_the_ailing(players: list[Player], end: int) -> None:
    """Let the peers that are ill be so, once their requests are there. Called inside `transaction()`."""
    for player in players:
        connection = player.connection
        connection.last_delivered_at = end - (5_000 if player.part.health is Health.HEALTHY else 0)
        connection.last_received_at = end - 45_000
        if player.part.health is Health.FLAKY:
            connection.last_delivered_at = end - 3 * HOUR_MS
            connection.failures = connection.network_failures = 2
            connection.wait_code = "overloaded"
            connection.wait_detail = "answered 503"
            connection.retry_at = end + 20 * 60_000
        if player.part.health is Health.DOWN:
            connection.last_delivered_at = connection.last_received_at = end - DOWN_MS
            connection.failures = connection.network_failures = 14
            connection.wait_code = "connection_refused"
            connection.wait_detail = "nobody listens there"
            connection.breaker_opened_at = end - DOWN_MS + 10 * 60_000
            connection.retry_at = end + 40 * 60_000


def tell_what_was_done(workspace: Workspace, players: list[Player], end: int) -> None:
    """The latest entries of the audit log; the last one says that the history is whole."""
    flaky, down = players[1].connection, players[2].connection
    for action, kind, object_id, ago_h, after in (
        ("connection.mark_verified", "connection", players[0].connection.public_id, 166, {"reason": "phone"}),
        ("connection.suspend", "connection", flaky.public_id, 75, {"reason": "their shop system is moved"}),
        ("connection.resume", "connection", flaky.public_id, 71, None),
        ("delivery.retry", "operation", flaky.public_id, 26, {"total": 2}),
        ("connection.retry_now", "connection", down.public_id, 4, None),
    ):
        _audit(workspace, action, kind, object_id, end - ago_h * HOUR_MS, after=after)
    _audit(workspace, WHOLE, "workspace", workspace.public_id, end)


#: The action of the entry that is written last.
WHOLE = "workspace.seed"


def _audit(
    workspace: Workspace,
    action: str,
    kind: str,
    object_id: str,
    at: int,
    *,
    after: dict[str, Any] | None = None,
) -> None:
    """An entry of its own time and person, which `app.access.audit` cannot write."""
    is_person = action != WHOLE
    db.session.add(
        AuditEntry(
            at=at,
            actor_kind="user" if is_person else "system",
            actor_name=PERSON if is_person else "flask seed",
            address="192.0.2.17" if is_person else None,
            action=action,
            object_kind=kind,
            object_id=object_id,
            after=orjson.dumps(after).decode() if after else None,
            workspace_id=workspace.id,
        )
    )
