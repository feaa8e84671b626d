"""Jobs about operations: thin, safe to run twice."""

from app import queue
from app.outbox import operations


def work(operation_id: int) -> None:
    """Work an operation off for about a second. Whoever finds its lease taken leaves."""
    # First of all: a wake-up from now on means that it is to go on after this run.
    queue.operation_started(operation_id)
    operations.work(operation_id)
