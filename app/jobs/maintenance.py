"""Jobs that keep the house: the sweep, and what it finds that takes longer."""

from app import queue
from app.database import transaction
from app.errors import RemoteError
from app.federation import connections, peers, receiving, requests, sending, subscriptions, told
from app.outbox import rescue

REFRESH_PEER = "app.jobs.maintenance.refresh_peer"


def sweep() -> None:
    """Find whatever is due or was left behind, and wake who does it. Safe to run twice; needs no Redis."""
    rescue.sweep()
    told.tell(limit=200)
    sending.wake_due()
    requests.check_due()
    subscriptions.renew_due()
    subscriptions.expire_due()
    connections.expire_due()
    for peer_id in peers.due_for_refresh():
        queue.enqueue(REFRESH_PEER, peer_id)
    with transaction():
        receiving.forget_old()


def check_request(connection_id: int) -> None:
    """Check a stranger's request. Safe to run twice: what is checked, or gone, is left alone."""
    requests.check_request(connection_id)


def refresh_peer(peer_id: int) -> None:
    """Read a peer's document again, once a day. A peer that is away is asked again later."""
    try:
        peers.refresh(peer_id)
    except RemoteError as error:
        peers.note_unread(peer_id, error.detail)
