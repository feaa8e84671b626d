"""Differences: what the two lists of a small range say of each event, and what mends it.

kind              found by     what it is                                     what mends it
missing_there     publisher    acknowledged, but the peer has it no more      sent again
unacknowledged    publisher    the peer has what we think did not arrive      its signed word is the ack
missing_here      subscriber   the peer holds our ack for what we do not have a replay is asked for
not_acknowledged  subscriber   we have what the peer thinks did not arrive    the peer's own comparison
unknown_here      publisher    the peer has what we know nothing of           a person
different         both         two events under one number                    a person

What is under way is no difference: it is in one list and not yet, or no more, in the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.clock import now_ms
from app.database import db, table_of
from app.inbox import traces
from app.models import Connection, Delivery, Direction, Event, EventSignature, Stream
from app.outbox import acknowledge, dispatch
from app.outbox.epochs import current_counter
from app.outbox.rollup import sum_up
from app.protocol.comparison import Held
from app.protocol.states import ConnectionStatus, DeliveryState

#: A receiver refuses an event older than 8 days that it did not ask for (§7), ms; an hour for two clocks.
MAX_RESEND_AGE_MS = 8 * 86_400_000 - 3_600_000
#: As young as this an event may be stored there without its ack being written down here yet, ms.
UNDER_WAY_MS = 60_000

_DELIVERY = table_of(Delivery)
_EVENT = table_of(Event)
_FORMER = table_of(EventSignature)


class Difference(NamedTuple):
    """One event on which the two sides differ, and what was done about it (None: a person must look)."""

    sequence: int
    message_id: str
    kind: str
    repair: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "sequence": self.sequence,
            "messageId": self.message_id,
            "kind": self.kind,
            "repair": self.repair,
        }


class _Sent(NamedTuple):
    """A delivery of ours, as far as it is compared."""

    id: int
    event_id: int
    message_id: str
    digest: str
    state: DeliveryState
    sequence: int | None
    delivered_at: int | None
    timestamp: int


def of_sent(
    connection: Connection,
    stream: Stream,
    ours: Mapping[int, Held],
    theirs: Mapping[int, Held],
    began_ms: int,
    kept_ms: int,
) -> list[Difference]:
    """Compare what the peer holds with what it acknowledged, and mend what can be.

    ours, theirs: of the same range, by number. began_ms: when the comparison began; kept_ms: how long the
    peer keeps events. Called inside `transaction()` with the connection locked.
    """
    differing = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    meant = [side[number].message_id for number in differing for side in (ours, theirs) if number in side]
    known = _deliveries(connection.id, meant)
    former = _former_digests([sent.event_id for sent in known.values()])
    again: list[_Sent] = []
    arrived: list[_Sent] = []
    found: list[Difference] = []
    for number in differing:
        mine, their = ours.get(number), theirs.get(number)
        if their is None and mine is not None:
            sent = known.get(mine.message_id)
            if sent is None or not _is_settled(sent, began_ms, kept_ms):
                continue
            may_resend = (
                connection.status is ConnectionStatus.ACTIVE and sent.timestamp > now_ms() - MAX_RESEND_AGE_MS
            )
            if may_resend:
                again.append(sent)
            found.append(_difference(mine, "missing_there", "sent_again" if may_resend else None))
        elif their is not None and mine is not None and mine.message_id != their.message_id:
            found.append(_difference(their, "different", None))
        elif their is not None:
            sent = known.get(their.message_id)
            if sent is not None and their.digest in (sent.digest, *former.get(sent.event_id, ())):
                if sent.state is DeliveryState.DEAD or sent.state is DeliveryState.WITHDRAWN:
                    arrived.append(sent)
                    found.append(_difference(their, "unacknowledged", "acknowledged"))
                # Else it is under way, or acknowledged under another number or signature.
            else:
                found.append(
                    _difference(their, "unknown_here" if mine is None and sent is None else "different", None)
                )
    _send_again(connection, stream, again)
    acknowledge.mark_delivered([sent.id for sent in arrived], now_ms())
    sum_up([sent.event_id for sent in (*again, *arrived)])
    return found


def _is_settled(sent: _Sent, began_ms: int, kept_ms: int) -> bool:
    """Whether the peer must have it: acknowledged before the comparison began, and not too long ago."""
    return (
        sent.state is DeliveryState.DELIVERED
        and sent.delivered_at is not None
        and began_ms - kept_ms < sent.delivered_at < began_ms
    )


def _deliveries(connection_id: int, message_ids: Iterable[str]) -> dict[str, _Sent]:
    rows = db.session.connection().execute(
        sa.select(
            _DELIVERY.c.id,
            _DELIVERY.c.event_id,
            _EVENT.c.message_id,
            _EVENT.c.digest,
            _DELIVERY.c.state,
            _DELIVERY.c.sequence,
            _DELIVERY.c.delivered_at,
            _EVENT.c.timestamp,
        )
        .join_from(_DELIVERY, _EVENT, _EVENT.c.id == _DELIVERY.c.event_id)
        .where(
            _EVENT.c.message_id.in_(set(message_ids)),
            _EVENT.c.direction == Direction.OUTGOING,
            _DELIVERY.c.connection_id == connection_id,
        )
    )
    return {row.message_id: _Sent(*row) for row in rows}


def _former_digests(event_ids: Sequence[int]) -> dict[int, list[str]]:
    """What the digests of events were before they were signed again."""
    rows = db.session.connection().execute(
        sa.select(_FORMER.c.event_id, _FORMER.c.digest).where(_FORMER.c.event_id.in_(event_ids))
    )
    found: dict[int, list[str]] = {}
    for event_id, digest in rows:
        found.setdefault(event_id, []).append(digest)
    return found


def _send_again(connection: Connection, stream: Stream, again: Sequence[_Sent]) -> None:
    """Let them wait for the next drain, under the number that they have if its epoch is the current one."""
    if not again:
        return
    keeps = current_counter(connection.id).stream_id == stream.id
    anew = {} if keeps else {"sequence": None, "stream_id": None}
    db.session.connection().execute(
        sa.update(_DELIVERY)
        .where(_DELIVERY.c.id.in_([sent.id for sent in again]), _DELIVERY.c.state == DeliveryState.DELIVERED)
        .values(
            state=DeliveryState.PENDING,
            delivered_at=None,
            next_attempt_at=now_ms(),
            refusals=0,
            trigger="manual",
            **anew,
        )
    )
    dispatch.wake([connection.id])


def of_stored(
    connection: Connection, ours: Mapping[int, Held], theirs: Mapping[int, Held], began_ms: int
) -> list[Difference]:
    """Compare what came with what we acknowledged, as the peer holds it. What is missing is asked for later.

    ours, theirs: of the same range, by number. began_ms: when the comparison began.
    """
    differing = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    here = _here(connection.id, [theirs[n].message_id for n in differing if n in theirs])
    found: list[Difference] = []
    for number in differing:
        mine, their = ours.get(number), theirs.get(number)
        if their is None and mine is not None:
            if not _is_under_way(connection.id, mine.message_id, began_ms):
                found.append(_difference(mine, "not_acknowledged", None))
        elif their is not None and mine is not None:
            found.append(_difference(their, "different", None))
        elif their is not None and their.message_id not in here:
            found.append(_difference(their, "missing_here", None))
    return found


def _here(connection_id: int, message_ids: Sequence[str]) -> dict[str, str]:
    """The digests of those messages that are here, under whatever number."""
    rows = db.session.connection().execute(
        sa.select(_EVENT.c.message_id, _EVENT.c.digest).where(
            _EVENT.c.connection_id == connection_id, _EVENT.c.message_id.in_(message_ids)
        )
    )
    gone = traces.of_messages(connection_id, message_ids)
    return {row.message_id: row.digest for row in rows} | {trace.message_id: trace.digest for trace in gone}


def _is_under_way(connection_id: int, message_id: str, began_ms: int) -> bool:
    stored_at = db.session.scalar(
        sa.select(_EVENT.c.created_at).where(
            _EVENT.c.connection_id == connection_id, _EVENT.c.message_id == message_id
        )
    )
    return stored_at is not None and stored_at > began_ms - UNDER_WAY_MS


def _difference(held: Held, kind: str, repair: str | None) -> Difference:
    return Difference(held.sequence, held.message_id, kind, repair)
