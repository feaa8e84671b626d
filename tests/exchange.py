"""A peer at the wire: a real identity and real signatures, and answers as a test wants them.

Stands where `app.transport.client.Client` stands; everything above it is real.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from app.clock import now_ms
from app.config import settings
from app.database import db, transaction
from app.federation.identity import ensure_identity
from app.models import Connection, Direction, Peer, PeerKey, Subscription, Workspace
from app.protocol.keys import Algorithm, GeneratedKey, KeyStatus, generate, load_private_key
from app.protocol.messages import AckEntry, AckError, AckStatus, event_body, sign_ack_batch
from app.protocol.signing import Kind, Signer, body_input, digest, with_signature
from app.protocol.states import ConnectionStatus, SubscriptionStatus
from app.transport.client import Answer


@lru_cache(maxsize=2)
def key_pair(name: str) -> GeneratedKey:
    """A key that all tests of a process share: making one takes longer than most tests."""
    return generate(Algorithm.RSA)


def json_answer(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Answer:
    """An HTTP answer."""
    return Answer(status, {"content-type": content_type, **headers}, body, 1)


def problem_answer(status: int, code: str, **headers: str) -> Answer:
    """A problem document as HTTP answer."""
    document = {
        "type": f"urn:tidings:error:{code}",
        "title": code,
        "status": status,
        "code": code,
        "detail": "no",
    }
    return json_answer(status, orjson.dumps(document), "application/problem+json", **headers)


@dataclass
class RemotePeer:
    """A peer: who it is, what it was sent, and how it answers."""

    instance_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    base_url: str = "http://127.0.0.1:9"
    requests: list[dict[str, Any]] = field(default_factory=list)
    #: From the batch that came to the answer; may raise a TransportError. Acknowledges all by default.
    answer: Callable[[dict[str, Any]], Answer] | None = None

    @property
    def key(self) -> GeneratedKey:
        """Its key."""
        return key_pair("peer")

    @property
    def signer(self) -> Signer:
        """What signs for it."""
        return Signer(self.instance_id, self.key.key_id, load_private_key(self.key.private_key_pem))

    def post(self, url: str, body: bytes, headers: Any, **_options: Any) -> Answer:
        """Take a request in the place of the HTTP client."""
        assert url == self.base_url + "/api/v1/federation/incoming/events"
        batch = orjson.loads(body)
        self.requests.append(batch)
        return (self.answer or self.accept)(batch)

    def accept(self, batch: dict[str, Any]) -> Answer:
        """Everything is stored."""
        return self.acknowledge(batch)

    def acknowledge(
        self,
        batch: dict[str, Any],
        errors: dict[int, tuple[str, bool]] | None = None,
        signer: Signer | None = None,
        contiguous: int | None = None,
        **other: Any,
    ) -> Answer:
        """A signed ack batch; `errors` are {sequence: (code, retryable)}, `other` replaces its arguments."""
        entries = [self.entry(entry, (errors or {}).get(entry["sequence"])) for entry in batch["events"]]
        arguments = {
            "message_id": str(uuid.uuid4()),
            "batch_id": batch["batchId"],
            "connection_id": batch["connectionId"],
            "timestamp": now_ms(),
            "stream_epoch": batch["streamEpoch"],
            "contiguous": batch["events"][-1]["sequence"] if contiguous is None else contiguous,
            "acks": entries,
        } | other
        return json_answer(200, sign_ack_batch(signer or self.signer, **arguments))

    def entry(self, entry: dict[str, Any], error: tuple[str, bool] | None = None) -> AckEntry:
        """The ack of one entry of a batch."""
        message_id, summary = entry["event"]["messageId"], digest_of(entry["event"])
        if error is None:
            return AckEntry(entry["sequence"], message_id, AckStatus.STORED, summary)
        code, retryable = error
        refusal = AckError(code, f"refused as {code}", retryable)
        return AckEntry(entry["sequence"], message_id, AckStatus.REJECTED, summary, refusal)

    def sent(self) -> list[list[int]]:
        """The sequences of each request, in order."""
        return [[entry["sequence"] for entry in batch["events"]] for batch in self.requests]

    def event(
        self, event_type: str = "task.created", payload: dict[str, Any] | None = None, **given: Any
    ) -> dict[str, Any]:
        """A signed event of this peer, as JSON value; `given`: message_id, timestamp, signer."""
        signer = given.get("signer") or self.signer
        body = event_body(
            message_id=given.get("message_id") or str(uuid.uuid4()),
            instance_id=signer.instance_id,
            event_type=event_type,
            payload=payload or {},
            timestamp=given.get("timestamp") or now_ms(),
            key_id=signer.key_id,
        )
        value: dict[str, Any] = orjson.loads(with_signature(body, signer.sign_body(Kind.EVENT, body)))
        return value


def digest_of(event: dict[str, Any]) -> str:
    """The digest of an event as JSON value."""
    from_wire = {name: value for name, value in event.items() if name != "signature"}
    return digest(body_input(Kind.EVENT, orjson.dumps(from_wire, option=orjson.OPT_SORT_KEYS)))


@dataclass
class Scene:
    """A workspace with an active connection to a peer, in the current app."""

    workspace: Workspace
    connection: Connection
    peer: RemotePeer

    def reload(self) -> Connection:
        """The connection as it is in the database now."""
        db.session.rollback()
        db.session.expire_all()
        found = db.session.get(Connection, self.connection.id)
        assert found is not None
        return found


def make_scene(peer: RemotePeer | None = None) -> Scene:
    """An identity, a workspace, and an active connection to the peer."""
    ensure_identity(settings())
    now = now_ms()
    with transaction():
        workspace = Workspace(
            public_id=str(uuid.uuid4()), slug=f"w-{uuid.uuid4().hex[:8]}", name="Test", created_at=now
        )
        db.session.add(workspace)
        db.session.flush()
    peer = peer or RemotePeer()
    return Scene(workspace, connect(workspace, peer), peer)


def connect(workspace: Workspace, peer: RemotePeer, **columns: Any) -> Connection:
    """Another active connection of the workspace to a peer, its keys pinned."""
    now = now_ms()
    with transaction():
        row = Peer(
            instance_id=peer.instance_id,
            base_url=peer.base_url,
            name="Peer",
            document="{}",
            document_read_at=now,
            max_event_bytes=65_536,
            max_batch_events=100,
            max_request_bytes=1_048_576,
            created_at=now,
        )
        row.keys.append(
            PeerKey(
                key_id=peer.key.key_id,
                algorithm=Algorithm.RSA,
                public_key_pem=peer.key.public_key_pem,
                fingerprint=peer.key.fingerprint,
                status=KeyStatus.ACTIVE,
                not_before=0,
            )
        )
        db.session.add(row)
        db.session.flush()
        connection = Connection(
            **{
                "public_id": str(uuid.uuid4()),
                "workspace_id": workspace.id,
                "peer_id": row.id,
                "wire_connection_id": str(uuid.uuid4()),
                "direction": Direction.OUTGOING,
                "status": ConnectionStatus.ACTIVE,
                "request_message_id": str(uuid.uuid4()),
                "checked_at": now,
                "activated_at": now,
                "created_at": now,
                "updated_at": now,
            }
            | columns
        )
        db.session.add(connection)
        db.session.flush()
    return connection


def subscribe(
    connection: Connection,
    pattern: str = "task.**",
    direction: Direction = Direction.OUTGOING,
    **columns: Any,
) -> Subscription:
    """An active subscription: OUTGOING ones let our events go to the peer."""
    now = now_ms()
    with transaction():
        subscription = Subscription(
            **{
                "public_id": str(uuid.uuid4()),
                "workspace_id": connection.workspace_id,
                "connection_id": connection.id,
                "direction": direction,
                "wire_subscription_id": str(uuid.uuid4()),
                "event_type": pattern,
                "granted_event_type": pattern,
                "status": SubscriptionStatus.ACTIVE,
                "lease_seconds": 3600,
                "lease_expires_at": now + 365 * 86_400_000,
                "created_at": now,
                "updated_at": now,
            }
            | columns
        )
        db.session.add(subscription)
        db.session.flush()
    return subscription
