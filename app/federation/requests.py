"""Requests: what others ask of us, from the first byte until one of our people sees it.

A stranger's request is answered at once and checked later: nothing is fetched while the stranger waits, so
nobody can use us to call a third party quickly or often. Until then it is a row that nobody is shown.

    receive_stranger   keep it, within quotas ─► check_request (job): read the claimed document, check both
                                                 signatures against it, drop it or
    receive_known      signed by pinned keys ──────────────────────────────────────────────────────► show it
    show               crossing requests, replacement, acceptance by policy
"""

import json
import logging
import uuid
from random import Random
from typing import Any

import sqlalchemy as sa

from app import clock, limits, queue
from app.backoff import retry_delay
from app.config import settings
from app.database import db, transaction
from app.errors import RemoteInvalid, RemoteUnreachable
from app.federation import asking, connections, identity, lifecycle, peers, receiving
from app.federation.peers import FetchedDocument
from app.federation.receiving import Answered
from app.models import Connection, ControlReceived, Direction, Peer, Workspace
from app.protocol import control as wire
from app.protocol.canonical import loads
from app.protocol.control import ControlMessage, VerifiedControl, parse_control, verify_control
from app.protocol.errors import AuthenticationFailed, MessageIdConflict, Problem, RateLimited
from app.protocol.http_signature import read_signature
from app.protocol.keys import load_public_key, may_sign_transport
from app.protocol.states import OPEN, ConnectionStatus

log = logging.getLogger(__name__)

#: Requests of strangers a minute from one address.
ADDRESS_PER_MINUTE = 60
#: Documents read a minute from one origin that somebody claims to be, and from all: names and ports cost
#: a stranger nothing, and nobody shall use us to flood or to search a third party.
ORIGIN_PER_MINUTE = 60
DOCUMENTS_PER_MINUTE = 600
#: Requests of one claimed origin that wait or came to nothing within the life of a request; ones that wait
#: in all, and unchecked ones in all.
MAX_WAITING_PER_ORIGIN = 50
MAX_WAITING = 5_000
MAX_UNCHECKED = 1_000
#: A document that cannot be read is tried so often, over some minutes; then the request is dropped.
MAX_CHECKS = 5

_rng = Random()  # noqa: S311 - spreads retries, guards nothing


def receive_stranger(message: ControlMessage, evidence: dict[str, Any], address: str) -> Answered:
    """Keep a request that nobody can verify yet, and answer it. Commits.

    evidence: the request as it came, {"headers": [[name, value]], "target", "body": bytes, "at": ms}.
    Raises RateLimited, MessageIdConflict.
    """
    limits.check("connection-requests", address, per_minute=ADDRESS_PER_MINUTE)
    request = message.payload_as(wire.ConnectionRequest)
    with transaction():
        workspace = _workspace(request.to_workspace)
        if workspace is not None:
            # The same request, sent twice at once, is found by the second.
            asking.lock_workspace(workspace.id)
        known = _find_stored(message)
        if known is not None:
            return known
        answered = receiving.answer_request(message)
        if workspace is None or _is_myself(message.instance_id, request.base_url):
            return answered
        _check_quotas(request.base_url)
        connection = _new_connection(message, request, workspace.id)
        connection.request_evidence = json.dumps(evidence | {"body": evidence["body"].decode()})
        db.session.add(connection)
        db.session.flush()
        receiving.keep_answer(connection.id, message, answered)
        connection_id = connection.id
    queue.enqueue(queue.CHECK_REQUEST, connection_id)
    return answered


def receive_known(message: VerifiedControl, peer_id: int) -> Answered:
    """Take a request that pinned keys signed, and answer it, inside the caller's transaction.

    Keys are pinned with the first request that waits, so this too may be a stranger. Raises RateLimited.
    """
    request = message.payload_as(wire.ConnectionRequest)
    answered = receiving.answer_request(message)
    workspace = _workspace(request.to_workspace)
    if workspace is None or _is_myself(message.instance_id, request.base_url):
        return answered
    _check_quota_of_origin(request.base_url)
    connection = _new_connection(message, request, workspace.id)
    connection.peer_id = peer_id
    db.session.add(connection)
    db.session.flush()
    receiving.keep_answer(connection.id, message, answered)
    show(connection)
    return answered


def check_request(connection_id: int) -> None:
    """Check a stranger's request against the document of the origin that it claims; then show or drop it.

    Safe to run twice: what is checked, or gone, is left alone. Commits; no transaction may be open.
    """
    connection = db.session.get(Connection, connection_id, populate_existing=True)
    if connection is None or connection.checked_at is not None or connection.request_evidence is None:
        return
    if connection.status is not ConnectionStatus.PENDING or connection.retry_at > clock.now_ms():
        return
    origin, evidence = connection.claimed_base_url or "", json.loads(connection.request_evidence)
    try:
        limits.check("documents", origin, per_minute=ORIGIN_PER_MINUTE)
        limits.check("documents", "all", per_minute=DOCUMENTS_PER_MINUTE)
    except RateLimited as problem:
        _check_later(connection_id, problem.retry_after_s * 1000)
        return
    db.session.rollback()
    try:
        fetched = peers.fetch_peer_document(origin)
        message = _verify_evidence(evidence, fetched)
    except RemoteUnreachable as error:
        _try_again_or_drop(connection_id, error.detail)
        return
    except (Problem, RemoteInvalid) as error:
        _drop(connection_id, error.detail)
        return
    _take_up(connection_id, message, fetched)


def check_due(limit: int = 50) -> int:
    """Have requests checked whose time has come; a job may have been lost. How many."""
    if queue.length(queue.STRANGERS) >= limit:
        # Their jobs are there, and only slow: adding them again and again would fill the queue.
        return 0
    due = db.session.scalars(
        sa.select(Connection.id)
        .where(
            Connection.checked_at.is_(None),
            Connection.status == ConnectionStatus.PENDING,
            Connection.retry_at <= clock.now_ms(),
        )
        .limit(limit)
    ).all()
    for connection_id in due:
        queue.enqueue(queue.CHECK_REQUEST, connection_id)
    return len(due)


def show(connection: Connection) -> None:
    """Let people see a request that was verified, inside the caller's transaction, and decide what needs
    none.

    A crossing request of ours decides by instanceId (§4); an open connection of the pair makes it a
    replacement; policy may accept it.
    """
    connection.checked_at = clock.now_ms()
    connection.request_evidence = None
    connection.failures = 0
    connection.retry_at = 0
    lifecycle.touch(connection)
    db.session.flush()
    # A request of our own is made under the same lock, so that one of the two sees the other.
    asking.lock_workspace(connection.workspace_id)
    connection = lifecycle.lock(connection.id)
    if _settle_crossing(connection):
        return
    connection.replaces_id = _open_of_same_pair(connection)
    if connection.peer is not None and connection.peer.base_url in settings().federation_auto_accept:
        _accept(connection)
    log.info(
        "connection.requested",
        extra={"connection_id": connection.id, "instance_id": connection.claimed_instance_id},
    )


def _settle_crossing(theirs: Connection) -> bool:
    """Decide between two requests for one pair (§4). True if nothing is left for a person."""
    mine = _crossing_of(theirs)
    if mine is None:
        return False
    local = identity.local_instance()
    waiting = mine.status is ConnectionStatus.REQUESTED
    if waiting and local.instance_id < (theirs.claimed_instance_id or ""):
        connections.begin_reject(theirs, "crossed")
        return True
    if waiting:
        lifecycle.end(mine, ConnectionStatus.EXPIRED, "crossed")
    # We asked for the same, so their request needs nobody's consent.
    mine.reason = "crossed by the other side's own request"
    theirs.workspace_id = mine.workspace_id
    theirs.replaces_id = mine.replaces_id
    db.session.flush()
    db.session.refresh(theirs)
    _accept(theirs)
    return True


def _accept(connection: Connection) -> None:
    """Accept without asking anybody. What we cannot accept waits for a person, who is told why on trying."""
    try:
        connections.begin_accept(connection)
    except Problem as problem:
        log.info("connection.not_accepted", extra={"connection_id": connection.id, "detail": problem.detail})


def _crossing_of(theirs: Connection) -> Connection | None:
    """Our own request to the same pair that still waits, or that was rejected as `crossed` before theirs
    came.
    """
    rows = db.session.scalars(
        sa.select(Connection)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Peer.instance_id == theirs.claimed_instance_id,
            Connection.id != theirs.id,
            Connection.direction == Direction.OUTGOING,
            sa.or_(
                Connection.status == ConnectionStatus.REQUESTED,
                sa.and_(
                    Connection.status == ConnectionStatus.REJECTED,
                    Connection.reason == "crossed",
                    Connection.closed_at > clock.now_ms() - lifecycle.ANSWER_LIFE_MS,
                ),
            ),
        )
        .order_by(Connection.id.desc())
    ).all()
    for mine in rows:
        to_mine = theirs.to_workspace is None or theirs.to_workspace == mine.workspace.slug
        if to_mine and asking.names_same_workspace(mine, theirs.remote_workspace_slug):
            return lifecycle.lock(mine.id)
    return None


def _open_of_same_pair(theirs: Connection) -> int | None:
    rows = db.session.scalars(
        sa.select(Connection)
        .join(Peer, Peer.id == Connection.peer_id)
        .where(
            Peer.instance_id == theirs.claimed_instance_id,
            Connection.workspace_id == theirs.workspace_id,
            Connection.id != theirs.id,
            Connection.status.in_(OPEN),
        )
        .order_by(Connection.id.desc())
    ).all()
    same = (c for c in rows if asking.names_same_workspace(c, theirs.remote_workspace_slug))
    return next((c.id for c in same), None)


def _find_stored(message: ControlMessage) -> Answered | None:
    """The answer that this very request got before, as far as a stranger can be told from another.

    It may have been checked since the door found its key unknown.
    """
    stored = db.session.execute(
        sa.select(ControlReceived, Connection.checked_at)
        .join(Connection, Connection.id == ControlReceived.connection_id)
        .where(
            ControlReceived.message_id == message.message_id,
            Connection.claimed_instance_id == message.instance_id,
            Connection.wire_connection_id == message.connection_id,
        )
        .order_by(Connection.id.desc())
    ).all()
    for answer, _checked_at in stored:
        if answer.digest == message.digest:
            return Answered(answer.status_code, answer.answer)
    if any(checked_at is None for _answer, checked_at in stored):
        raise MessageIdConflict(f"{message.message_id} was another control message")
    return None


def _new_connection(
    message: ControlMessage, request: wire.ConnectionRequest, workspace_id: int
) -> Connection:
    now_ms = clock.now_ms()
    return Connection(
        public_id=str(uuid.uuid4()),
        workspace_id=workspace_id,
        wire_connection_id=message.connection_id,
        direction=Direction.INCOMING,
        status=ConnectionStatus.PENDING,
        claimed_instance_id=message.instance_id,
        claimed_base_url=request.base_url,
        request_message_id=message.message_id,
        offer=json.dumps({"versions": request.versions, "features": request.features}),
        to_workspace=request.to_workspace,
        remote_workspace_slug=request.workspace_slug,
        remote_workspace_name=request.workspace_name,
        note=request.note,
        last_control_out=0,
        last_control_in=message.control_sequence,
        failures=0,
        retry_at=0,
        created_at=now_ms,
        updated_at=now_ms,
    )


def _check_quotas(base_url: str) -> None:
    waiting = sa.select(sa.func.count()).where(
        Connection.status == ConnectionStatus.PENDING, Connection.direction == Direction.INCOMING
    )
    if (db.session.scalar(waiting.where(Connection.checked_at.is_(None))) or 0) >= MAX_UNCHECKED:
        raise RateLimited("Too many requests wait here.", retry_after_s=60)
    if (db.session.scalar(waiting) or 0) >= MAX_WAITING:
        raise RateLimited("Too many requests wait here.", retry_after_s=60)
    _check_quota_of_origin(base_url)


def _check_quota_of_origin(base_url: str) -> None:
    """Withdrawing a request makes no room for the next: rows of what ended stay."""
    of_origin = sa.select(sa.func.count()).where(
        Connection.claimed_base_url == base_url,
        Connection.direction == Direction.INCOMING,
        Connection.activated_at.is_(None),
        Connection.created_at > clock.now_ms() - lifecycle.ANSWER_LIFE_MS,
    )
    if (db.session.scalar(of_origin) or 0) >= MAX_WAITING_PER_ORIGIN:
        raise RateLimited("Too many requests of this origin came lately.", retry_after_s=60)


def _workspace(slug: str | None) -> Workspace | None:
    named = Workspace.is_default if slug is None else Workspace.slug == slug
    return db.session.scalar(sa.select(Workspace).where(named))


def _is_myself(instance_id: str, base_url: str) -> bool:
    local = identity.local_instance()
    return instance_id == local.instance_id or base_url == local.base_url


def _verify_evidence(evidence: dict[str, Any], fetched: FetchedDocument) -> VerifiedControl:
    """The request as it came, both signatures checked against the document. Raises Problem."""
    body = evidence["body"].encode()
    signature = read_signature(
        [(name, value) for name, value in evidence["headers"]],
        method="POST",
        target_uri=evidence["target"],
        body=body,
        # Freshness was checked when it came.
        now_ms=evidence["at"],
    )
    message = parse_control(loads(body))
    record = fetched.document.find_key(signature.key_id)
    if (
        message.instance_id != fetched.document.instance_id
        or record is None
        or not may_sign_transport(record)
    ):
        raise AuthenticationFailed("the document does not have this key")
    signature.verify(load_public_key(record.public_key_pem))
    return verify_control(message, fetched.document.find_key(message.key_id))


def _take_up(connection_id: int, message: VerifiedControl, fetched: FetchedDocument) -> None:
    if peers.is_blocked(message.instance_id, fetched.document.base_url):
        _drop(connection_id, "blocked")
        return
    with transaction():
        connection = lifecycle.lock(connection_id)
        if connection.checked_at is not None:
            return
        peer = peers.pin(fetched)
        twin = db.session.scalar(
            sa.select(Connection.id).where(
                Connection.peer_id == peer.id,
                Connection.wire_connection_id == connection.wire_connection_id,
            )
        )
        if twin is not None:
            _delete(connection_id)
            return
        connection.peer_id = peer.id
        connection.clock_skew_ms = fetched.clock_skew_ms
        db.session.flush()
        show(connection)


def _try_again_or_drop(connection_id: int, detail: str) -> None:
    failures = db.session.scalar(sa.select(Connection.failures).where(Connection.id == connection_id)) or 0
    if failures + 1 >= MAX_CHECKS:
        _drop(connection_id, detail)
    else:
        _check_later(connection_id, retry_delay(failures, _rng), failures + 1)


def _check_later(connection_id: int, wait_ms: int, failures: int = 0) -> None:
    with transaction():
        db.session.execute(
            sa.update(Connection)
            .where(Connection.id == connection_id)
            .values(retry_at=clock.now_ms() + wait_ms, failures=failures)
        )


def _drop(connection_id: int, detail: str) -> None:
    """Without a word to the other side; our own log knows why."""
    with transaction():
        _delete(connection_id)
    log.info("connection.request_dropped", extra={"connection_id": connection_id, "detail": detail})


def _delete(connection_id: int) -> None:
    db.session.execute(sa.delete(ControlReceived).where(ControlReceived.connection_id == connection_id))
    db.session.execute(
        sa.delete(Connection).where(Connection.id == connection_id, Connection.checked_at.is_(None))
    )
