"""Jobs about deliveries: thin, safe to run twice."""

from app import queue
from app.jobs.aside import may_wait
from app.outbox import deliver


@may_wait
def drain(connection_id: int) -> None:
    """Send the due deliveries of a connection for about a second. Safe to run twice."""
    # First of all: a wake-up from now on means work that this run may not see.
    queue.drain_started(connection_id)
    deliver.drain(connection_id)
