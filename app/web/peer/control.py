"""Control messages of peers: `incoming/connection` and `incoming/subscription`."""

from flask import Blueprint, Response, g
from sqlalchemy.exc import IntegrityError

from app.database import db, transaction
from app.federation import receiving, requests
from app.federation.receiving import Answered
from app.models import Peer
from app.protocol.control import (
    CONNECTION_TYPES,
    SUBSCRIPTION_TYPES,
    ConnectionRequest,
    ControlMessage,
    ControlType,
    VerifiedControl,
    parse_control,
    verify_control,
)
from app.web.peer import door
from app.web.peer.door import Admitted

bp = Blueprint("peer_control", __name__, url_prefix="/api/v1/federation")


@bp.post("/incoming/connection")
def connection() -> Response:
    """A control message about the connection itself; a stranger's request among them."""
    admitted = door.admit(strangers=True)
    message = parse_control(admitted.value, CONNECTION_TYPES)
    if message.control_type is ControlType.CONNECTION_REQUEST:
        return _respond(_take_request(admitted, message))
    return _respond(_take(admitted, message))


@bp.post("/incoming/subscription")
def subscription() -> Response:
    """A control message about what flows over the connection."""
    admitted = door.admit()
    return _respond(_take(admitted, parse_control(admitted.value, SUBSCRIPTION_TYPES)))


def _take(admitted: Admitted, message: ControlMessage) -> Answered:
    door.check_sender(admitted.sender, message.instance_id)
    found = door.sender_connection(admitted.sender, message.connection_id)
    verified = door.verify_message(message, found, verify_control)
    door.charge(admitted.sender)
    with transaction():
        return receiving.receive(found.id, verified, g.get("request_id"))


def _take_request(admitted: Admitted, message: ControlMessage) -> Answered:
    """A request: of a connection that exists, of a peer whose keys are pinned, or of a stranger."""
    request = message.payload_as(ConnectionRequest)
    door.check_sender(admitted.sender, message.instance_id, request.base_url)
    if door.find_connection(admitted.sender, message.connection_id) is not None:
        return _take(admitted, message)
    peer = _pinned_peer(admitted, request.base_url)
    if peer is None:
        # One that moved is a stranger at its new address, even though its key is known.
        return requests.receive_stranger(message, admitted.evidence, door.network_of())
    verified = door.verify_of_peer(message, peer.id, verify_control)
    door.charge(admitted.sender)
    return _take_known(admitted, verified, peer.id)


def _take_known(admitted: Admitted, message: VerifiedControl, peer_id: int) -> Answered:
    try:
        with transaction():
            return requests.receive_known(message, peer_id)
    except IntegrityError:
        # The same message, sent twice at once: the other one was quicker.
        return _take(admitted, message)


def _pinned_peer(admitted: Admitted, base_url: str) -> Peer | None:
    """The peer whose key signed the request, if it is pinned at the address that it names."""
    for peer_id in admitted.sender.peer_ids:
        peer = db.session.get(Peer, peer_id)
        if peer is not None and peer.base_url == base_url:
            return peer
    return None


def _respond(answered: Answered) -> Response:
    kind = "application/problem+json" if answered.is_problem else "application/json"
    return Response(answered.body, answered.status_code, mimetype=kind, headers={"Cache-Control": "no-store"})
