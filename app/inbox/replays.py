"""Replays: which of them we asked for."""

import sqlalchemy as sa

from app.database import db
from app.federation.controls import payload_of
from app.models import ControlOut
from app.protocol.control import ControlType

#: Requests for a replay that are looked at, the newest first.
_MOST = 100


def was_asked_for(connection_id: int, replay_id: str) -> bool:
    """Whether we asked for this replay over this connection. Asked only about events that are too old."""
    requests = db.session.scalars(
        sa.select(ControlOut)
        .where(ControlOut.connection_id == connection_id, ControlOut.type == ControlType.REPLAY_REQUEST.value)
        .order_by(ControlOut.control_sequence.desc())
        .limit(_MOST)
    )
    return any(payload_of(request).get("replayId") == replay_id for request in requests)
