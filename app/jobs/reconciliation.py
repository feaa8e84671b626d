"""Jobs about comparisons: thin, safe to run twice."""

import logging

from app.models import Direction
from app.protocol.errors import Problem
from app.reconciliation import run

log = logging.getLogger(__name__)


def begin_due() -> None:
    """Find the streams that have to be compared, and have workers begin. Safe to run twice."""
    run.begin_due()


def begin(connection_id: int) -> None:
    """Compare what we send over a connection. Where a comparison runs already, nothing begins."""
    try:
        run.start(connection_id, Direction.OUTGOING, asked_by=run.BY_SCHEDULE)
    except Problem as problem:
        # It was suspended, or ended, since it was found.
        log.info("reconciliation.not_begun", extra={"connection_id": connection_id, "code": problem.code})
