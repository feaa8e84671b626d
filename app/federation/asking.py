"""Asking: for a connection, from the look at what an address says of itself to the request that is sent."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app import clock
from app.config import settings
from app.database import db, transaction
from app.errors import ConnectionExists, RemoteInvalid
from app.federation import acts, controls, identity, peers
from app.models import Connection, ControlOut, Direction, Peer, PeerKey, Workspace
from app.protocol import control as wire
from app.protocol.control import ControlType
from app.protocol.errors import Blocked, invalid
from app.protocol.keys import pairing_code
from app.protocol.members import is_slug
from app.protocol.states import LIVE, OPEN, ConnectionStatus
from app.transport.address import parse_origin
from app.transport.errors import InvalidOrigin


@dataclass(frozen=True, slots=True)
class Preview:
    """What a remote instance says of itself, checked against its own signature and nothing else."""

    instance_id: str
    name: str
    base_url: str
    software: str
    versions: tuple[str, ...]
    features: tuple[str, ...]
    key_id: str
    algorithm: str
    fingerprint: str  #: of its active key, lower-case hex
    pairing_code: str
    limits: dict[str, int]
    clock_skew_ms: int  #: its clock minus ours
    latency_ms: int
    is_self: bool
    known_fingerprints: tuple[str, ...]  #: active keys pinned for this instanceId, empty if it is new


def preview(remote_url: str) -> Preview:
    """Read what the instance at a URL says of itself. Stores nothing.

    Raises InvalidRequest at /remoteUrl, RemoteUnreachable, RemoteInvalid.
    """
    fetched = peers.fetch_peer_document(_origin(remote_url))
    document = fetched.document
    local = identity.local_instance()
    key = document.active_key()
    return Preview(
        document.instance_id,
        document.name,
        document.base_url,
        f"{document.software_name} {document.software_version}",
        document.versions,
        document.features,
        key.key_id,
        key.algorithm.value,
        key.fingerprint,
        pairing_code(local.fingerprint, key.fingerprint),
        document.limits.to_wire(),
        fetched.clock_skew_ms,
        fetched.latency_ms,
        document.instance_id == local.instance_id,
        _known_fingerprints(document.instance_id),
    )


def initiate(
    workspace_id: int,
    remote_url: str,
    to_workspace: str | None = None,
    note: str | None = None,
    replace: bool = False,
    fingerprint: str | None = None,
) -> Connection:
    """Ask the instance at a URL for a connection. Commits.

    to_workspace: slug of its workspace, None for its default one. note: shown to its operators. replace:
    ask to replace the open connection, if there is one. fingerprint: of the active key that a person has
    looked at; with another key nothing is sent. Returns the connection, `requested`, or what it
    became within 2 s. Raises InvalidRequest at /remoteUrl, /toWorkspace or /note, RemoteUnreachable,
    RemoteInvalid, Blocked, ConnectionExists.
    """
    origin = _origin(remote_url)
    if to_workspace is not None and not is_slug(to_workspace):
        raise invalid("/toWorkspace", "a workspace's slug has 1 to 64 characters of a-z, 0-9 and -")
    acts.check_text(note, "/note")
    fetched = peers.fetch_peer_document(origin)
    document = fetched.document
    _check_partner(document.instance_id, document.base_url, document.features)
    if fingerprint not in (None, document.active_key().fingerprint):
        raise RemoteInvalid(f"{document.name} has another key than the one that you looked at.")
    with transaction():
        workspace = lock_workspace(workspace_id)
        existing = _find_pair(workspace_id, document.instance_id, to_workspace)
        replaced = next((c for c in existing if c.status in OPEN), None)
        if existing and not (replace and replaced is existing[0]):
            raise ConnectionExists(
                f"There is a connection with {document.name} already; it is {existing[0].status.value}.",
                connectionId=existing[0].public_id,
            )
        peer = peers.pin(fetched)
        connection = _new_request(workspace_id, peer, to_workspace, note)
        connection.replaces_id = None if replaced is None else replaced.id
        db.session.add(connection)
        db.session.flush()
        control = _send_request(connection, workspace)
        acts.note("request", connection, {"remoteUrl": document.base_url, "instanceId": document.instance_id})
    return acts.answered(connection.id, control)


def lock_workspace(workspace_id: int) -> Workspace:
    """Held, so that two requests for one pair cannot pass each other."""
    return db.session.scalars(
        sa.select(Workspace).where(Workspace.id == workspace_id).with_for_update()
    ).one()


def names_same_workspace(connection: Connection, slug: str | None) -> bool:
    """Whether the remote workspace of a connection is, or may be, the one with this slug (None: any)."""
    mine = connection.remote_workspace_slug
    if mine is None and connection.direction is Direction.OUTGOING:
        mine = connection.to_workspace
    return slug is None or mine is None or slug == mine


def _origin(remote_url: str) -> str:
    try:
        return parse_origin(remote_url)
    except InvalidOrigin as error:
        raise invalid("/remoteUrl", error.detail) from None


def _check_partner(instance_id: str, base_url: str, features: Sequence[str]) -> None:
    local = identity.local_instance()
    if instance_id == local.instance_id or base_url == local.base_url:
        raise invalid("/remoteUrl", "is this instance itself")
    if peers.is_blocked(instance_id, base_url):
        raise Blocked("FEDERATION_BLOCKED names this instance or its origin.")
    acts.check_algorithm(frozenset(features))


def _known_fingerprints(instance_id: str) -> tuple[str, ...]:
    rows = db.session.scalars(
        sa.select(PeerKey.fingerprint)
        .join(Peer, Peer.id == PeerKey.peer_id)
        .join(Connection, Connection.peer_id == Peer.id)
        .where(
            Peer.instance_id == instance_id,
            Connection.status.in_(OPEN),
            PeerKey.status == "active",
        )
        .distinct()
    )
    return tuple(rows)


def _find_pair(workspace_id: int, instance_id: str, to_workspace: str | None) -> list[Connection]:
    """Connections with the instance that wait or are open, waiting ones first; no slug matches every one."""
    found = db.session.scalars(
        sa.select(Connection)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Connection.workspace_id == workspace_id,
            Connection.status.in_(LIVE),
            Connection.checked_at.is_not(None),
            Peer.instance_id == instance_id,
        )
    ).all()
    same = [c for c in found if names_same_workspace(c, to_workspace)]
    return sorted(same, key=lambda c: c.status in OPEN)


def _new_request(workspace_id: int, peer: Peer, to_workspace: str | None, note: str | None) -> Connection:
    now_ms = clock.now_ms()
    offer = {"versions": list(identity.VERSIONS), "features": list(identity.FEATURES)}
    return Connection(
        public_id=str(uuid.uuid4()),
        workspace_id=workspace_id,
        peer_id=peer.id,
        wire_connection_id=str(uuid.uuid4()),
        direction=Direction.OUTGOING,
        status=ConnectionStatus.REQUESTED,
        request_message_id="",
        offer=json.dumps(offer),
        to_workspace=to_workspace,
        note=note,
        last_control_out=0,
        last_control_in=0,
        clock_skew_ms=peer.clock_skew_ms,
        checked_at=now_ms,
        created_at=now_ms,
        updated_at=now_ms,
    )


def _send_request(connection: Connection, workspace: Workspace) -> ControlOut:
    control = controls.queue_control(
        connection,
        ControlType.CONNECTION_REQUEST,
        wire.ConnectionRequest(
            base_url=settings().base_url,
            workspace_slug=workspace.slug,
            workspace_name=workspace.name,
            versions=identity.VERSIONS,
            features=identity.FEATURES,
            to_workspace=connection.to_workspace,
            note=connection.note,
        ),
    )
    connection.request_message_id = control.message_id
    return control
