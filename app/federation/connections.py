"""Connections: what our own people do with them.

Each function says something to the peer in the transaction that changes the state here (`lifecycle`,
`controls`), commits, and waits a moment for the answer, so that its caller is told what is so.
`connection_id` is our row number; callers come by it through `lifecycle.get_connection`.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app import clock
from app.access import audit
from app.config import settings
from app.database import db, transaction
from app.errors import ConnectionExists, RemoteInvalid, RemoteUnreachable
from app.federation import answers, consequences, controls, identity, lifecycle, peers, sending
from app.models import Connection, ControlOut, ControlState, Direction, Peer, PeerKey, Workspace
from app.protocol import control as wire
from app.protocol.control import ControlType
from app.protocol.errors import Blocked, InvalidState, invalid
from app.protocol.keys import Algorithm, pairing_code
from app.protocol.members import is_slug
from app.protocol.states import (
    ENDED,
    LIVE,
    OPEN,
    WAITING,
    Action,
    ConnectionStatus,
    Move,
    decide_action,
    who_suspended,
)
from app.transport.address import parse_origin
from app.transport.errors import InvalidOrigin

#: How long a call waits for the peer's answer before it answers with what is so.
WAIT_S = 2.0
#: How long `verify` waits: a whole request, and a document that may have to be read on the way.
VERIFY_WAIT_S = 20.0
MAX_NOTE = 1000


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


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of a `verification`."""

    status: str  #: the connection's state as the peer has it
    round_trip_ms: int
    matched: bool  #: the peer sent back what it was sent
    clock_skew_ms: int | None


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
    _check_text(note, "/note")
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
        _note("request", connection, {"remoteUrl": document.base_url, "instanceId": document.instance_id})
    return _answered(connection.id, control)


def accept(connection_id: int, reason: str | None = None) -> Connection:
    """Accept a request. Active when the peer answered; what comes in is taken from now on. Commits.

    Raises NotFound, InvalidState, InvalidRequest at /reason.
    """
    _check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        control = begin_accept(connection)
        connection.reason = reason
        _note("accept", connection, {"reason": reason})
    return _answered(connection_id, control)


def begin_accept(connection: Connection) -> ControlOut:
    """Say that we accept, inside the caller's transaction, on a connection that `lifecycle.lock` gave.

    Raises InvalidState if it is not asked of us, or accepted already.
    """
    _expect_unanswered(connection, Action.ACCEPT)
    offer = json.loads(connection.offer)
    version = next((v for v in identity.VERSIONS if v in offer.get("versions", ())), None)
    if version is None:
        raise InvalidState("The other side offers no version that we speak.")
    _check_algorithm(frozenset() if connection.peer is None else peers.features_of(connection.peer))
    features = tuple(f for f in identity.FEATURES if f in offer.get("features", ()))
    connection.version = version
    connection.features = json.dumps(features)
    connection.inbound_open_until = clock.now_ms() + lifecycle.ANSWER_LIFE_MS
    lifecycle.touch(connection)
    workspace = connection.workspace
    return controls.queue_control(
        connection,
        ControlType.CONNECTION_ACCEPT,
        wire.ConnectionAccept(
            connection.request_message_id, version, features, workspace.slug, workspace.name
        ),
    )


def reject(connection_id: int, reason: str | None = None) -> Connection:
    """Refuse a request. Commits. Raises NotFound, InvalidState, InvalidRequest at /reason."""
    _check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        control = begin_reject(connection, reason)
        _note("reject", connection, {"reason": reason})
    return _answered(connection_id, control)


def begin_reject(connection: Connection, reason: str | None) -> ControlOut:
    """Say that we refuse, inside the caller's transaction. Raises InvalidState."""
    _expect_unanswered(connection, Action.REJECT)
    lifecycle.end(connection, ConnectionStatus.REJECTED, reason)
    return controls.queue_control(
        connection,
        ControlType.CONNECTION_REJECT,
        wire.ConnectionReject(connection.request_message_id, reason),
    )


def suspend(connection_id: int, reason: str | None = None) -> Connection:
    """Stop the traffic, both ways, until we resume. Commits.

    Nothing goes out from now on; what comes in is taken until the peer knows, at most 15 s.
    Raises NotFound, InvalidState, InvalidRequest at /reason.
    """
    _check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        resuming = controls.waiting(connection_id, ControlType.CONNECTION_RESUME) is not None
        # A resume that the peer has not answered yet is taken back.
        _allow(connection, Action.SUSPEND, by_me=connection.suspended_by_me and not resuming)
        was_flowing = lifecycle.status_for_input(connection, clock.now_ms()) is ConnectionStatus.ACTIVE
        lifecycle.suspend(connection, by_me=True, reason=reason)
        connection.inbound_open_until = clock.now_ms() + lifecycle.GRACE_MS if was_flowing else None
        control = controls.queue_control(connection, ControlType.CONNECTION_SUSPEND, wire.Reason(reason))
        _note("suspend", connection, {"reason": reason})
    return _answered(connection_id, control)


def resume(connection_id: int, reason: str | None = None) -> Connection:
    """Take our own suspension back. What comes in is taken from now on, ours goes out when the peer
    answered.

    Commits. Raises NotFound, InvalidState if we have not suspended it, InvalidRequest at /reason.
    """
    _check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        resuming = controls.waiting(connection_id, ControlType.CONNECTION_RESUME) is not None
        _allow(connection, Action.RESUME)
        if resuming and connection.inbound_open_until is not None:
            raise InvalidState("It was resumed already; the other side has not answered yet.")
        connection.inbound_open_until = clock.now_ms() + lifecycle.ANSWER_LIFE_MS
        # What the suspension said is over; while the peer's own stands, so does its reason.
        connection.reason = reason if not connection.suspended_by_peer else reason or connection.reason
        lifecycle.touch(connection)
        control = controls.queue_control(connection, ControlType.CONNECTION_RESUME, wire.Reason(reason))
        _note("resume", connection, {"reason": reason})
    return _answered(connection_id, control)


def disconnect(connection_id: int, reason: str | None = None) -> Connection:
    """End it for good, from either side; before it was accepted this takes the request back. Commits.

    Raises NotFound, InvalidState if it has ended, InvalidRequest at /reason.
    """
    _check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        _allow(connection, Action.DISCONNECT)
        before = connection.status.value
        control = lifecycle.end_by_us(connection, reason)
        _note("disconnect", connection, {"reason": reason}, before={"status": before})
    return _answered(connection_id, control)


def verify(connection_id: int) -> Verification:
    """Ask the peer to answer, now. A success lets go on what a refusal held. Commits.

    Raises NotFound, InvalidState unless it is open, RemoteUnreachable, RemoteInvalid.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status not in OPEN:
            raise _illegal(connection, "verify")
        control = lifecycle.send_verification(connection)
        controls.hurry(connection_id)
        _note("ping", connection)
    # By ourselves rather than by a worker: a round trip is measured, and none need be running. Whoever
    # holds the lease already sends ours as well.
    sending.send_controls(connection_id)
    control = controls.wait_for_answer(control.id, VERIFY_WAIT_S)
    if control.state is ControlState.ANSWERED:
        return Verification(
            control.answer_status or "",
            control.duration_ms or 0,
            control.error_code is None,
            _read(connection_id).clock_skew_ms,
        )
    detail = control.error_detail or "no answer yet"
    if control.status_code is None:
        raise RemoteUnreachable(f"The other side cannot be reached: {detail}", reason=control.error_code)
    raise RemoteInvalid(f"The other side answered {control.status_code}: {detail}", reason=control.error_code)


def retry_now(connection_id: int) -> Connection:
    """End every wait and hold of the connection: events and control messages go at once. Commits.

    Also the back-off of single events that the peer refused for now.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status in ENDED:
            raise _illegal(connection, "retry")
        _note("retry_now", connection, before={"failures": connection.failures, "hold": connection.hold_code})
        lifecycle.end_wait(connection)
        answers.release(connection)
        controls.hurry(connection_id)
        controls.wake_after_commit(connection_id)
        consequences.plugged().waits_ended(connection_id)
    return _read(connection_id)


def pause(connection_id: int, direction: Direction | None = None) -> Connection:
    """Hold events of one direction, or both, without telling the peer. Commits. Safe to repeat.

    Outgoing: they wait here, and use no attempt. Incoming: the peer is answered `overloaded`, which is no
    failure for it, so that they wait there; what it repeats is still a duplicate, and control messages pass.
    Raises NotFound, InvalidState if the connection has ended.
    """
    return _set_paused(connection_id, direction, True)


def unpause(connection_id: int, direction: Direction | None = None) -> Connection:
    """Let events of one direction, or both, go on. Commits. Safe to repeat.

    What waits here goes at once; what waits at the peer, within the minute that it was asked to wait.
    Raises NotFound, InvalidState if the connection has ended.
    """
    return _set_paused(connection_id, direction, False)


def mark_verified(connection_id: int, by: str, reason: str | None = None) -> Connection:
    """Note that a person compared the pairing code. by: who, for the record. Commits."""
    _check_text(reason, "/reason")
    with transaction():
        connection = lifecycle.lock(connection_id)
        connection.verified_at = clock.now_ms()
        connection.verified_how = json.dumps({"by": by, "reason": reason})
        lifecycle.touch(connection)
        _note("mark_verified", connection, {"by": by, "reason": reason})
    return _read(connection_id)


def keys_accept(connection_id: int) -> Connection:
    """Trust the keys in the peer's document as last read, by a person's word, and go on. Commits.

    Raises InvalidState if no key waits for a decision.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        peer = _expect_review(connection)
        _note(
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
    return _read(connection_id)


def keys_refuse(connection_id: int) -> Connection:
    """Keep to the pinned keys: what signs with the others stays `key_untrusted`, and nobody is asked again.

    Commits. Raises InvalidState if no key waits for a decision.
    """
    with transaction():
        connection = lifecycle.lock(connection_id)
        peer = _expect_review(connection)
        _note(
            "keys_refuse", connection, {"fingerprints": [k.fingerprint for k in peers.undecided_keys(peer)]}
        )
        peers.refuse_document_keys(peer)
        for other in _reviewed(peer.id):
            other.key_review = False
            answers.release(other)
            controls.hurry(other.id)
            controls.wake_after_commit(other.id)
    return _read(connection_id)


def expire_due(limit: int = 100) -> int:
    """End requests that nobody answered for 14 days, on our side, without a message.

    Commits each; how many.
    """
    before_ms = clock.now_ms() - sending.REQUEST_LIFE_MS
    due = db.session.scalars(
        sa.select(Connection.id)
        .where(
            Connection.status.in_(WAITING),
            Connection.checked_at.is_not(None),
            Connection.created_at <= before_ms,
        )
        .limit(limit)
    ).all()
    for connection_id in due:
        with transaction():
            connection = lifecycle.lock(connection_id)
            if connection.status in WAITING:
                lifecycle.end(connection, ConnectionStatus.EXPIRED, None)
    return len(due)


def _note(
    verb: str,
    connection: Connection,
    after: dict[str, object] | None = None,
    *,
    before: dict[str, object] | None = None,
) -> None:
    """Into the audit log, in the same transaction."""
    audit.record(
        f"connection.{verb}",
        "connection",
        connection.public_id,
        before=before,
        after=after,
        workspace_id=connection.workspace_id,
    )


def _answered(connection_id: int, control: ControlOut) -> Connection:
    controls.wait_for_answer(control.id, WAIT_S)
    return _read(connection_id)


def _read(connection_id: int) -> Connection:
    return db.session.get_one(Connection, connection_id, populate_existing=True)


def _origin(remote_url: str) -> str:
    try:
        return parse_origin(remote_url)
    except InvalidOrigin as error:
        raise invalid("/remoteUrl", error.detail) from None


def _check_text(text: str | None, pointer: str) -> None:
    if text is not None and not 1 <= len(text) <= MAX_NOTE:
        raise invalid(pointer, f"has 1 to {MAX_NOTE} characters", "limit")


def _check_partner(instance_id: str, base_url: str, features: Sequence[str]) -> None:
    local = identity.local_instance()
    if instance_id == local.instance_id or base_url == local.base_url:
        raise invalid("/remoteUrl", "is this instance itself")
    if peers.is_blocked(instance_id, base_url):
        raise Blocked("FEDERATION_BLOCKED names this instance or its origin.")
    _check_algorithm(frozenset(features))


def _check_algorithm(features: frozenset[str]) -> None:
    """With an Ed25519 key we talk only to who verifies such signatures (§1.2)."""
    if identity.local_instance().algorithm is Algorithm.ED25519 and "ed25519" not in features:
        raise RemoteInvalid("The other side does not verify Ed25519 signatures, and ours is such a key.")


def lock_workspace(workspace_id: int) -> Workspace:
    """Held, so that two requests for one pair cannot pass each other."""
    return db.session.scalars(
        sa.select(Workspace).where(Workspace.id == workspace_id).with_for_update()
    ).one()


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


def names_same_workspace(connection: Connection, slug: str | None) -> bool:
    """Whether the remote workspace of a connection is, or may be, the one with this slug (None: any)."""
    mine = connection.remote_workspace_slug
    if mine is None and connection.direction is Direction.OUTGOING:
        mine = connection.to_workspace
    return slug is None or mine is None or slug == mine


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


def _allow(connection: Connection, action: Action, *, by_me: bool | None = None) -> None:
    """Ask the table of our own moves. Raises InvalidState."""
    status = connection.status
    by_me = connection.suspended_by_me if by_me is None else by_me
    suspended_by = (
        who_suspended(by_me, connection.suspended_by_peer) if status is ConnectionStatus.SUSPENDED else None
    )
    if not isinstance(decide_action(action, status, suspended_by), Move):
        raise _illegal(connection, action.value)


def _expect_unanswered(connection: Connection, action: Action) -> None:
    """InvalidState unless it waits for us and nobody has answered yet."""
    _allow(connection, action)
    if connection.checked_at is None:
        raise _illegal(connection, action.value)
    if controls.waiting(connection.id, ControlType.CONNECTION_ACCEPT) is not None:
        raise InvalidState("It was accepted already; the other side has not answered yet.")


def _illegal(connection: Connection, what: str) -> InvalidState:
    by = ""
    if connection.status is ConnectionStatus.SUSPENDED:
        us, them = connection.suspended_by_me, connection.suspended_by_peer
        by = " by both sides" if us and them else " by us" if us else " by the other side"
    side = " and waits for the other side" if connection.status is ConnectionStatus.REQUESTED else ""
    return InvalidState(f"Cannot {what}: the connection is {connection.status.value}{by}{side}.")


def _set_paused(connection_id: int, direction: Direction | None, paused: bool) -> Connection:
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.status in ENDED:
            raise _illegal(connection, "pause" if paused else "unpause")
        outgoing, incoming = connection.paused_outgoing, connection.paused_incoming
        if direction in (None, Direction.OUTGOING):
            connection.paused_outgoing = paused
        if direction in (None, Direction.INCOMING):
            connection.paused_incoming = paused
        if (outgoing, incoming) == (connection.paused_outgoing, connection.paused_incoming):
            return connection
        lifecycle.touch(connection)
        _note("pause" if paused else "unpause", connection, {"direction": direction})
        if not connection.paused_outgoing:
            controls.drain_after_commit(connection_id)
    return _read(connection_id)


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
