"""Traces: knowing an event again whose text went by age.

Retention deletes what came long ago, but a peer may send it once more: a replay that somebody asks for
reaches as far back as the peer keeps events. So a row of a tenth of the size stays for each, with the id, the
number and the digest. A sender may have signed it again by another key meanwhile; what the digest would be
under the key of the first time tells whether it is the same.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from app.database import db, table_of
from app.models import Event, EventTrace
from app.protocol.canonical import canonical, loads
from app.protocol.messages import EventMessage
from app.protocol.signing import Kind, body_input, digest

#: Nothing that came less than this ago has gone by age: the shortest retention is a day. The rest is room for
#: a sender whose clock is ahead, ms.
MIN_AGE_MS = 86_400_000 - 600_000

_TRACE = table_of(EventTrace)
_EVENT = table_of(Event)


class Trace(NamedTuple):
    """What is left of an event."""

    message_id: str
    digest: str
    key_id: str
    stream_id: int | None
    sequence: int | None

    def is_of(self, event: EventMessage) -> bool:
        """Whether the event is the one that left this trace: equal in all but who signed it."""
        if event.digest == self.digest:
            return True
        first = canonical({**loads(event.body), "keyId": self.key_id})
        return digest(body_input(Kind.EVENT, first)) == self.digest


_COLUMNS = (_TRACE.c.message_id, _TRACE.c.digest, _TRACE.c.key_id, _TRACE.c.stream_id, _TRACE.c.sequence)


def of_messages(connection_id: int, message_ids: Sequence[str]) -> list[Trace]:
    """The traces of these messages that came over the connection."""
    found = db.session.connection().execute(
        sa.select(*_COLUMNS).where(
            _TRACE.c.connection_id == connection_id, _TRACE.c.message_id.in_(message_ids)
        )
    )
    return [Trace(*row) for row in found]


def of_numbers(stream_id: int, numbers: Sequence[int]) -> list[Trace]:
    """The traces of what came under these numbers of a stream."""
    found = db.session.connection().execute(
        sa.select(*_COLUMNS).where(_TRACE.c.stream_id == stream_id, _TRACE.c.sequence.in_(numbers))
    )
    return [Trace(*row) for row in found]


def leave(event_ids: Iterable[int], now_ms: int) -> None:
    """Write the traces of events that are about to be deleted. Called inside `transaction()`."""
    names = ["connection_id", "message_id", "digest", "key_id", "stream_id", "sequence", "gone_at"]
    db.session.connection().execute(
        sa.insert(_TRACE).from_select(
            names,
            sa.select(*(_EVENT.c[name] for name in names[:-1]), sa.literal(now_ms, sa.BigInteger)).where(
                _EVENT.c.id.in_(event_ids)
            ),
        )
    )
