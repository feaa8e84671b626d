"""Delivery jobs: one connection's due deliveries, or its waiting control messages. Ids in, a stage called."""

from app import queue
from app.federation import sending
from app.outbox import deliver


def drain(connection_id: int) -> None:
    """Send the due deliveries of a connection for about a second. Safe to run twice."""
    # First of all: a wake-up from now on means work that this run may not see.
    queue.drain_started(connection_id)
    deliver.drain(connection_id)


def send_controls(connection_id: int) -> None:
    """Send the waiting control messages of a connection, in order. Safe to run twice."""
    queue.controls_started(connection_id)
    sending.send_controls(connection_id)
