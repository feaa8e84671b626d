"""Jobs about control messages: thin, safe to run twice."""

from app import queue
from app.federation import sending
from app.jobs.aside import may_wait


@may_wait
def send(connection_id: int) -> None:
    """Send what is due over a connection. Whoever finds the lease taken leaves."""
    # First of all: from now on a wake-up means new work, and must not be taken for this job.
    queue.controls_started(connection_id)
    sending.send_controls(connection_id)
