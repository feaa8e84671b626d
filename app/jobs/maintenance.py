"""Jobs that keep the house: the sweep, and what it finds that takes longer."""

import logging
from collections.abc import Callable

from app import queue
from app.database import db
from app.errors import RemoteError
from app.federation import connections, peers, receiving, requests, sending, subscriptions, told
from app.inbox import replays
from app.jobs.aside import may_wait, strangers_may_wait
from app.outbox import heartbeats, operations, replay, rescue
from app.reconciliation import run as reconciliation

log = logging.getLogger(__name__)

REFRESH_PEER = "app.jobs.maintenance.refresh_peer"


def sweep() -> None:
    """Find whatever is due or was left behind, and wake who does it. Safe to run twice; needs no Redis.

    A step that fails is logged and keeps no other from being done.
    """
    for step in STEPS:
        try:
            step()
        except Exception:
            db.session.rollback()
            log.exception("sweep.step_failed", extra={"step": f"{step.__module__}.{step.__name__}"})


@strangers_may_wait
def check_request(connection_id: int) -> None:
    """Check a stranger's request. Safe to run twice: what is checked, or gone, is left alone."""
    requests.check_request(connection_id)


@may_wait
def refresh_peer(peer_id: int) -> None:
    """Read a peer's document again, once a day. A peer that is away is asked again later."""
    try:
        peers.refresh(peer_id)
    except RemoteError as error:
        peers.note_unread(peer_id, error.detail)


def _refresh_peers() -> None:
    for peer_id in peers.due_for_refresh():
        queue.enqueue(REFRESH_PEER, peer_id)


def _tell_keys() -> None:
    told.tell(limit=200)


#: What a sweep looks for, in this order.
STEPS: tuple[Callable[[], object], ...] = (
    rescue.sweep,
    operations.wake_due,
    reconciliation.sweep,
    _tell_keys,
    sending.wake_due,
    replay.wake_due,
    replays.sweep,
    heartbeats.beat_due,
    requests.check_due,
    subscriptions.renew_due,
    subscriptions.expire_due,
    connections.expire_due,
    _refresh_peers,
    receiving.forget_old,
)
