"""Calls: signed requests to the peer of a connection, around a change of our keys."""

from app.database import db
from app.federation import identity
from app.protocol.signing import Signer
from app.transport import peer_api
from app.transport.client import DEADLINE_S, Answer, Client


def post(
    client: Client,
    connection_id: int,
    signer: Signer,
    base_url: str,
    path: str,
    body: bytes,
    *,
    announcing: bool = False,
) -> Answer:
    """POST a message over a connection, with the transport signature of `signer` (`identity.signer_for`).

    A retired key makes no transport signatures, and another process may have activated a new key and told
    the peer while this request was under way. So what is refused as 401 goes once more if our key has
    changed. No transaction may be open. Raises TransportError.
    """
    answer = peer_api.send_signed(client, signer, base_url, path, body)
    if answer.status != 401:
        return answer
    newest = identity.signer_for(connection_id, fresh=True, announcing=announcing)
    db.session.rollback()
    if newest.key_id == signer.key_id:
        return answer
    left_s = max(1.0, DEADLINE_S - answer.duration_ms / 1000)
    return peer_api.send_signed(client, newest, base_url, path, body, deadline_s=left_s)
