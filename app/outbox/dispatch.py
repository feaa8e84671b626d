"""Dispatch: after the commit, wake the drains of the connections that got something to send.

Best effort. The rows are the truth: if Redis is away, the sweep finds them when it looks next.
"""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.database import db
from app.models import Connection
from app.queue import wake_drain

#: Where a session keeps {connection id: has failures} until its transaction ends.
_WAITING = "tidings_wake_drains"


def wake(connection_ids: Iterable[int]) -> None:
    """Wake the drains of these connections when the current transaction commits.

    Called inside `transaction()`; joins the outermost one. A rollback forgets them.
    """
    ids = sorted(set(connection_ids))
    if not ids:
        return
    rows = db.session.execute(sa.select(Connection.id, Connection.failures).where(Connection.id.in_(ids)))
    waiting = db.session().info.setdefault(_WAITING, {})
    waiting.update((connection_id, failures > 0) for connection_id, failures in rows)


@event.listens_for(db.session, "after_commit")
def _wake_now(session: Session) -> None:
    for connection_id, failing in session.info.pop(_WAITING, {}).items():
        wake_drain(connection_id, failing=failing)


@event.listens_for(db.session, "after_rollback")
def _forget(session: Session) -> None:
    session.info.pop(_WAITING, None)
